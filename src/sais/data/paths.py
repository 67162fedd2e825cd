"""Where a training run's images and annotations lie: a folder with splits, or explicit files."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sais.errors import SaisError

if TYPE_CHECKING:
    from sais.data.annotations import DatasetSplit


@dataclass(frozen=True)
class DataPaths:
    """A data set for training: `data` with its splits, or explicit annotation files and image folders."""

    data: Path | None = None
    """Folder of the data set."""
    train: str = "train"
    """Name of the training split."""
    valid: str = "valid"
    """Name of the validation split; an empty one means none."""
    train_annotations: Path | None = None
    """COCO JSON to train on, instead of a split of `data`."""
    train_images: Path | None = None
    """Folder of the images of `train_annotations`."""
    valid_annotations: Path | None = None
    """COCO JSON to validate on, instead of a split of `data`."""
    valid_images: Path | None = None
    """Folder of the images of `valid_annotations`."""

    def __post_init__(self) -> None:
        if self.data is None and self.train_annotations is None:
            raise SaisError("no data: give --data DIR, or --train-annotations FILE and --train-images DIR")
        for split in ("train", "valid"):
            files = getattr(self, f"{split}_annotations"), getattr(self, f"{split}_images")
            if (files[0] is None) != (files[1] is None):
                raise SaisError(f"--{split}-annotations FILE and --{split}-images DIR go together: one is missing")
        if self.data is not None:
            object.__setattr__(self, "data", locate(self.data))

    @property
    def name(self) -> str:
        """A short name for the data set: its folder's, or its annotation file's."""
        if self.train_annotations is not None:
            return self.train_annotations.stem
        assert self.data is not None
        return self.data.resolve().name

    def train_index(self) -> DatasetSplit:
        """The training split. Raises SaisError where it is missing or not what it should be."""
        from sais.data.formats import read_dataset, read_dataset_files

        if self.train_annotations is not None and self.train_images is not None:
            return read_dataset_files(self.train_annotations, self.train_images)
        assert self.data is not None
        return read_dataset(self.data, self.train)

    def valid_index(self, classes: tuple[str, ...] | None = None) -> DatasetSplit | None:
        """The validation split; None where the data set has none and none was asked for by another name.

        Args:
            classes: the training split's class names, which the labels then follow.
        """
        from sais.data.formats import list_splits, read_dataset, read_dataset_files

        if self.valid_annotations is not None and self.valid_images is not None:
            return read_dataset_files(self.valid_annotations, self.valid_images, classes)
        if self.data is None or not self.valid:
            return None
        if self.valid == "valid" and not any(name.startswith("val") for name in list_splits(self.data)):
            return None
        return read_dataset(self.data, self.valid, classes)


def locate(data: Path) -> Path:
    """The folder `data`, or the one of that name in the folder that the environment variable SAIS_DATA names.

    Raises:
        SaisError: neither exists.
    """
    if data.is_dir():
        return data
    shelf = os.environ.get("SAIS_DATA")
    if shelf and not data.is_absolute() and (Path(shelf) / data).is_dir():
        return Path(shelf) / data
    if data.exists():
        raise SaisError(f"{data} is a file; --data takes a folder, --train-annotations or --annotations a JSON file")
    looked = f" (nor in SAIS_DATA={shelf})" if shelf else " (SAIS_DATA, a folder of data sets, is not set)"
    raise SaisError(f"{data}: no such data folder{looked}; check the path, or make one: sais make-shapes {data}")
