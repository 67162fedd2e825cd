"""A small COCO document and its images, for the tests of the data set formats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SQUARE = [[10.0, 10.0, 30.0, 10.0, 30.0, 20.0, 10.0, 20.0]]
DOCUMENT: dict[str, Any] = {
    "images": [
        {"id": 7, "file_name": "a.png", "height": 40, "width": 60},
        {"id": 9, "file_name": "b.png", "height": 40, "width": 60},
    ],
    "categories": [{"id": 90, "name": "dog"}, {"id": 3, "name": "cat"}, {"id": 5, "name": "unused"}],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 90, "bbox": [10, 10, 20, 10], "area": 200, "segmentation": SQUARE},
    ],
}


def write_images(folder: Path) -> None:
    """Write the images of `DOCUMENT`."""
    folder.mkdir(parents=True, exist_ok=True)
    for entry in DOCUMENT["images"]:
        Image.new("RGB", (entry["width"], entry["height"])).save(folder / entry["file_name"])


def square_outline(x: float, y: float, width: float, height: float) -> list[list[float]]:
    """Return the polygon of a rectangle."""
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


def make_document(count: int = 6, size: tuple[int, int] = (96, 128)) -> dict[str, Any]:
    """Return a healthy document of one class with `count` images of `size` (H, W) and two objects in each."""
    height, width = size
    images = [{"id": i + 1, "file_name": f"{i}.png", "height": height, "width": width} for i in range(count)]
    annotations = []
    for i in range(count):
        for k in range(2):
            box = [10 + 60 * k + i, 20 + 10 * k, 40, 30]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": i + 1,
                    "category_id": 1,
                    "bbox": box,
                    "area": 1200,
                    "iscrowd": 0,
                    "segmentation": square_outline(*box),
                }
            )
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "part"}]}


def write_split(folder: Path, split: str, document: dict[str, Any], names: list[str] | None = None) -> Path:
    """Write the annotations of a split, and its images into folder/images under `names` or their own; return the file.

    Each image has another pattern, so that no two look the same.
    """
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    (folder / "images").mkdir(exist_ok=True)
    path = folder / "annotations" / f"{split}.json"
    path.write_text(json.dumps(document))
    for i, entry in enumerate(document["images"]):
        file = folder / "images" / (names[i] if names else entry["file_name"])
        write_noise(file, (int(entry["height"]), int(entry["width"])), seed=1000 * sum(split.encode()) + i)
    return path


def write_noise(file: Path, size: tuple[int, int], seed: int) -> None:
    """Write an image (H, W) of 8 x 8 random colors, which depend on the seed."""
    colors = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), np.uint8)
    Image.fromarray(colors).resize((size[1], size[0]), Image.Resampling.BILINEAR).save(file)
