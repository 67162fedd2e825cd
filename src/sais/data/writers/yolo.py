"""YOLO segmentation: data.yaml, images/SPLIT and labels/SPLIT, as ultralytics arranges them."""

from __future__ import annotations

import json
from collections import Counter

from sais.data.writers import DatasetInfo, LabeledImage
from sais.results.yolo import to_yolo

_KEYS = ("train", "val", "test")
"""Keys of data.yaml; a split whose name starts with one of them has it as key."""


class YoloWriter:
    """Writer of YOLO segmentation, which has no crowds, scores, or boxes next to polygons.

    Args:
        info: The data set.
    """

    def __init__(self, info: DatasetInfo) -> None:
        self._info = info

    def image_file(self, split: str, stem: str, suffix: str) -> str:
        """Return the path of an image."""
        return f"images/{split}/{stem}{suffix}"

    def label_files(self, split: str, stem: str) -> list[str]:
        """Return the path of the text file of an image."""
        return [f"labels/{split}/{stem}.txt"]

    def dataset_files(self) -> list[str]:
        """Return the path of data.yaml."""
        return ["data.yaml"]

    def add(self, image: LabeledImage, notes: Counter[str]) -> dict[str, bytes]:
        """Return the text file of an image, which is empty without objects."""
        text = to_yolo(image.objects, image.size, self._info.tolerance, self._info.boxes_only, notes)
        return {self.label_files(image.split, image.stem)[0]: text.encode()}

    def finish(self) -> dict[str, bytes]:
        """Return data.yaml. Its paths are relative to its folder, so that the data set can be moved."""
        lines = [f"# written by {self._info.written_by}"]
        places: dict[str, str] = {}
        for split in self._info.splits:
            key = next((key for key in _KEYS if split.startswith(key)), split)
            places[split if key in places else key] = f"images/{split}"
        lines += [f"{_quoted(key)}: {_quoted(place)}" for key, place in places.items()]
        lines.append("names:")
        lines += [f"  {i}: {_quoted(name)}" for i, name in enumerate(self._info.class_names)]
        return {"data.yaml": ("\n".join(lines) + "\n").encode()}


def _quoted(text: str) -> str:
    """Return a text as a JSON string, which YAML reads as well if it has no control characters."""
    return json.dumps(text, ensure_ascii=not text.isprintable())
