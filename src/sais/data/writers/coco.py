"""COCO: annotations/SPLIT.json and images/SPLIT. Polygons remain polygons and bitmaps become compressed RLE."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np

from sais._version import __version__
from sais.data.writers import DatasetInfo, LabeledImage
from sais.ops.rasterize import Polygons
from sais.ops.rle import area, encode_cropped
from sais.results.labeled_object import LabeledObject


class CocoWriter:
    """Writer of COCO; the format holds everything.

    Args:
        info: The data set.
    """

    def __init__(self, info: DatasetInfo) -> None:
        self._info = info
        self._images: dict[str, list[dict[str, Any]]] = {split: [] for split in info.splits}
        self._annotations: dict[str, list[dict[str, Any]]] = {split: [] for split in info.splits}

    def image_file(self, split: str, stem: str, suffix: str) -> str:
        """Return the path of an image."""
        return f"images/{split}/{stem}{suffix}"

    def label_files(self, split: str, stem: str) -> list[str]:
        """Return no paths: an image has no file of its own."""
        return []

    def dataset_files(self) -> list[str]:
        """Return the path of each split."""
        return [f"annotations/{split}.json" for split in self._info.splits]

    def add(self, image: LabeledImage, notes: Counter[str]) -> dict[str, bytes]:
        """Add an image."""
        images, annotations = self._images[image.split], self._annotations[image.split]
        number = len(images) + 1
        height, width = image.size
        name = image.file.rpartition("/")[2]
        images.append({"id": number, "width": width, "height": height, "file_name": name})
        for item in image.objects:
            annotations.append(self._annotation(item, image.size, number, len(annotations) + 1))
        return {}

    def finish(self) -> dict[str, bytes]:
        """Return the COCO files."""
        info = {"description": f"sais {__version__}", "written_by": self._info.written_by}
        pairs = zip(self._info.category_ids, self._info.class_names, strict=True)
        categories = [{"id": number, "name": name} for number, name in pairs]
        return {
            f"annotations/{split}.json": json.dumps(
                {"info": info, "images": images, "categories": categories, "annotations": self._annotations[split]}
            ).encode()
            for split, images in self._images.items()
        }

    def _annotation(self, item: LabeledObject, size: tuple[int, int], image: int, number: int) -> dict[str, Any]:
        x1, y1, x2, y2 = item.box.astype(np.float64).tolist()
        entry: dict[str, Any] = {
            "id": number,
            "image_id": image,
            "category_id": self._info.category_ids[item.label],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": (x2 - x1) * (y2 - y1),
            "iscrowd": int(item.crowd),
        }
        if isinstance(item.shape, Polygons):
            entry["segmentation"] = [part.reshape(-1).tolist() for part in item.shape.parts]
        elif item.shape is not None:
            x, y = (int(edge) for edge in item.shape.box[:2])
            entry["segmentation"] = encode_cropped(item.shape.bits, x, y, size)
            entry["area"] = area(entry["segmentation"])
        if item.area is not None:
            entry["area"] = item.area
        return entry if item.score is None else entry | {"score": item.score}
