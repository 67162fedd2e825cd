"""LabelMe: in the folder SPLIT each image with its JSON file, which ``labelme SPLIT`` opens.

The file labels.txt has the classes, also those without objects.
"""

from __future__ import annotations

import json
import posixpath
from collections import Counter

from sais.data.writers import DatasetInfo, LabeledImage
from sais.results.labelme import to_labelme
from sais.text import printable

CLASSES = "labels.txt"
"""File of the classes, for ``labelme --labels labels.txt``."""


class LabelmeWriter:
    """Writer of LabelMe; the format holds everything but classes without objects.

    Args:
        info: The data set.
    """

    def __init__(self, info: DatasetInfo) -> None:
        self._info = info

    def image_file(self, split: str, stem: str, suffix: str) -> str:
        """Return the path of an image."""
        return f"{split}/{stem}{suffix}"

    def label_files(self, split: str, stem: str) -> list[str]:
        """Return the path of the JSON file of an image."""
        return [f"{split}/{stem}.json"]

    def dataset_files(self) -> list[str]:
        """Return the path of the list of classes."""
        return [CLASSES]

    def add(self, image: LabeledImage, notes: Counter[str]) -> dict[str, bytes]:
        """Return the JSON file of an image."""
        name = posixpath.relpath(image.file, image.split)
        content = to_labelme(image.objects, image.size, name, self._info.tolerance)
        text = json.dumps(content, ensure_ascii=False, indent=2)
        return {self.label_files(image.split, image.stem)[0]: text.encode(errors="backslashreplace")}

    def finish(self) -> dict[str, bytes]:
        """Return the list of classes."""
        return {CLASSES: "".join(f"{printable(name)}\n" for name in self._info.class_names).encode()}
