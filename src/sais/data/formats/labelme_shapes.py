"""The shapes of a LabelMe file as objects: polygons, boxes and bitmaps. P is the number of points of a shape.

A rectangle is a box without a mask. Shapes of one class with the same `group_id` are parts of one object. Points and
lines have no area and are counted.
"""

from __future__ import annotations

import base64
import io
import math
from typing import Any

import numpy as np

from sais.data.annotation_limits import quoted
from sais.data.formats import notes as kinds
from sais.data.formats.id_maps import read_mask
from sais.data.formats.split_builder import SplitBuilder
from sais.errors import InputError, OutOfMemoryError, SaisError

_POLYGONS = ("polygon", "rotation", "oriented_rectangle", "quadrilateral")
_WITHOUT_AREA = ("point", "points", "line", "linestrip")
_CIRCLE_POINTS = 72
CROWD_FLAG = "crowd"
"""Flag of a shape that is a region of many objects."""

Shape = dict[str, Any]


def class_name(shape: Any) -> str | None:
    """Return the class of a shape; None if it has none."""
    label = shape.get("label") if isinstance(shape, dict) else None
    if isinstance(label, bool) or not isinstance(label, (str, int, float)):
        return None
    return str(label).strip() or None


def add_shapes(
    shapes: list[Any], labels: dict[str, int], scale: tuple[float, float], builder: SplitBuilder, file: str
) -> None:
    """Add the objects of a file to the image of a builder.

    Args:
        shapes: Value of 'shapes'.
        labels: Class name -> label.
        scale: Factors of x and y from the file's pixels to those of the image.
        builder: Builder of the split.
        file: Name of the file in messages.
    """
    groups: dict[Any, list[tuple[str, Shape]]] = {}
    for position, shape in enumerate(shapes):
        place = f"{file} shape {position}"
        name = class_name(shape)
        if name is None:
            text = f"{builder.folder}: {place}: no 'label'. Name its class, or remove it."
            builder.notes.problem(kinds.BAD_ANNOTATION, text)
            continue
        group = shape.get("group_id")
        key = (name, group) if isinstance(group, (int, str)) and group != "" else position
        groups.setdefault(key, []).append((place, shape))
    for members in groups.values():
        label = labels[class_name(members[0][1]) or ""]
        with builder.notes.recording(kinds.BAD_MASK):
            _add_object(members, label, scale, builder)


def _add_object(
    members: list[tuple[str, Shape]], label: int, scale: tuple[float, float], builder: SplitBuilder
) -> None:
    """Add one object of one or several shapes."""
    polygons: list[np.ndarray] = []
    boxes: list[np.ndarray] = []
    bitmaps: list[tuple[np.ndarray, int, int]] = []
    place = members[0][0]
    crowd = False
    for where, shape in members:
        kind = shape.get("shape_type") or "polygon"
        if kind in _WITHOUT_AREA:
            builder.notes.add(kinds.NO_AREA_SHAPE, where)
            continue
        points = _points(shape, f"{builder.folder}: {where}") * scale
        flags = shape.get("flags")
        crowd |= isinstance(flags, dict) and flags.get(CROWD_FLAG) is True
        if kind in _POLYGONS:
            polygons.append(points)
        elif kind == "circle" and len(points) == 2:
            polygons.append(_circle(points))
        elif kind == "rectangle" and len(points) >= 2:
            boxes.append(points)
        elif kind == "mask" and len(points) == 2:
            if scale != (1.0, 1.0):
                builder.notes.add(kinds.BAD_RLE, where)
            else:
                bitmaps.append(_bitmap(shape, points, builder.size, f"{builder.folder}: {where}"))
        else:
            builder.notes.add(kinds.UNKNOWN_SHAPE, where)
    if bitmaps:
        bits, x, y = _union(bitmaps, polygons + [_corners(box) for box in boxes], builder, place)
        builder.add_bitmap(place, label, bits, x, y, crowd)
    elif polygons:
        parts = [part.reshape(-1).tolist() for part in polygons + [_corners(box) for box in boxes]]
        builder.add_polygons(place, label, parts, crowd)
    elif boxes:
        points = np.concatenate(boxes)
        builder.add_box(place, label, [*points.min(0).tolist(), *points.max(0).tolist()], crowd)


def _points(shape: Shape, where: str) -> np.ndarray:
    """Return the points of a shape, (P, 2) float64."""
    given = shape.get("points")
    try:
        points = np.array(given, np.float64)
    except (TypeError, ValueError, OverflowError):
        points = np.empty(0)
    if not isinstance(given, list) or points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise InputError(f"{where}: its points are {quoted(given)}, not a list of [x, y]. Correct or remove it.")
    return points


def _corners(points: np.ndarray) -> np.ndarray:
    """Return the corners (4, 2) of the box around points (P, 2)."""
    (left, top), (right, bottom) = points.min(0), points.max(0)
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]])


def _circle(points: np.ndarray) -> np.ndarray:
    """Return a polygon (72, 2) with the area of a circle given by its center and a point on it (2, 2)."""
    angles = np.arange(_CIRCLE_POINTS) * (2 * math.pi / _CIRCLE_POINTS)
    sector = 2 * math.pi / _CIRCLE_POINTS
    radius = float(np.hypot(*(points[1] - points[0]))) * math.sqrt(sector / math.sin(sector))
    return points[0] + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _bitmap(shape: Shape, points: np.ndarray, size: tuple[int, int], where: str) -> tuple[np.ndarray, int, int]:
    """Return the mask (h, w) bool of a `mask` shape, its left column and its top row."""
    encoded = shape.get("mask")
    (left, top), (right, bottom) = np.trunc(points.min(0)), np.trunc(points.max(0))  # as LabelMe rounds
    if not isinstance(encoded, str) or not max(abs(left), abs(top), abs(right), abs(bottom)) <= 2 * max(size):
        raise InputError(f"{where}: neither a PNG in 'mask' nor points in the image. Correct or remove it.")
    try:
        content = base64.b64decode(encoded, validate=True)
    except ValueError as error:
        raise InputError(f"{where}: 'mask' is not base64 ({error}). Export it again.") from error
    expected = (int(bottom - top) + 1, int(right - left) + 1)
    if expected[0] > size[0] + 1 or expected[1] > size[1] + 1:
        raise InputError(f"{where}: a mask of {expected[1]} x {expected[0]} is larger than the image. Correct it.")
    try:
        return read_mask(io.BytesIO(content), expected), int(left), int(top)
    except OutOfMemoryError:
        raise
    except SaisError as error:
        problem = str(error).partition(": ")[2].replace("but the image has", "but its points span")
        raise InputError(f"{where}: 'mask': {problem}") from error


def _union(
    bitmaps: list[tuple[np.ndarray, int, int]], polygons: list[np.ndarray], builder: SplitBuilder, place: str
) -> tuple[np.ndarray, int, int]:
    """Return the union of bitmaps (h, w) and polygons (P, 2) in the image as a bitmap (H, W); a single one as it is."""
    if len(bitmaps) == 1 and not polygons:
        return bitmaps[0]
    height, width = builder.size
    whole = np.zeros((height, width), bool)
    builder.fill_polygons(whole, polygons, place)
    for bits, x, y in bitmaps:
        inner = bits[max(0, -y) : max(0, height - y), max(0, -x) : max(0, width - x)]
        top, left = max(0, y), max(0, x)
        whole[top : top + inner.shape[0], left : left + inner.shape[1]] |= inner
    return whole, 0, 0
