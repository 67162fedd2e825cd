"""A small COCO document and its images, for the tests of the data set formats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
