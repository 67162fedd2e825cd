"""Writers of labels: the table of formats that `sais convert` and `sais predict` write.

A writer is a class of a file in this folder (see `Writer`). It knows where the files of its format are and what they
contain; `sais.data.label_folder` writes them.
"""

from __future__ import annotations

import importlib
from collections import Counter
from dataclasses import dataclass
from typing import Protocol

from sais.errors import ConfigError
from sais.results.labeled_object import LabeledObject

WRITERS = {
    "coco": "CocoWriter",
    "yolo": "YoloWriter",
    "labelme": "LabelmeWriter",
    "voc": "VocWriter",
    "masks": "MasksWriter",
    "geojson": "GeojsonWriter",
    "cityscapes": "CityscapesWriter",
}
"""Name of a format, which is that of its module here -> class."""


@dataclass(frozen=True)
class DatasetInfo:
    """What a writer knows of the data set before its first image."""

    class_names: tuple[str, ...]
    """C names, label 0 first."""
    category_ids: tuple[int, ...]
    """C ids of the data set, label 0 first."""
    splits: tuple[str, ...]
    """Names of the splits."""
    boxes_only: bool = False
    """Whether no object has a mask."""
    crowds: bool = False
    """Whether there are crowd regions."""
    max_objects: int = 999
    """Maximum number of objects of a class in an image, as far as it is known."""
    tolerance: float = 0.0
    """Pixels by which outlines may deviate from the masks, to have fewer points; 0 for exact ones."""
    written_by: str = "sais convert"
    """Command that writes the files."""


@dataclass(frozen=True)
class LabeledImage:
    """One image and its objects, as a writer takes them."""

    split: str
    """Name of the split."""
    stem: str
    """Name of the image without suffix; unique in the split, a single part of a path."""
    file: str
    """Path of the image relative to the data set, with slashes; of images that are not copied, outside of it."""
    size: tuple[int, int]
    """(H, W)."""
    objects: tuple[LabeledObject, ...]
    """Objects in the order of the data set."""


class Writer(Protocol):
    """A format: where its files are, and what they contain. Paths are relative to the data set, with slashes."""

    def image_file(self, split: str, stem: str, suffix: str) -> str:
        """Return the path of an image; its suffix may be another than `suffix`, in which the image is then written."""

    def label_files(self, split: str, stem: str) -> list[str]:
        """Return the paths of the label files of an image."""

    def dataset_files(self) -> list[str]:
        """Return the paths of the files that `finish` returns."""

    def add(self, image: LabeledImage, notes: Counter[str]) -> dict[str, bytes]:
        """Return the label files of an image, path -> content, and count in `notes` what they cannot hold."""

    def finish(self) -> dict[str, bytes]:
        """Return the files of the whole data set, path -> content."""


def open_writer(format: str, info: DatasetInfo) -> Writer:
    """Return the writer of a format.

    Args:
        format: Name of a row of `WRITERS`.
        info: The data set.

    Raises:
        ConfigError: The format is unknown.
        InputError: The format cannot hold the data set.
    """
    if format not in WRITERS:
        raise ConfigError(f"format {format!r}: unknown. Choose one of {', '.join(WRITERS)}.")
    module = importlib.import_module(f"sais.data.writers.{format}")
    writer: Writer = getattr(module, WRITERS[format])(info)
    return writer
