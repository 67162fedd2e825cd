"""Labels of an image for YOLO segmentation: a line ``class x1 y1 x2 y2 ...`` for each object, fractions of the image.

An object of several parts, or with holes, is one polygon that visits all rings over bridges without area, as the
converter of ultralytics joins parts: a line for each part would count one object as several. Filled by the even-odd
rule, as OpenCV and sais do, the polygon has the pixels of the object. The format has no crowds and no scores.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from sais.ops.clip_polygon import clip_polygon
from sais.ops.outlines import join_rings, ring_area, shape_rings
from sais.results import not_written as kinds
from sais.results.labeled_object import LabeledObject


def to_yolo(
    objects: Iterable[LabeledObject],
    size: tuple[int, int],
    tolerance: float = 0.0,
    boxes: bool = False,
    notes: Counter[str] | None = None,
) -> str:
    """Return the content of a label file.

    Args:
        objects: Objects of the image.
        size: (H, W) of the image.
        tolerance: Pixels by which outlines may deviate from the masks, to have fewer points; 0 for exact ones.
        boxes: Whether objects without a mask are lines of four numbers, center and size. Programs read these only where
            no line of the data set is a polygon; otherwise such an object is the outline of its box.
        notes: Counter of what the format cannot hold.

    Returns:
        A line for each object; empty if there is none.
    """
    notes = Counter() if notes is None else notes
    lines = []
    for item in objects:
        if item.crowd:
            notes[kinds.CROWD] += 1
            continue
        notes[kinds.SCORE] += item.score is not None
        if item.shape is None and boxes:
            x1, y1, x2, y2 = item.box.astype(np.float64).tolist()
            values = np.array([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]).reshape(2, 2)
        else:
            values = _polygon(item, size, tolerance, notes)
        if len(values):
            lines.append(f"{item.label} {_numbers(values, size)}\n")
    return "".join(lines)


def _polygon(item: LabeledObject, size: tuple[int, int], tolerance: float, notes: Counter[str]) -> np.ndarray:
    """Return the polygon of an object inside the image, (P, 2); (0, 2) if nothing of it is inside."""
    height, width = size
    if item.shape is None:
        notes[kinds.BOX_AS_OUTLINE] += 1
        x1, y1, x2, y2 = item.box.astype(np.float64).tolist()
        rings: Sequence[np.ndarray] = [np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])]
    else:
        rings = shape_rings(item.shape, size, tolerance)
    # Programs refuse images with a coordinate outside of 0 to 1.
    rings = [ring if _is_inside(ring, size) else clip_polygon(ring, width, height) for ring in rings]
    rings = sorted((ring for ring in rings if len(ring)), key=lambda ring: -ring_area(ring))
    if not rings:
        notes[kinds.OUTSIDE] += 1
        return np.zeros((0, 2))
    notes[kinds.JOINED] += len(rings) > 1
    return join_rings(rings)


def _is_inside(ring: np.ndarray, size: tuple[int, int]) -> bool:
    return bool(ring.min() >= 0 and ring[:, 0].max() <= size[1] and ring[:, 1].max() <= size[0])


def _numbers(points: np.ndarray, size: tuple[int, int]) -> str:
    """Return points (P, 2) in pixels as fractions of the image.

    They have all digits: edges through the centers of pixels are common, and must remain there when a reader multiplies
    the fraction by the side. Where no fraction gives exactly the same coordinate, the next smaller one is used:
    points on a left or upper edge are inside of a polygon.
    """
    sides = np.array([size[1], size[0]], np.float64)
    fractions = np.nextafter(points / sides, -np.inf).clip(0)
    for _ in range(2):
        larger = np.nextafter(fractions, np.inf)
        fractions = np.where(larger * sides <= points, larger, fractions)
    return " ".join(repr(value).removesuffix(".0") for value in fractions.reshape(-1).tolist())
