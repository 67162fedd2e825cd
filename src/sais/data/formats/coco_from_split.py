"""A split as a COCO document, whose images stay where they are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from sais.data.annotations import DatasetSplit


def to_document(split: DatasetSplit, folder: Path) -> dict[str, Any]:
    """Return a split as a COCO document; polygons and masks remain as they are.

    Args:
        split: A split whose images are files.
        folder: Folder to which the file names are relative.
    """
    images, annotations = [], []
    for record in split.images:
        name = Path(os.path.relpath(record.path, folder)).as_posix()
        height, width = record.size
        images.append({"id": record.id, "file_name": name, "height": height, "width": width})
        for annotation in record.annotations:
            x1, y1, x2, y2 = annotation.box.astype(np.float64).tolist()
            entry = {
                "id": annotation.id,
                "image_id": record.id,
                "category_id": split.category_ids[annotation.label],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "area": annotation.area,
                "iscrowd": int(annotation.crowd),
                "segmentation": [] if annotation.segmentation is None else annotation.segmentation,
            }
            annotations.append(entry)
    pairs = zip(split.category_ids, split.class_names, strict=True)
    categories = [{"id": number, "name": name} for number, name in pairs]
    return {"images": images, "annotations": annotations, "categories": categories}
