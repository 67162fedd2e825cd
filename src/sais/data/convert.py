"""Conversion of a data set to the files of another format: `sais.convert` and `sais convert`."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sais.data.annotations import Annotation, DatasetSplit, ImageRecord, object_mask
from sais.data.class_selection import choose_classes
from sais.data.formats import FORMATS, list_splits, read_dataset, read_dataset_files
from sais.data.formats.coco_document import GZIP, read_json
from sais.data.label_folder import ImageMode, LabelFolder, unique_stems
from sais.data.objects import is_object_name
from sais.data.options import DataOptions
from sais.data.packed_annotations import object_columns
from sais.data.stratified_draw import draw_images
from sais.data.writers import DatasetInfo, LabeledImage, open_writer
from sais.errors import InputError, OutOfMemoryError, SaisError
from sais.io.regular_file import read_regular_file
from sais.ops.rasterize import CutMask
from sais.results import not_written as kinds
from sais.results.labeled_object import LabeledObject

_DEFAULTS = DataOptions()


@dataclass
class ConvertedSplit:
    """What was written of a split."""

    name: str
    """Name of the split."""
    images: int = 0
    """Number of images written."""
    objects: int = 0
    """Number of their objects in the data set, crowd regions included."""
    images_left_out: int = 0
    """Number of images of the data set that were not written."""
    objects_left_out: int = 0
    """Number of objects, of `objects`, that the format cannot hold."""
    notes: Counter[str] = field(default_factory=Counter)
    """What the format cannot hold or holds in another form, and how often."""
    read_notes: dict[str, int] = field(default_factory=dict)
    """What was dropped or changed while reading, and how often."""


def convert(
    data: Path | str,
    out: Path | str,
    to: str,
    *,
    splits: Sequence[str] = (),
    images: ImageMode = "copy",
    image_folder: Path | str | None = None,
    options: DataOptions = _DEFAULTS,
    classes: Sequence[str] = (),
    max_images: int | None = None,
    seed: int = 0,
    tolerance: float = 0.0,
    overwrite: bool = False,
    start: Callable[[int], Callable[[int], None]] = lambda total: lambda count: None,
) -> list[ConvertedSplit]:
    """Convert a data set to another format.

    Args:
        data: Folder of the data set, COCO file (also of predictions), or ``module:attribute`` of a data set object.
        out: Folder to write to.
        to: Format: a row of `sais.data.writers.WRITERS`, such as "yolo".
        splits: Names of the splits; by default all.
        images: "copy", "link" for hard links (copies where these are not possible), or "none" for labels only.
        image_folder: Folder of the images where `data` is a COCO file; by default that of the file.
        options: How the data set is read.
        classes: Classes to write, as for `sais.data.class_selection.choose_classes`; empty for all.
        max_images: Maximum number of images of each split, whose classes keep their shares; None for all.
        seed: Seed of the draw.
        tolerance: Pixels by which polygons may deviate from the masks, to have fewer points; 0 for exact ones.
        overwrite: Whether files of others are replaced; files of an earlier conversion always are.
        start: Function called with the number of images; what it returns is called with the number written since then.

    Returns:
        What was written of each split.

    Raises:
        ConfigError: The format is unknown.
        InputError: The data set cannot be read, the format cannot hold it, or a file would replace one of others.
        ResourceError: A file cannot be written.
    """
    out = Path(out)
    sources = [choose_classes(split, classes) for split in _read(data, splits, image_folder, options)]
    counts = {split.name: len(split.images) for split in sources}
    sources = [draw_images(split, max_images, seed) for split in sources]
    _check_folder(data, sources[0], out, to)
    results = write_splits(
        sources,
        out,
        to,
        inputs=_files(data, out),
        images=images,
        tolerance=tolerance,
        overwrite=overwrite,
        scores=_read_scores(data),
        start=start,
    )
    for result in results:
        result.images_left_out = counts[result.name] - result.images
    return results


def write_splits(
    splits: Sequence[DatasetSplit],
    out: Path,
    to: str,
    *,
    inputs: Iterable[Path] = (),
    images: ImageMode = "copy",
    tolerance: float = 0.0,
    overwrite: bool = False,
    scores: Mapping[int, float] | None = None,
    start: Callable[[int], Callable[[int], None]] = lambda total: lambda count: None,
) -> list[ConvertedSplit]:
    """Write splits in a format.

    Args:
        splits: The splits; all have the same classes (`with_same_classes`).
        out: Folder to write to.
        to: As for `convert`.
        inputs: Files that are read, in addition to the images.
        images: As for `convert`.
        tolerance: As for `convert`.
        overwrite: As for `convert`.
        scores: Scores of predictions by annotation id.
        start: As for `convert`.

    Returns:
        What was written of each split.

    Raises:
        ConfigError: The format is unknown.
        InputError: The format cannot hold the splits, or a file would replace one that is read or one of others.
        ResourceError: A file cannot be written.
    """
    folder = LabelFolder(out, open_writer(to, _describe(splits, tolerance)), images)
    planned = _plan(splits, folder.shares_images)
    files = ((split.name, stem, _source_file(record)) for split, stem, record in planned)
    folder.check(files, inputs, overwrite)
    advance = start(len(planned))
    results = {split.name: ConvertedSplit(split.name, read_notes=dict(split.notes)) for split in splits}
    with folder:
        for split, stem, record in planned:
            result = results[split.name]
            folder.notes = result.notes
            if _add_image(folder, split, stem, record, scores or {}):
                result.images += 1
                result.objects += len(record.annotations)
            advance(1)
        folder.finish()
    for result in results.values():
        result.notes = +result.notes  # without zeros
        result.objects_left_out = sum(count for kind, count in result.notes.items() if kind in kinds.LEFT_OUT)
    return list(results.values())


def _check_folder(data: Path | str, split: DatasetSplit, out: Path, to: str) -> None:
    """Raise InputError if labels in `out` would become labels of the data set that is read."""
    if is_object_name(data):
        return
    if out.exists() and Path(data).exists() and os.path.samefile(data, out):
        raise InputError(f"{out}: the folder of the data set that is read. Choose another output folder.")
    # LabelMe files are read in subfolders as well.
    is_labelme = split.origin.startswith(FORMATS["labelme"].title)
    if to == "labelme" and is_labelme and out.resolve().is_relative_to(Path(data).resolve()):
        raise InputError(f"{out}: inside of {data}, whose labels it would add to. Choose another output folder.")


def _plan(splits: Sequence[DatasetSplit], shared: bool) -> list[tuple[DatasetSplit, str, ImageRecord]]:
    """Return each image with its split and its name, which is unique in the split, or where `shared` in all splits."""
    rows = [(split, record) for split in splits for record in split.images]
    groups = [rows] if shared else [[row for row in rows if row[0] is split] for split in splits]
    return [
        (split, stem, record)
        for group in groups
        for (split, record), stem in zip(
            group, unique_stems([_named(record) for _, record in group], not shared), strict=True
        )
    ]


def _source_file(record: ImageRecord) -> Path | None:
    return record.source if isinstance(record.source, Path) else None


def _read(
    data: Path | str, names: Sequence[str], image_folder: Path | str | None, options: DataOptions
) -> list[DatasetSplit]:
    """Return the splits; all have the same classes."""
    if not is_object_name(data) and Path(data).is_file():
        return [read_dataset_files(data, image_folder or Path(data).parent, None, options)]
    splits = [read_dataset(data, name, options=options) for name in names or list_splits(data)]
    if not splits:
        read_dataset(data, "train", options=options)  # raises an error that states what was searched
    return with_same_classes(splits)


def with_same_classes(splits: Sequence[DatasetSplit]) -> list[DatasetSplit]:
    """Return splits whose labels are positions in the same class names: those of the first, then those of the others.

    Args:
        splits: At least one split.
    """
    first = splits[0]
    if all(split.class_names == first.class_names for split in splits):
        return list(splits)
    ids: dict[str, int] = {}
    for split in splits:
        for name, number in zip(split.class_names, split.category_ids, strict=True):
            ids.setdefault(name, number)
    unique = len(set(ids.values())) == len(ids)
    category_ids = tuple(ids.values()) if unique else ()
    return [_with_classes(split, tuple(ids), category_ids) for split in splits]


def _with_classes(split: DatasetSplit, names: tuple[str, ...], category_ids: tuple[int, ...]) -> DatasetSplit:
    """Return a split whose labels are positions in `names`, which contain its class names."""
    import dataclasses

    labels = [names.index(name) for name in split.class_names]
    images = tuple(
        dataclasses.replace(
            record, annotations=tuple(dataclasses.replace(a, label=labels[a.label]) for a in record.annotations)
        )
        for record in split.images
    )
    return dataclasses.replace(split, class_names=names, category_ids=category_ids, images=images)


def _read_scores(data: Path | str) -> dict[int, float]:
    """Return the scores of a COCO file of predictions by annotation id; none for data sets."""
    if is_object_name(data) or not Path(data).is_file():
        return {}
    content = read_regular_file(Path(data), "annotation file")
    if b'"score"' not in content and not content.startswith(GZIP):
        return {}
    pairs = [(entry.get("id"), entry.get("score")) for entry in read_json(Path(data)).get("annotations", ())]
    return {i: float(score) for i, score in pairs if isinstance(i, int) and isinstance(score, (int, float))}


def _describe(splits: Sequence[DatasetSplit], tolerance: float) -> DatasetInfo:
    columns = [object_columns(split.images) for split in splits]
    pairs = [c.images * len(splits[0].class_names) + c.labels for c in columns]
    counts = [int(np.unique(values, return_counts=True)[1].max(initial=0)) for values in pairs]
    return DatasetInfo(
        splits[0].class_names,
        splits[0].category_ids,
        tuple(split.name for split in splits),
        boxes_only=not any(c.outlined.any() for c in columns),
        crowds=any(bool(c.crowds.any()) for c in columns),
        max_objects=max(counts, default=0),
        tolerance=tolerance,
    )


def _named(record: ImageRecord) -> tuple[Path | str, str]:
    """Return the file of an image and its name."""
    source = _source_file(record)
    return ("", f"image_{record.id}.png") if source is None else (source, source.name)


def _files(data: Path | str, out: Path) -> Iterable[Path]:
    """Yield the files of a data set, without those of an output folder inside."""
    if is_object_name(data):
        return
    excluded = os.path.abspath(out)
    for place, folders, files in os.walk(data):
        folders[:] = [name for name in folders if os.path.abspath(os.path.join(place, name)) != excluded]
        yield from (Path(place, file) for file in files)
    if Path(data).is_file():
        yield Path(data)


def _add_image(
    folder: LabelFolder, split: DatasetSplit, stem: str, record: ImageRecord, scores: Mapping[int, float]
) -> bool:
    """Write an image and its labels; return False, and count it, if the image is missing or cannot be read."""
    from sais.data.exif_frame import file_orientation

    source = _source_file(record)
    pixels = None
    if folder.images != "none":
        try:
            if source is not None and not source.is_file():
                raise InputError(f"{source}: no such image. Check the path.")
            # Not all programs turn images.
            if source is None or folder.needs_png(split.name, stem, source) or file_orientation(source) != 1:
                pixels = record.read()
        except OutOfMemoryError:
            raise
        except SaisError:
            folder.notes[kinds.NO_IMAGE] += 1
            return False
    file = folder.place_image(split.name, stem, source, pixels)
    objects = tuple(labeled_object(a, record, split.class_names, scores.get(a.id)) for a in record.annotations)
    folder.add(LabeledImage(split.name, stem, file, record.size, objects))
    return True


def labeled_object(
    annotation: Annotation, record: ImageRecord, class_names: Sequence[str], score: float | None = None
) -> LabeledObject:
    """Return an annotation as writers take it.

    Args:
        annotation: An annotation of `record`.
        record: The image.
        class_names: C names, label 0 first.
        score: Score of a prediction, 0 to 1.

    Raises:
        InputError: The mask is malformed.
    """
    shape = object_mask(annotation, record.size)
    assert not isinstance(shape, CutMask)
    name = class_names[annotation.label]
    return LabeledObject(name, annotation.label, annotation.box, shape, annotation.crowd, score, annotation.area)
