"""A `DatasetSplit` built image by image, for formats other than COCO: all have the same checks, limits and notes.

A place is the file of an object, relative to the data folder, with its line or number: "labels/a.txt line 3".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sais.data.annotation_limits import crowding_problem, outline_problem, size_problem
from sais.data.annotations import Annotation, DatasetSplit, ImageRecord, Segmentation, rasterize_segmentation
from sais.data.exif_frame import in_stored_frame
from sais.data.formats import notes as kinds
from sais.data.formats.coco_document import read_categories
from sais.data.formats.coco_segmentation import read_segmentation
from sais.data.formats.notes import Notes
from sais.data.objects import UNKNOWN_CLASS
from sais.data.record_collector import RecordCollector
from sais.errors import InputError, OutOfMemoryError, SaisError
from sais.input_limits import MAX_STATED_SIDE
from sais.ops.rasterize import Polygons, inside
from sais.ops.rle import encode_cropped

Problems = dict[str, list[str]]
"""Kind of problem -> one error message for each entry refused."""
_ROUNDING = 0.01
"""Pixels by which a box may exceed the image without a note: files round."""
_COUNTED_PIXELS = 2**18
"""Area of a box in pixels up to which the area of polygons is counted by pixels."""


class SplitBuilder:
    """Images and objects as they are read.

    Args:
        folder: Folder of the data set, the start of error messages.
        class_names: C names of the data set; labels are positions in it.
        classes: A model's class names, which the labels of the split then follow; None for those of the data set.
        category_ids: C ids in ascending order; by default 1 to C.

    Raises:
        InputError: There are no classes, too many, or not those of the model.
    """

    def __init__(
        self,
        folder: Path,
        class_names: Sequence[str],
        classes: tuple[str, ...] | None = None,
        category_ids: Sequence[int] = (),
    ) -> None:
        self.folder = folder
        self.notes = Notes()
        ids = list(category_ids) or list(range(1, len(class_names) + 1))
        entries = [{"id": i, "name": name} for i, name in zip(ids, class_names, strict=True)]
        self._categories = read_categories(folder, {"categories": entries}, classes, self.notes)
        self._labels = [self._categories.labels[i] for i in ids]
        self._records = RecordCollector()
        self._objects: list[Annotation] = []
        self._count = 0
        self.size = (0, 0)
        """(H, W) of the image whose objects are added."""
        self.class_count = len(class_names)
        """Number C of classes of the data set."""

    def relative(self, path: Path) -> str:
        """Return a path as places and messages name it: relative to the data folder if it is inside."""
        return path.relative_to(self.folder).as_posix() if path.is_relative_to(self.folder) else str(path)

    def read_size(self, path: Path) -> tuple[int, int] | None:
        """Return (H, W) of an upright image file; None, with a problem recorded, if it cannot be read."""
        from sais.io.images import read_size

        try:
            return read_size(path)
        except OutOfMemoryError:
            raise
        except SaisError as error:
            self.notes.problem(kinds.BAD_IMAGE, str(error))
            return None

    def start_image(self, path: Path, frame: tuple[int, int] | Path | None = None) -> bool:
        """Start an image, whose objects are added next, up to `end_image`.

        Args:
            path: The image file.
            frame: (H, W) of its annotations, or an id map of this size; None for the size of the upright image. An id
                map with another size than the image has is reported when it is read.

        Returns:
            Whether the image is usable; if not, a problem is recorded and the next image can be started.
        """
        size = frame if isinstance(frame, tuple) else self.read_size(path)
        if size is None:
            return False
        if isinstance(frame, Path):
            size = _map_frame(path, size, frame)
        problem = size_problem(*size)
        if problem:
            self.notes.problem(kinds.BAD_IMAGE, f"{self.folder}: {self.relative(path)} {problem}.")
            return False
        self.size, self._path, self._objects = size, path, []
        return True

    def end_image(self, image_id: int | None = None) -> None:
        """Append the image with its objects; the id is its position plus 1 by default."""
        problem = crowding_problem(self._objects, self.size)
        if problem:
            self.notes.problem(kinds.CROWDED_IMAGE, f"{self.folder}: {self.relative(self._path)} {problem}.")
            self._objects = []
        image_id = len(self._records) + 1 if image_id is None else image_id
        self._records.append(ImageRecord(image_id, self._path, self.size, tuple(self._objects)))

    def add_polygons(self, place: str, label: int, parts: list[list[float]], crowd: bool = False) -> None:
        """Add an object of polygons.

        Args:
            place: Place of the object.
            label: Position in `class_names`.
            parts: Flat lists x1 y1 x2 y2 ... in image pixels.
            crowd: Whether it is a region of many objects.
        """
        try:
            segmentation, extent = read_segmentation(parts, self.size, str(self.folder), place, self.notes)
        except InputError:
            return  # recorded
        if segmentation is None:
            self.notes.add(kinds.NO_SHAPE, place)
            return
        assert isinstance(segmentation, list)
        if extent is None:
            points = np.concatenate([np.asarray(part).reshape(-1, 2) for part in segmentation])
            extent = (*points.min(0).tolist(), *points.max(0).tolist())
        self._add(place, label, extent, segmentation, crowd)

    def add_box(self, place: str, label: int, corners: Sequence[float], crowd: bool = False) -> None:
        """Add an object without a mask.

        Args:
            place: Place of the object.
            label: Position in `class_names`.
            corners: (4,) x1 y1 x2 y2 in image pixels.
            crowd: Whether it is a region of many objects.
        """
        if not all(abs(edge) <= MAX_STATED_SIDE for edge in corners):  # NaN is rejected as well
            text = f"{self.folder}: {place}: its box has an edge that is not a coordinate of an image. Correct it."
            self.notes.problem(kinds.BAD_BOX, text)
            return
        self._add(place, label, corners, None, crowd)

    def add_bitmap(self, place: str, label: int, bits: np.ndarray, x: int, y: int, crowd: bool = False) -> None:
        """Add an object of pixels, stored as RLE.

        Args:
            place: Place of the object.
            label: Position in `class_names`.
            bits: (h, w) bool, a crop of the image.
            x: Column of its left edge; the part outside the image is left out.
            y: Row of its top edge.
            crowd: Whether it is a region of many objects.
        """
        height, width = self.size
        inner = bits[max(0, -y) : max(0, height - y), max(0, -x) : max(0, width - x)]
        rows, columns = np.flatnonzero(inner.any(1)), np.flatnonzero(inner.any(0))
        if not len(rows):
            self.notes.add(kinds.OUTSIDE if bits.any() else kinds.NO_SHAPE, place)
            return
        if inner.shape != bits.shape:
            self.notes.add(kinds.CLIPPED, place)
        crop = inner[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        left, top = int(columns[0]) + max(0, x), int(rows[0]) + max(0, y)
        right, bottom = left + crop.shape[1], top + crop.shape[0]
        rle = encode_cropped(crop, left, top, self.size)
        self._add(place, label, (left, top, right, bottom), rle, crowd, float(np.count_nonzero(crop)))

    def fill_polygons(self, whole: np.ndarray, polygons: Sequence[np.ndarray], place: str) -> None:
        """Set the pixels inside polygons.

        Args:
            whole: (H, W) bool, a mask of the image.
            polygons: Polygons (P, 2) in image pixels.
            place: Place of the object.

        Raises:
            InputError: A polygon has too many points, or is far outside of the image.
        """
        height, width = self.size
        for part in polygons:
            problem = outline_problem([part.reshape(-1).tolist()], float(np.ptp(part, 0).sum()))
            if problem or np.abs(part).max() > 4 * max(self.size):
                raise InputError(f"{self.folder}: {place}: {problem or 'points far outside of the image. Correct it'}.")
            whole |= inside(Polygons((part,)), (0, 0, width, height))

    def build(self, name: str, problems: Problems | None) -> DatasetSplit:
        """Return the split.

        Args:
            name: Name of the split.
            problems: Takes the messages of what is refused; None raises an error for the first.

        Raises:
            InputError: Something is refused, or there are no images.
        """
        if problems is None:
            self.notes.raise_first()
        else:
            for kind, messages in self.notes.problems.items():
                problems.setdefault(kind, []).extend(messages)
        if not len(self._records):
            raise InputError(f"{self.folder}: split '{name}' has no images. Add images, or name another split.")
        return DatasetSplit(
            name,
            self._categories.class_names,
            self._categories.category_ids,
            self._records.finish(),
            dict(self.notes.counts),
            {kind: tuple(places) for kind, places in self.notes.examples.items()},
        )

    def _add(
        self,
        place: str,
        label: int,
        corners: Sequence[float],
        segmentation: Segmentation,
        crowd: bool,
        area: float | None = None,
    ) -> None:
        given = np.array(corners, np.float64)
        height, width = self.size
        box = given.clip(0.0, (width, height, width, height))
        if not (given[:2] < given[2:]).all():
            self.notes.add(kinds.NO_AREA, place)
            return
        if not (box[:2] < box[2:]).all():
            self.notes.add(kinds.OUTSIDE, place)
            return
        class_label = self._labels[label]
        if class_label is None:
            self.notes.add(UNKNOWN_CLASS, place)
            return
        if (np.abs(box - given) > _ROUNDING).any():
            self.notes.add(kinds.CLIPPED, place)
        if segmentation is None:
            self.notes.add(kinds.NO_MASK, place)
        self._count += 1
        area = _area(segmentation, box, place) if area is None else area
        annotation = Annotation(self._count, box.astype(np.float32), class_label, segmentation, crowd, area)
        self._objects.append(annotation)


def _map_frame(path: Path, size: tuple[int, int], id_map: Path) -> tuple[int, int]:
    """Return the size (H, W) of the frame that an id map is in: the upright image, or the pixels as they are stored."""
    from sais.io.decoding import open_image

    try:
        with open_image(id_map) as image:
            stated = (image.height, image.width)
    except OutOfMemoryError:
        raise
    except SaisError:  # reported when it is read
        return size
    return stated if in_stored_frame(size, stated, path) else size


def _area(segmentation: Segmentation, box: np.ndarray, place: str) -> float:
    """Return the area of polygons in a box (4,), or of the box: by pixels, and of large polygons as they enclose it."""
    x1, y1, x2, y2 = box.tolist()
    box_area = float((x2 - x1) * (y2 - y1))
    shape = None if segmentation is None else rasterize_segmentation(segmentation, None, place)
    if shape is None:
        return box_area
    if box_area <= _COUNTED_PIXELS:
        return float(inside(shape, (math.floor(x1), math.floor(y1), math.ceil(x2), math.ceil(y2))).sum())
    area = 0.0
    for part in segmentation or ():
        x, y = np.asarray(part, np.float64).reshape(-1, 2).T
        area += abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2
    return min(box_area, area)
