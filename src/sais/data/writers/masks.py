"""Masks: images/SPLIT and masks/SPLIT with a PNG for each image, whose pixels are object ids; classes.json.

With one class the ids are 1, 2, ...; with several, an id is class * divisor + number, and crowds have the id of the
class alone. Maps have 16 bits, or colors R + 256 G + 65536 B where the ids need more.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np

from sais.data.writers import DatasetInfo, LabeledImage
from sais.data.writers.label_map import encode_png, number_objects, paint_objects
from sais.errors import InputError
from sais.results import not_written as kinds

CLASSES = "classes.json"
_MAX_ID = 2**24 - 1


class MasksWriter:
    """Writer of id maps, which have no overlaps, scores, or objects without a mask.

    Args:
        info: The data set.

    Raises:
        InputError: There are too many classes and objects for an id.
    """

    def __init__(self, info: DatasetInfo) -> None:
        self._info = info
        self._simple = len(info.class_names) == 1 and not info.crowds
        ids = info.category_ids
        self._divisor = 1000
        while self._divisor <= max(info.max_objects, len(info.class_names)):
            self._divisor *= 10
        # Ids of the data set are kept if they can be classes of an id.
        valid = all(0 < number < self._divisor for number in ids) and len(set(ids)) == len(info.class_names)
        self._numbers = list(ids) if valid else list(range(1, len(info.class_names) + 1))
        largest = info.max_objects if self._simple else max(self._numbers, default=0) * self._divisor + info.max_objects
        if largest > _MAX_ID:
            counts = f"{len(info.class_names)} classes and {info.max_objects} objects of a class in an image"
            raise InputError(f"masks: {counts} are too many for the ids of a map. Convert to coco.")
        self._bits = 16 if largest < 2**16 else 24

    def image_file(self, split: str, stem: str, suffix: str) -> str:
        """Return the path of an image."""
        return f"images/{split}/{stem}{suffix}"

    def label_files(self, split: str, stem: str) -> list[str]:
        """Return the path of the map of an image."""
        return [f"masks/{split}/{stem}.png"]

    def dataset_files(self) -> list[str]:
        """Return the path of the names of the classes."""
        return [CLASSES]

    def add(self, image: LabeledImage, notes: Counter[str]) -> dict[str, bytes]:
        """Return the map of an image."""
        notes[kinds.BOX_LEFT_OUT] += sum(item.shape is None for item in image.objects)
        notes[kinds.SCORE] += sum(item.score is not None for item in image.objects)
        owners, objects = paint_objects(image.objects, image.size, notes)
        limit = self._divisor - 1 if not self._simple else _MAX_ID
        ids = [0]
        for item, number in zip(objects, number_objects(objects, limit, notes), strict=True):
            key = self._numbers[item.label]
            own = number if self._simple else key if item.crowd else key * self._divisor + number
            ids.append(own if number >= 0 else 0)
        name = self.label_files(image.split, image.stem)[0]
        return {name: encode_png(np.array(ids)[owners], self._bits)}

    def finish(self) -> dict[str, bytes]:
        """Return the names of the classes."""
        names = self._info.class_names
        pairs = zip(self._numbers, names, strict=True)
        content: dict[str, Any] = {"written_by": self._info.written_by, "classes": list(names)}
        if not self._simple:
            content |= {"classes": {str(number): name for number, name in pairs}, "divisor": self._divisor}
        return {CLASSES: json.dumps(content, ensure_ascii=False, indent=2).encode(errors="backslashreplace")}
