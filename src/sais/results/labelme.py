"""Labels of an image as the JSON file of LabelMe, which the program shows for an image of the same name next to it.

A part of an object is a polygon; parts of one object have the same `group_id`. A polygon has no holes: an object with
holes is a `mask` shape, a box and a PNG. The score of a detection is in `description`, crowds have the flag "crowd".
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from typing import Any

import numpy as np
from PIL import Image

from sais.ops.outlines import crop_shape, ring_area, shape_rings
from sais.results.labeled_object import LabeledObject

VERSION = "5.5.0"
"""Version of LabelMe whose file format is written: the first with `mask` shapes and descriptions is 5.2."""
CROWD_FLAG = "crowd"


def to_labelme(
    objects: Iterable[LabeledObject], size: tuple[int, int], image_path: str, tolerance: float = 0.0
) -> dict[str, Any]:
    """Return the content of a LabelMe file.

    Args:
        objects: Objects of the image.
        size: (H, W) of the image.
        image_path: Path of the image, relative to the file.
        tolerance: Pixels by which outlines may deviate from the masks, to have fewer points; 0 for exact ones.
    """
    shapes: list[dict[str, Any]] = []
    groups = 0
    for item in objects:
        parts = _shapes(item, size, tolerance)
        if len(parts) > 1:
            groups += 1
        description = "" if item.score is None else f"score {item.score:.4f}"
        flags = {CROWD_FLAG: True} if item.crowd else {}
        group = groups if len(parts) > 1 else None
        shapes += [
            {"label": item.class_name, "group_id": group, "description": description, "flags": flags, "mask": None}
            | part
            for part in parts
        ]
    return {
        "version": VERSION,
        "flags": {},
        "shapes": shapes,
        "imagePath": image_path,
        "imageData": None,
        "imageHeight": int(size[0]),
        "imageWidth": int(size[1]),
    }


def _shapes(item: LabeledObject, size: tuple[int, int], tolerance: float) -> list[dict[str, Any]]:
    """Return the shapes of an object: type, points and mask."""
    x1, y1, x2, y2 = item.box.astype(np.float64).tolist()
    rectangle = [{"shape_type": "rectangle", "points": [[x1, y1], [x2, y2]]}]
    if item.shape is None:
        return rectangle
    rings = shape_rings(item.shape, size, tolerance)
    if any(ring_area(ring) < 0 for ring in rings):
        bits, x, y = crop_shape(item.shape, size)
        rows, columns = np.flatnonzero(bits.any(1)), np.flatnonzero(bits.any(0))
        bits = bits[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        left, top = x + int(columns[0]), y + int(rows[0])
        # The corners are the first and the last pixel.
        points = [[float(left), float(top)], [float(left + bits.shape[1] - 1), float(top + bits.shape[0] - 1)]]
        return [{"shape_type": "mask", "points": points, "mask": _png(bits)}]
    return [{"shape_type": "polygon", "points": ring.tolist()} for ring in rings] or rectangle


def _png(bits: np.ndarray) -> str:
    """Return a mask (h, w) bool as a PNG in base64, as LabelMe writes it."""
    buffer = io.BytesIO()
    Image.fromarray(bits.astype(np.uint8)).save(buffer, "PNG")  # pixels of 0 and 1
    return base64.b64encode(buffer.getvalue()).decode("ascii")
