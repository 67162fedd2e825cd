"""Data sets on disk: the table of formats, and the folder layouts in which each is found.

The layouts of a format are in its file with `list_splits` and `read_split`; those of COCO are in `coco_layouts`.
To add a format, add a row to `FORMATS` with a reader in a file of this folder. Without a change here,
``module:function`` names a reader of your own: (folder, split name) -> `DatasetSplit`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from sais.data.annotations import DatasetSplit
from sais.data.formats.coco import Problems, read_coco
from sais.data.formats.coco_layouts import list_coco_splits, read_coco_split
from sais.data.formats.image_sizes import trust_file_sizes
from sais.data.formats.notes import NO_MASK
from sais.data.formats.unsplit import describe_remedy
from sais.data.objects import is_object_name, open_object, select_classes
from sais.data.options import DataOptions, apply_options
from sais.errors import InputError
from sais.resolve import resolve

_SYNONYMS = {"valid": "val", "val": "valid"}
_MAX_NAME = 200
"""Length of a split's name in letters; file systems allow 255 bytes with what is added."""
_DEFAULTS = DataOptions()
_OWN_SPLITS = ("train", "valid")
"""Splits that a reader of your own is asked for."""

ClassNames = tuple[str, ...] | None
Reader = Callable[[Path, str, ClassNames, list[str], Problems | None], DatasetSplit | None]


@dataclass(frozen=True)
class Format:
    """A format: how its splits are found in a folder and read."""

    read: Reader
    """(folder, split, class names, searched, problems) -> the split; None if it is absent, with the places searched
    appended. Malformed entries are left out and added to `problems`, or raise an error where that is None."""
    list_splits: Callable[[Path], list[str]]
    """Names of the splits of this format in a folder."""
    title: str = ""
    """Name of the format in messages."""
    read_anywhere: Reader | None = None
    """Reader that also reads images outside of the folder, where labels name them; None if the format has none."""


def read_dataset(
    data: Path | str,
    split: str,
    classes: ClassNames = None,
    format: str = "auto",
    options: DataOptions = _DEFAULTS,
    problems: Problems | None = None,
) -> DatasetSplit:
    """Read one split of a data set.

    Args:
        data: Folder of the data set, or ``module:attribute`` of a data set object (`sais.data.objects`).
        split: Name of the split; val and valid are synonyms, and train finds instances_train2017.json.
        classes: A model's class names, which the labels then follow; None for the data set's own classes.
        format: Row of `FORMATS`, ``module:function`` of a reader (folder, split name) -> `DatasetSplit`, or "auto" for
            that of `options`.
        options: How crowds, images that are listed more than once, and images outside of the folder are read.
        problems: Takes the error messages of all malformed entries by kind, and the entries are left out; None raises
            an error.

    Raises:
        InputError: The split is not found, or its annotations are malformed.
        ConfigError: The format is unknown.
    """
    if is_object_name(data):
        return apply_options(_object_split(str(data), split, classes), options)
    folder = Path(data)
    if not folder.is_dir():
        raise InputError(f"{folder}: no such data folder. Check the path.")
    _check_name(folder, split)
    format = options.format if format == "auto" else format
    rows: list[Any] = [resolve(format, FORMATS, "format")] if format != "auto" else _find_formats(folder)
    searched: list[str] = []
    for row in rows:
        if not isinstance(row, Format):
            dataset_split = row(folder, split)
            from sais.data.split_checks import check_split

            check_split(dataset_split)
            dataset_split = dataset_split if classes is None else select_classes(dataset_split, classes)
            return apply_options(dataset_split, options)
        read = row.read_anywhere if options.outside_images and row.read_anywhere else row.read
        dataset_split = read(folder, split, classes, searched, problems)
        if dataset_split is not None:
            return apply_options(replace(dataset_split, origin=_describe(row, folder, dataset_split)), options)
    remedy = describe_remedy(folder, list_splits(folder, format), split)
    places = searched if len(searched) <= 3 else [*searched[:2], f"{len(searched) - 2} other places"]
    raise InputError(f"{folder}: no annotations of split '{split}' in {' or '.join(places)}. {remedy}")


def read_dataset_files(
    annotations: Path | str,
    images: Path | str,
    classes: ClassNames = None,
    options: DataOptions = _DEFAULTS,
    problems: Problems | None = None,
) -> DatasetSplit:
    """Read the split of one annotation file and one image folder.

    Args:
        annotations: COCO JSON.
        images: Folder of the images.
        classes: As for `read_dataset`.
        options: As for `read_dataset`.
        problems: As for `read_dataset`.

    Raises:
        InputError: As for `read_coco`.
    """
    root = None if options.outside_images else Path(images)
    dataset_split = read_coco(Path(annotations), Path(images), classes, problems, root)
    return apply_options(trust_file_sizes(dataset_split), options)


def list_splits(data: Path | str, format: str = "auto") -> list[str]:
    """Return the names of the splits of a data set, as `read_dataset` accepts them: train, valid, then the others.

    Args:
        data: As for `read_dataset`.
        format: As for `read_dataset`; "auto" for the first format with splits in the folder.
    """
    names: set[str] = set()
    if is_object_name(data):
        names = set(open_object(str(data)))
    else:
        for row in FORMATS.values() if format == "auto" else [resolve(format, FORMATS, "format")]:
            names = names or set(row.list_splits(Path(data)) if isinstance(row, Format) else _OWN_SPLITS)
    return sorted(names, key=lambda name: (not name.startswith("train"), not name.startswith("val"), name))


def _find_formats(folder: Path) -> list[Format]:
    """Return the first format with splits in a folder, or all formats if none has any."""
    found = next((row for row in FORMATS.values() if row.list_splits(folder)), None)
    return list(FORMATS.values()) if found is None else [found]


def _describe(row: Format, folder: Path, split: DatasetSplit) -> str:
    """Return the format that was found with its numbers of splits and classes."""
    count = max(1, len(row.list_splits(folder)))
    splits, classes = "split" if count == 1 else "splits", "class" if len(split.class_names) == 1 else "classes"
    outlined = (a.segmentation is not None for record in split.images for a in record.annotations)
    boxes = ", boxes without masks" if NO_MASK in split.notes and not any(outlined) else ""
    return f"{row.title}, {count} {splits}, {len(split.class_names)} {classes}{boxes}"


def _object_split(data: str, split: str, classes: ClassNames) -> DatasetSplit:
    splits = open_object(data)
    dataset_split = splits.get(split) or splits.get(_SYNONYMS.get(split, split))
    if dataset_split is None:
        raise InputError(f"{data}: no split '{split}'. Available splits: {', '.join(splits)}.")
    return dataset_split if classes is None else select_classes(dataset_split, classes)


def _check_name(folder: Path, split: str) -> None:
    """Raise InputError for a name that is no part of a path below `folder`."""
    path = Path(split)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in split or len(split) > _MAX_NAME:
        raise InputError(f"{folder}: split {split[:100]!r}: not the name of a split. Give a name, such as train.")


def _lazy(module: str, title: str) -> Format:
    """Return the row of a format whose module is imported when it is needed."""

    def read(
        folder: Path, split: str, classes: ClassNames, searched: list[str], problems: Problems | None
    ) -> DatasetSplit | None:
        reader: Reader = importlib.import_module(module).read_split
        return reader(folder, split, classes, searched, problems)

    def list_names(folder: Path) -> list[str]:
        names: list[str] = importlib.import_module(module).list_splits(folder)
        return names

    return Format(read, list_names, title)


FORMATS: dict[str, Format] = {
    "datumaro": _lazy("sais.data.formats.datumaro", "Datumaro"),
    "coco": Format(read_coco_split, list_coco_splits, "COCO", partial(read_coco_split, outside_images=True)),
    "yolo": _lazy("sais.data.formats.yolo", "YOLO segmentation"),
    "labelme": _lazy("sais.data.formats.labelme", "LabelMe"),
    "voc": _lazy("sais.data.formats.voc", "Pascal VOC"),
    "cityscapes": _lazy("sais.data.formats.cityscapes", "Cityscapes"),
    "panoptic": _lazy("sais.data.formats.panoptic", "COCO panoptic"),
    "masks": _lazy("sais.data.formats.masks", "masks as images"),
}
"""The formats by name, in the order in which they are tried."""
