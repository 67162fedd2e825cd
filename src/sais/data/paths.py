"""Location of a training run's data: a folder with splits, a data set object, or explicit files."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sais.data.objects import is_object_name, select_classes
from sais.errors import InputError

if TYPE_CHECKING:
    from sais.data.annotations import DatasetSplit
    from sais.data.options import DataOptions


@dataclass(frozen=True)
class DataPaths:
    """A data set for training: `data` with its splits, or explicit annotation files and image folders.

    Raises:
        InputError: No data is given, an image folder is missing, or `data` does not exist.
    """

    data: Path | None = None
    """Folder of the data set, or module:attribute of a data set object."""
    train: str = "train"
    """Name of the training split."""
    valid: str = "valid"
    """Name of the validation split; an empty name means none."""
    train_annotations: Path | None = None
    """COCO JSON to train on, instead of a split of `data`."""
    train_images: Path | None = None
    """Folder of the images of `train_annotations`."""
    valid_annotations: Path | None = None
    """COCO JSON to validate on, instead of a split of `data`."""
    valid_images: Path | None = None
    """Folder of the images of `valid_annotations`."""
    classes: tuple[str, ...] = ()
    """Classes to use, merged ones as ``name=first+second`` (`sais.data.class_selection`); empty for all."""
    crowds_as_objects: bool = False
    """As in `DataOptions`."""
    merge_duplicate_images: bool = False
    """As in `DataOptions`."""
    format: str = "auto"
    """As in `DataOptions`."""
    outside_images: bool = False
    """As in `DataOptions`."""

    def __post_init__(self) -> None:
        if self.data is None and self.train_annotations is None:
            raise InputError("data: missing. Give the folder of a data set, or an annotation file and an image folder.")
        for split in ("train", "valid"):
            files = getattr(self, f"{split}_annotations"), getattr(self, f"{split}_images")
            if (files[0] is None) != (files[1] is None):
                missing = "images" if files[1] is None else "annotations"
                raise InputError(
                    f"data: {split}_{missing} is missing. Give the {split} annotations and images together."
                )
        if self.data is not None:
            object.__setattr__(self, "data", locate(self.data))
        object.__setattr__(self, "classes", tuple(self.classes))

    @property
    def name(self) -> str:
        """Short name of the data set, valid as a file name: of its folder, object (with . for :) or annotation file."""
        if self.train_annotations is not None:
            return self.train_annotations.stem
        assert self.data is not None
        return str(self.data).replace(":", ".") if is_object_name(self.data) else self.data.resolve().name

    @property
    def options(self) -> DataOptions:
        """The options of reading."""
        from sais.data.options import DataOptions

        return DataOptions(self.crowds_as_objects, self.merge_duplicate_images, self.format, self.outside_images)

    def read_train(self) -> DatasetSplit:
        """Read the training split.

        Raises:
            InputError: The split is missing or malformed.
        """
        from sais.data.class_selection import choose_classes
        from sais.data.formats import read_dataset, read_dataset_files

        if self.train_annotations is not None and self.train_images is not None:
            split = read_dataset_files(self.train_annotations, self.train_images, options=self.options)
        else:
            assert self.data is not None
            split = read_dataset(self.data, self.train, options=self.options)
        return choose_classes(split, self.classes)

    def read_valid(self, classes: tuple[str, ...] | None = None) -> DatasetSplit | None:
        """Read the validation split.

        Args:
            classes: Class names of the training split, which the labels then follow.

        Returns:
            The split; None if `valid` is empty, or if it has its default name and the data set has no such split.

        Raises:
            InputError: The split is missing or malformed.
        """
        from sais.data.class_selection import choose_classes, name_others
        from sais.data.formats import list_splits, read_dataset, read_dataset_files

        names = None if self.classes else classes  # chosen classes have names of their own
        if self.valid_annotations is not None and self.valid_images is not None:
            split = read_dataset_files(self.valid_annotations, self.valid_images, names, self.options)
        elif self.data is None or not self.valid or self._lacks_valid(list_splits(self.data, self.format)):
            return None
        else:
            split = read_dataset(self.data, self.valid, names, options=self.options)
        if not self.classes:
            return split
        chosen = self.classes if classes is None else name_others(self.classes, classes)
        split = choose_classes(split, chosen, allow_missing=True)
        return split if classes is None else select_classes(split, classes)

    def _lacks_valid(self, splits: list[str]) -> bool:
        """Return whether `valid` has its default name and the data set has no such split."""
        return self.valid == "valid" and not any(name.startswith("val") for name in splits)


def stored_fields(values: Any) -> dict[str, Any]:
    """Return the fields of `DataPaths` in `values`, parsed from the JSON of a log, without those of another type."""
    kinds: dict[str, tuple[type, Callable[[Any], Any]]] = {"str": (str, str), "bool": (bool, bool)}
    kinds |= {"Path | None": (str, Path), "tuple[str, ...]": (list, tuple)}
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(DataPaths) if isinstance(values, dict) else ():
        kind, convert = kinds[str(field.type)]
        value = values.get(field.name)
        texts = value if isinstance(value, list) else [value]
        valid = kind is bool or all(isinstance(text, str) and "\0" not in text for text in texts)
        foreign = field.name == "format" and ":" in str(value)  # code that only the user may name
        if isinstance(value, kind) and valid and not foreign:
            fields[field.name] = convert(value)
    return fields


def locate(data: Path) -> Path:
    """Return the folder `data`, or the folder of that name in the folder that the variable SAIS_DATA names.

    A name ``module:attribute`` of a data set object is returned unchanged.

    Raises:
        InputError: Neither folder exists.
    """
    if data.is_dir() or is_object_name(data):
        return data
    root = os.environ.get("SAIS_DATA")
    if root and not data.is_absolute() and (Path(root) / data).is_dir():
        return Path(root) / data
    if data.exists():
        raise InputError(
            f"{data}: a file, not the folder of a data set. Give its folder, or use it as annotation file."
        )
    searched = f", nor in SAIS_DATA={root}" if root else ""
    raise InputError(f"{data}: no such data folder{searched}. Check the path, or set SAIS_DATA to the parent folder.")
