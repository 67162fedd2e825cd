"""Images and objects of a large split as arrays, a fifth of the memory of Python objects.

The arrays are shared by forked processes, because reading them writes nothing, and can be mapped from a file
(`sais.data.formats.annotation_cache`), which every process on a machine shares. `PackedImages` is the sequence of the
images: each `ImageRecord` is created when it is accessed, and its annotations when they are.

Legend: I images, N objects in the order of the images, P polygons, V coordinates, J masks in another form.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, overload

import numpy as np

from sais.data.annotations import Annotation, ImageRecord, Segmentation
from sais.errors import InputError

MIN_PACKED = 50_000
"""Number of images and objects from which they remain arrays instead of Python objects."""
_TYPES: dict[str, tuple[type, tuple[int, ...]]] = {
    **dict.fromkeys(("image_ids", "path_ends", "object_ends", "ids", "first_parts"), (np.int64, ())),
    **dict.fromkeys(("json_ends", "polygon_ends"), (np.int64, ())),
    **dict.fromkeys(("labels", "part_counts"), (np.int32, ())),
    **dict.fromkeys(("areas", "polygon_coordinates"), (np.float64, ())),
    **dict.fromkeys(("crowds", "polygon_integers"), (np.bool_, ())),
    **dict.fromkeys(("path_bytes", "json_bytes"), (np.uint8, ())),
    "image_sizes": (np.int64, (2,)),
    "boxes": (np.float32, (4,)),
}
"""Types of the arrays in a file, and the lengths of their axes after the first."""
AS_JSON = -1
"""Value of `part_counts` of an object whose mask is stored as JSON text: RLE, and polygons that a reader changed."""


@dataclass(frozen=True, eq=False)
class PackedPolygons:
    """Polygons of many objects, exactly as a file states them."""

    ends: np.ndarray
    """(P,) int64 end of each polygon in `coordinates`."""
    coordinates: np.ndarray
    """(V,) float64 x1 y1 x2 y2 ... of all polygons."""
    integers: np.ndarray
    """(V,) bool, whether the file states an integer, such as 7 and not 7.0; (0,) if there is none."""

    def lists(self, first: int, count: int) -> list[list[float]]:
        """Return polygons as flat lists: `count` of them, beginning with number `first`."""
        ends = self.ends[max(0, first - 1) : first + count].tolist()
        if not first:
            ends.insert(0, 0)
        start = ends[0]
        values = self.coordinates[start : ends[-1]].tolist()
        if len(self.integers):
            for position in np.flatnonzero(self.integers[start : ends[-1]]).tolist():
                values[position] = int(values[position])
        if count == 1:
            return [values]
        return [values[ends[i] - start : ends[i + 1] - start] for i in range(count)]


@dataclass(frozen=True, eq=False)
class AnnotationTable:
    """The arrays."""

    image_ids: np.ndarray
    """(I,) int64."""
    image_sizes: np.ndarray
    """(I, 2) int64 height, width."""
    path_ends: np.ndarray
    """(I,) int64 end of each image's path in `path_bytes`."""
    path_bytes: np.ndarray
    """(.) uint8."""
    object_ends: np.ndarray
    """(I,) int64 end of each image's objects in the arrays of objects."""
    ids: np.ndarray
    """(N,) int64."""
    labels: np.ndarray
    """(N,) int32."""
    crowds: np.ndarray
    """(N,) bool."""
    areas: np.ndarray
    """(N,) float64."""
    boxes: np.ndarray
    """(N, 4) float32."""
    first_parts: np.ndarray
    """(N,) int64 number of the first polygon, or of the JSON text."""
    part_counts: np.ndarray
    """(N,) int32 number of polygons; 0 without a mask, `AS_JSON` for a JSON text."""
    json_ends: np.ndarray
    """(J,) int64 end of each text in `json_bytes`."""
    json_bytes: np.ndarray
    """(.) uint8."""
    polygons: PackedPolygons
    """Polygons, not in the order of the objects."""

    def arrays(self) -> dict[str, np.ndarray]:
        """Return all arrays by name, such as boxes (N, 4)."""
        own = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "polygons"}
        return own | {f"polygon_{field.name}": getattr(self.polygons, field.name) for field in fields(self.polygons)}

    @classmethod
    def from_arrays(cls, arrays: dict[str, np.ndarray]) -> AnnotationTable:
        """Return the table of `arrays`, by name, such as boxes (N, 4).

        Raises:
            KeyError: An array is missing.
            ValueError: The arrays contradict each other.
        """
        for name, (kind, columns) in _TYPES.items():
            if arrays[name].dtype != kind or arrays[name].shape[1:] != columns:
                raise ValueError(f"array {name}: type {arrays[name].dtype}, shape {arrays[name].shape}")
        polygons = PackedPolygons(*(arrays[f"polygon_{field.name}"] for field in fields(PackedPolygons)))
        own = {field.name: arrays[field.name] for field in fields(cls) if field.name != "polygons"}
        table = cls(**own, polygons=polygons)
        table._check()
        return table

    def _check(self) -> None:
        """Raise ValueError if an end or a number is beyond the array that it refers to."""
        objects, counts, firsts = len(self.ids), self.part_counts, self.first_parts
        ends = [
            (self.path_ends, len(self.path_bytes)),
            (self.object_ends, objects),
            (self.json_ends, len(self.json_bytes)),
            (self.polygons.ends, len(self.polygons.coordinates)),
        ]
        valid = all(np.all(np.diff(values, prepend=0) >= 0) and values[-1:].sum() == length for values, length in ends)
        valid &= len(self.path_ends) == len(self.object_ends) == len(self.image_ids) == len(self.image_sizes)
        valid &= all(
            len(rows) == objects for rows in (self.labels, self.crowds, self.areas, self.boxes, counts, firsts)
        )
        valid &= len(self.polygons.integers) in (0, len(self.polygons.coordinates))
        limits = np.where(counts == AS_JSON, len(self.json_ends), len(self.polygons.ends))
        lengths = np.where(counts == AS_JSON, 1, counts)
        if not (valid and np.all(counts >= AS_JSON) and np.all((firsts >= 0) & (firsts + lengths <= limits))):
            raise ValueError("arrays of different lengths")

    def object_range(self, image: int) -> tuple[int, int]:
        """Return the first object of an image, and the end of its objects."""
        return int(self.object_ends[image - 1]) if image else 0, int(self.object_ends[image])

    def path(self, image: int) -> Path:
        """Return the file of an image."""
        start = int(self.path_ends[image - 1]) if image else 0
        return Path(os.fsdecode(self.path_bytes[start : int(self.path_ends[image])].tobytes()))

    def annotations(self, start: int, end: int, parts: list[list[float]] | None = None) -> Iterator[Annotation]:
        """Create the annotations of objects `start` to `end`; `parts` are all polygons, if they are lists already."""
        rows = slice(start, end)
        boxes = np.array(self.boxes[rows])  # a copy: the arrays may be read-only
        columns = (self.ids, self.labels, self.crowds, self.areas, self.first_parts, self.part_counts)
        values = zip(boxes, *(column[rows].tolist() for column in columns), strict=True)
        for box, annotation_id, label, crowd, area, first, count in values:
            yield Annotation(annotation_id, box, label, self._segmentation(first, count, parts), crowd, area)

    def _segmentation(self, first: int, count: int, parts: list[list[float]] | None) -> Segmentation:
        if count > 0:
            return self.polygons.lists(first, count) if parts is None else parts[first : first + count]
        if not count:
            return None
        start = int(self.json_ends[first - 1]) if first else 0
        return json.loads(self.json_bytes[start : int(self.json_ends[first])].tobytes())

    def select(self, chosen: np.ndarray, labels: np.ndarray, crowds: np.ndarray) -> AnnotationTable:
        """Return a table with a part of the objects; the polygons are shared.

        Args:
            chosen: (N,) bool, which objects remain.
            labels: (N,) new labels.
            crowds: (N,) bool, new crowds.
        """
        counts = np.concatenate([[0], np.cumsum(chosen)])
        rows = {name: getattr(self, name)[chosen] for name in ("ids", "areas", "boxes", "first_parts", "part_counts")}
        rows |= {"labels": labels[chosen].astype(np.int32), "crowds": crowds[chosen]}
        return replace(self, **rows, object_ends=counts[self.object_ends])


class PackedAnnotations(Sequence[Annotation]):
    """The annotations of one image, created on access.

    Args:
        table: The arrays.
        start: First object.
        end: End of the objects.
    """

    def __init__(self, table: AnnotationTable, start: int, end: int) -> None:
        self._table, self._start, self._end = table, start, end

    def __len__(self) -> int:
        return self._end - self._start

    def __iter__(self) -> Iterator[Annotation]:
        return self._table.annotations(self._start, self._end)

    @overload
    def __getitem__(self, position: int) -> Annotation: ...
    @overload
    def __getitem__(self, position: slice) -> tuple[Annotation, ...]: ...
    def __getitem__(self, position: int | slice) -> Annotation | tuple[Annotation, ...]:
        return tuple(self)[position]

    def __reduce__(self) -> tuple[Any, ...]:
        return tuple, (tuple(self),)  # a copy in another process does not need the whole table


class PackedImages(Sequence[ImageRecord]):
    """The images of a split, created on access.

    Args:
        table: The arrays.
        with_annotations: Whether the records have their annotations; otherwise every record has none.
        file: File that the arrays are mapped from, from which another process maps them too; None if they are in
            memory.
    """

    def __init__(self, table: AnnotationTable, with_annotations: bool = True, file: Path | None = None) -> None:
        self.table = table
        self._with_annotations, self._file = with_annotations, file

    def __len__(self) -> int:
        return len(self.table.image_ids)

    def __iter__(self) -> Iterator[ImageRecord]:
        return (self._record(position) for position in range(len(self)))

    @overload
    def __getitem__(self, position: int) -> ImageRecord: ...
    @overload
    def __getitem__(self, position: slice) -> tuple[ImageRecord, ...]: ...
    def __getitem__(self, position: int | slice) -> ImageRecord | tuple[ImageRecord, ...]:
        positions = range(len(self))[position]
        return self._record(positions) if isinstance(positions, int) else tuple(map(self._record, positions))

    def _record(self, image: int) -> ImageRecord:
        start, end = self.table.object_range(image) if self._with_annotations else (0, 0)
        annotations = PackedAnnotations(self.table, start, end) if end > start else ()
        height, width = self.table.image_sizes[image].tolist()
        return ImageRecord(int(self.table.image_ids[image]), self.table.path(image), (height, width), annotations)

    def without_annotations(self) -> PackedImages:
        """Return the images without objects; the arrays are shared."""
        return PackedImages(self.table, False, self._file)

    def __reduce__(self) -> tuple[Any, ...]:
        if self._file is None:
            return PackedImages, (self.table, self._with_annotations)
        return map_images, (self._file, self._with_annotations)


def map_images(file: Path, with_annotations: bool = True) -> PackedImages:
    """Return the images of a file of the cache, in a process that receives its path from another.

    Args:
        file: File of `sais.io.array_file`.
        with_annotations: As for `PackedImages`.

    Raises:
        InputError: The file was removed or changed.
    """
    from sais.io.array_file import map_arrays

    try:
        return PackedImages(AnnotationTable.from_arrays(map_arrays(file, verify=False)[1]), with_annotations, file)
    except (OSError, ValueError, KeyError) as error:
        problem = "this file of the annotation cache was removed or changed while it was used"
        raise InputError(f"{file}: {problem}. Start again, or set SAIS_CACHE=off.") from error


def unpack_small(images: PackedImages, paths: Sequence[Path] = ()) -> Sequence[ImageRecord]:
    """Return images with all their annotations as Python objects, unless these would take much memory.

    Args:
        images: The images.
        paths: Their files, where they are known: creating a path takes longer than the rest of a record.
    """
    table = images.table
    if len(images) + len(table.ids) >= MIN_PACKED:
        return images
    parts = table.polygons.lists(0, len(table.polygons.ends))
    objects = tuple(table.annotations(0, len(table.ids), parts))
    ends = table.object_ends.tolist()
    files = paths or [table.path(image) for image in range(len(images))]
    columns = (table.image_ids.tolist(), files, table.image_sizes.tolist(), [0, *ends][:-1], ends)
    return tuple(
        ImageRecord(image_id, file, (height, width), objects[start:end])
        for image_id, file, (height, width), start, end in zip(*columns, strict=True)
    )


@dataclass(frozen=True, eq=False)
class ObjectColumns:
    """Properties of the N objects of a split, in the order of the images."""

    images: np.ndarray
    """(N,) int64 position of the image."""
    labels: np.ndarray
    """(N,) int64."""
    crowds: np.ndarray
    """(N,) bool."""
    outlined: np.ndarray
    """(N,) bool, whether there is a mask."""
    boxes: np.ndarray
    """(N, 4) float32."""
    areas: np.ndarray
    """(N,) float64."""


def object_columns(images: Sequence[ImageRecord]) -> ObjectColumns:
    """Return properties of all objects without creating each of them, where the images are packed.

    Args:
        images: `DatasetSplit.images`.
    """
    if isinstance(images, PackedImages):
        table = images.table
        positions = np.repeat(np.arange(len(images)), np.diff(table.object_ends, prepend=0))
        return ObjectColumns(
            positions, table.labels.astype(np.int64), table.crowds, table.part_counts != 0, table.boxes, table.areas
        )
    pairs = [(position, a) for position, record in enumerate(images) for a in record.annotations]
    return ObjectColumns(
        np.array([position for position, _ in pairs], np.int64),
        np.array([a.label for _, a in pairs], np.int64),
        np.array([a.crowd for _, a in pairs], bool),
        np.array([a.segmentation is not None for _, a in pairs], bool),
        np.array([a.box for _, a in pairs], np.float32).reshape(-1, 4),
        np.array([a.area for _, a in pairs], np.float64),
    )


def image_sizes(images: Sequence[ImageRecord]) -> np.ndarray:
    """Return the stated sizes (I, 2) int64 height, width of images."""
    if isinstance(images, PackedImages):
        return images.table.image_sizes
    return np.array([record.size for record in images], np.int64).reshape(-1, 2)


def relabel(images: Sequence[ImageRecord], new_labels: Sequence[int | None]) -> Sequence[ImageRecord]:
    """Return images whose objects have new labels.

    Args:
        images: `DatasetSplit.images`.
        new_labels: New label of each label; None drops the objects.
    """
    if isinstance(images, PackedImages):
        table = images.table
        labels = np.array([-1 if label is None else label for label in new_labels], np.int64)[table.labels]
        return PackedImages(table.select(labels >= 0, labels, table.crowds))
    return tuple(replace(record, annotations=tuple(_relabeled(record, new_labels))) for record in images)


def _relabeled(record: ImageRecord, new_labels: Sequence[int | None]) -> Iterator[Annotation]:
    for annotation in record.annotations:
        label = new_labels[annotation.label]
        if label is not None:
            yield annotation if label == annotation.label else replace(annotation, label=label)
