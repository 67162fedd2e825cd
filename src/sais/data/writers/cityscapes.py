"""Cityscapes: leftImg8bit/SPLIT/all and gtFine/SPLIT/all with PNG maps of instances and of classes; classes.json.

A pixel of ``NAME_gtFine_instanceIds.png`` is class * 1000 + number of the object, or the class alone for a crowd; one
of ``NAME_gtFine_labelIds.png`` is the class. Classes of Cityscapes have its numbers, and others numbers that it does
not use as far as these suffice.
"""

from __future__ import annotations

import json
from collections import Counter

import numpy as np

from sais.data.writers import DatasetInfo, LabeledImage
from sais.data.writers.label_map import encode_png, number_objects, paint_objects
from sais.errors import InputError
from sais.results import not_written as kinds

CLASSES = "classes.json"
_NUMBERS = {
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "caravan": 29,
    "trailer": 30,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}
"""Classes of Cityscapes with objects -> number."""
_DIVISOR = 1000
_MAX_CLASS = 65
"""Largest class of an id of 16 bits; 65 * 1000 + 535 is the largest id."""
_MAX_NUMBER = 535
_OTHER_NUMBERS = (*range(34, _MAX_CLASS + 1), *range(23, 0, -1))
"""Numbers of other classes: first those that Cityscapes does not use, then those of stuff."""
_CITY = "all"
_ENDING = "_leftImg8bit"


class CityscapesWriter:
    """Writer of Cityscapes, which has no overlaps, scores, or objects without a mask; images are PNG files.

    Args:
        info: The data set.

    Raises:
        InputError: There are too many classes.
    """

    def __init__(self, info: DatasetInfo) -> None:
        self._info = info
        others = [name for name in info.class_names if name not in _NUMBERS]
        if len(others) > len(_OTHER_NUMBERS):
            counts = f"{len(others)} classes that are not of Cityscapes, above the limit of {len(_OTHER_NUMBERS)}"
            raise InputError(f"cityscapes: {counts}. Convert to masks or coco.")
        numbers = _NUMBERS | dict(zip(others, _OTHER_NUMBERS, strict=False))
        self._numbers = [numbers[name] for name in info.class_names]

    def image_file(self, split: str, stem: str, suffix: str) -> str:
        """Return the path of an image."""
        return f"leftImg8bit/{split}/{_CITY}/{stem.removesuffix(_ENDING)}{_ENDING}.png"

    def label_files(self, split: str, stem: str) -> list[str]:
        """Return the paths of the maps of instances and of classes."""
        start = f"gtFine/{split}/{_CITY}/{stem.removesuffix(_ENDING)}_gtFine"
        return [f"{start}_instanceIds.png", f"{start}_labelIds.png"]

    def dataset_files(self) -> list[str]:
        """Return the path of the names of the classes."""
        return [CLASSES]

    def add(self, image: LabeledImage, notes: Counter[str]) -> dict[str, bytes]:
        """Return the maps of an image."""
        notes[kinds.BOX_LEFT_OUT] += sum(item.shape is None for item in image.objects)
        notes[kinds.SCORE] += sum(item.score is not None for item in image.objects)
        owners, objects = paint_objects(image.objects, image.size, notes)
        instances, classes = [0], [0]
        for item, number in zip(objects, number_objects(objects, _MAX_NUMBER, notes), strict=True):
            key = self._numbers[item.label] if number >= 0 else 0
            classes.append(key)
            instances.append(key if number <= 0 else key * _DIVISOR + number)
        instance_file, class_file = self.label_files(image.split, image.stem)
        return {
            instance_file: encode_png(np.array(instances)[owners], 16),
            class_file: encode_png(np.array(classes)[owners], 8),
        }

    def finish(self) -> dict[str, bytes]:
        """Return the names of the classes."""
        pairs = sorted(zip(self._numbers, self._info.class_names, strict=True))
        content = {"written_by": self._info.written_by, "classes": {str(n): name for n, name in pairs}}
        text = json.dumps(content | {"divisor": _DIVISOR}, ensure_ascii=False, indent=2)
        return {CLASSES: text.encode(errors="backslashreplace")}
