"""One small data set, written as each labeling tool writes it, and the COCO file with the same objects."""

from __future__ import annotations

import base64
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sais.data.annotations import DatasetSplit, ImageRecord, object_mask
from sais.data.formats import read_dataset
from sais.ops.rasterize import Polygons, inside
from sais.ops.rle import encode

NAMES = ("cat", "dog")
SIZE = (48, 64)
"""(H, W) of each image."""
SPLITS = {"train": 4, "valid": 2}
"""Number of images in each split."""


@dataclass(frozen=True)
class Shape:
    """An object: its class and its polygons, flat lists in pixels. Objects of an image do not overlap."""

    label: int
    parts: list[list[float]]

    @property
    def bits(self) -> np.ndarray:
        """The mask (H, W) bool."""
        polygons = Polygons(tuple(np.array(part).reshape(-1, 2) for part in self.parts))
        return inside(polygons, (0, 0, SIZE[1], SIZE[0]))


def image_names(split: str) -> list[str]:
    """Return the names of the images of a split without suffix."""
    return [f"{split}_{i}" for i in range(SPLITS[split])]


def shapes(name: str) -> list[Shape]:
    """Return the objects of an image; the last image of a split has none."""
    split, _, number = name.rpartition("_")
    i = int(number)
    if i == SPLITS[split] - 1:
        return []
    triangle = [4.27 + i, 3.31, 24.19 + i, 8.13, 9.41, 22.23 + i]
    square = [36.0, 5.0 + i, 56.0, 5.0 + i, 56.0, 25.0 + i, 36.0, 25.0 + i]
    low = [5.0, 30.0, 20.0 + i, 30.0, 20.0 + i, 44.0, 5.0, 44.0]
    return [Shape(0, [triangle]), Shape(1, [square]), Shape(1, [low])]


def write_image(path: Path) -> Path:
    """Write the image of a path, random but always the same for a name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(list(path.stem.encode()))
    Image.fromarray(random.integers(0, 255, (*SIZE, 3), dtype=np.uint8)).save(path)
    return path


def write_coco(folder: Path, with_masks: bool = False) -> Path:
    """Write the data set as COCO, with polygons or with RLE masks, and return its folder."""
    (folder / "annotations").mkdir(parents=True)
    for split in SPLITS:
        images, annotations = [], []
        for name in image_names(split):
            write_image(folder / "images" / f"{name}.png")
            images.append({"id": len(images) + 1, "file_name": f"{name}.png", "height": SIZE[0], "width": SIZE[1]})
            for shape in shapes(name):
                segmentation: Any = encode(shape.bits) if with_masks else shape.parts
                entry = {"id": len(annotations) + 1, "image_id": len(images), "category_id": shape.label + 1}
                annotations.append(entry | {"segmentation": segmentation, "iscrowd": 0})
        categories = [{"id": i + 1, "name": name} for i, name in enumerate(NAMES)]
        document = {"images": images, "annotations": annotations, "categories": categories}
        (folder / "annotations" / f"{split}.json").write_text(json.dumps(document))
    return folder


def twin(folder: Path, split: str, with_masks: bool) -> dict[str, list[Any]]:
    """Return `objects` of the COCO data set, written into a new folder."""
    return objects(read_dataset(write_coco(folder, with_masks), split))


def objects(split: DatasetSplit) -> dict[str, list[Any]]:
    """Return the objects of a split: name of the image without suffix -> class, box, area and pixels, sorted."""
    return {Path(record.name).stem: sorted(_object(record, split)) for record in split.images}


def _object(record: ImageRecord, split: DatasetSplit) -> list[Any]:
    rows = []
    for annotation in record.annotations:
        mask = object_mask(annotation, record.size)
        height, width = record.size
        pixels = b"" if mask is None else inside(mask, (0, 0, width, height)).tobytes()
        box = tuple(round(float(edge), 3) for edge in annotation.box)
        rows.append((split.class_names[annotation.label], box, round(annotation.area, 3), annotation.crowd, pixels))
    return rows


def yolo_lines(name: str) -> str:
    """Return the content of an image's YOLO label file."""
    lines = []
    for shape in shapes(name):
        values = [v / SIZE[1 - k % 2] for k, v in enumerate(shape.parts[0])]
        lines.append(" ".join([str(shape.label), *(f"{value:.6f}" for value in values)]))
    return "\n".join(lines)


def write_yolo(folder: Path, layout: str = "ultralytics") -> Path:
    """Write the data set as YOLO segmentation in one of the layouts ultralytics, roboflow and list."""
    entries = {}
    for split in SPLITS:
        names = {"ultralytics": "images/{}/{}.png", "roboflow": "{}/images/{}.png", "list": "images/{}/{}.png"}
        paths = [names[layout].format(split, name) for name in image_names(split)]
        for path, name in zip(paths, image_names(split), strict=True):
            write_image(folder / path)
            label = folder / path.replace("images", "labels").replace(".png", ".txt")
            label.parent.mkdir(parents=True, exist_ok=True)
            if shapes(name):
                label.write_text(yolo_lines(name))
        entries[split] = {"ultralytics": f"images/{split}", "roboflow": f"../{split}/images", "list": f"{split}.txt"}
        (folder / f"{split}.txt").write_text("\n".join(f"./{path}" for path in paths))
    if layout == "ultralytics":
        config = f"path: /home/somebody/data\ntrain: {entries['train'][layout]}  # 4 images\n"
        names_text = "names:\n  0: cat\n  1: dog\n"
    else:
        config, names_text = f"train: {entries['train'][layout]}\n", "nc: 2\nnames: ['cat', 'dog']\n"
    (folder / "data.yaml").write_text(f"{config}val: {entries['valid'][layout]}\n{names_text}")
    return folder


def labelme_document(name: str, objects: list[Shape] | None = None, with_masks: bool = False) -> dict[str, Any]:
    """Return the content of an image's LabelMe file; parts of an object have one `group_id`."""
    entries: list[dict[str, Any]] = []
    for number, shape in enumerate(shapes(name) if objects is None else objects):
        common = {"label": NAMES[shape.label], "description": "", "flags": {}, "group_id": None, "mask": None}
        if with_masks:
            entries.append(common | mask_shape(shape.bits))
            continue
        for part in shape.parts:
            group = number if len(shape.parts) > 1 else None
            points = np.array(part).reshape(-1, 2).tolist()
            entries.append(common | {"group_id": group, "points": points, "shape_type": "polygon"})
    return {
        "version": "5.5.0",
        "flags": {},
        "shapes": entries,
        "imagePath": f"{name}.png",
        "imageData": None,
        "imageHeight": SIZE[0],
        "imageWidth": SIZE[1],
    }


def mask_shape(bits: np.ndarray) -> dict[str, Any]:
    """Return a mask (H, W) bool as a `mask` shape, whose points are its first and its last pixel."""
    rows, columns = np.flatnonzero(bits.any(1)), np.flatnonzero(bits.any(0))
    crop = bits[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    buffer = io.BytesIO()
    Image.fromarray(crop).save(buffer, "PNG")
    points = [[float(columns[0]), float(rows[0])], [float(columns[-1]), float(rows[-1])]]
    return {"points": points, "shape_type": "mask", "mask": base64.b64encode(buffer.getvalue()).decode()}


def write_labelme(folder: Path, with_masks: bool = False) -> Path:
    """Write the data set as LabelMe, with a folder for each split."""
    for split in SPLITS:
        for name in image_names(split):
            write_image(folder / split / f"{name}.png")
            document = labelme_document(name, None, with_masks)
            (folder / split / f"{name}.json").write_text(json.dumps(document, indent=2))
    return folder
