"""Selection of detections by class, score, area and place in the image."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from sais.errors import InputError
from sais.ops.numpy_boxes import Window, box_area, box_intersection
from sais.ops.rasterize import Polygons, inside
from sais.resolve import suggest
from sais.results.mask_ops import mask_window

if TYPE_CHECKING:
    from sais.results.detections import Detections

Classes = str | int | Iterable[str | int]
"""Names or labels of classes."""
Limits = float | tuple[float | None, float | None]
"""A minimum, or (minimum, maximum), both included; None for no limit."""
Region = np.ndarray | Sequence[np.ndarray] | Sequence[Sequence[float]]
"""A polygon (P, 2) x y; several rings, which are filled by the even-odd rule; or a mask (H, W) bool."""


def select(
    detections: Detections,
    classes: Classes | None = None,
    score: Limits | None = None,
    area: Limits | None = None,
    box: Sequence[float] | None = None,
    region: Region | None = None,
    min_fraction: float = 0.5,
) -> Detections:
    """Return the objects that meet all conditions given, in their order.

    Args:
        detections: D detections.
        classes: Names or labels of classes.
        score: Minimum score, or minimum and maximum.
        area: Minimum area of the mask (without masks, of the box) in pixels, or minimum and maximum.
        box: x1 y1 x2 y2 in image pixels, which contains the object.
        region: Polygon (P, 2) in image pixels, rings such as those of another object, or mask (H, W), which contains
            the object.
        min_fraction: Minimum fraction of an object's area in `box` and in `region`; 0 for any overlap.

    Raises:
        InputError: A class is unknown, or limits, a box or a region have another shape.
    """
    selected = np.ones(len(detections), bool)
    if classes is not None:
        selected &= np.isin(detections.labels, _labels(detections.class_names, classes))
    if score is not None:
        selected &= _within(detections.scores, score, "score")
    if area is not None:
        selected &= _within(detections.area, area, "area")
    for place in (box_shape(box) if box is not None else None, region):
        if place is not None:
            fractions = fractions_inside(detections, place, selected)
            selected &= (fractions > 0) & (fractions >= min_fraction)
    return detections[selected]


def _labels(class_names: Sequence[str], classes: Classes) -> list[int]:
    """Return the labels of classes."""
    labels = []
    for item in [classes] if isinstance(classes, (str, int, np.integer)) else classes:
        if isinstance(item, str) and item in class_names:
            labels += [label for label, name in enumerate(class_names) if name == item]
        elif not isinstance(item, str) and 0 <= int(item) < len(class_names):
            labels.append(int(item))
        else:
            hint = suggest(item, class_names) if isinstance(item, str) else f". Use 0 to {len(class_names) - 1}."
            raise InputError(f"detections: unknown class {item!r}{hint}")
    return labels


def _within(values: np.ndarray, limits: Limits, name: str) -> np.ndarray:
    """Return which values (D,) are between limits, (D,) bool."""
    if isinstance(limits, tuple | list) and len(limits) != 2:
        raise InputError(f"detections: {name} {limits!r:.60}. Give a minimum, or a minimum and a maximum.")
    low, high = limits if isinstance(limits, tuple | list) else (limits, None)
    return (values >= (-np.inf if low is None else low)) & (values <= (np.inf if high is None else high))


def box_shape(box: Sequence[float]) -> np.ndarray:
    """Return a box x1 y1 x2 y2 as a polygon (4, 2).

    Raises:
        InputError: The box does not consist of four numbers, or has no area.
    """
    values = np.asarray(box, np.float64)
    if values.shape != (4,) or not (values[2:] > values[:2]).all():
        raise InputError(f"detections: box {box!r:.60}. Give x1 y1 x2 y2 in pixels, with x1 < x2 and y1 < y2.")
    x1, y1, x2, y2 = values
    return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])


def fractions_inside(detections: Detections, region: Region, wanted: np.ndarray | None = None) -> np.ndarray:
    """Return the fraction of each object's area that is in a region, (D,); of the box's if there are no masks.

    Args:
        detections: D detections.
        region: As for `select`; a pixel is inside if its center is. Boxes in a polygon that is a box are exact.
        wanted: (D,) bool, the objects to compute; 0 for the others. None: all.

    Raises:
        InputError: The region has another shape.
    """
    fractions = np.zeros(len(detections))
    rings, mask = _region(region, detections.image_size)
    indices = np.arange(len(detections)) if wanted is None else np.flatnonzero(wanted)
    if not detections.cropped_masks and len(rings) == 1 and _is_box(rings[0]):
        boxes = detections.boxes.astype(np.float64)
        shared = box_intersection(boxes, np.concatenate([rings[0].min(0), rings[0].max(0)]))
        return np.where(wanted if wanted is not None else True, shared / np.maximum(box_area(boxes), 1e-12), 0)
    for i in indices.tolist():
        window, bits = _object_pixels(detections, i)
        total = int(np.count_nonzero(bits))
        if total:
            fractions[i] = np.count_nonzero(bits & _region_pixels(rings, mask, window)) / total
    return fractions


def _object_pixels(detections: Detections, index: int) -> tuple[Window, np.ndarray]:
    """Return the window of an object and its pixels (h, w) bool: of its mask, else of its box."""
    if detections.cropped_masks:
        mask = detections.cropped_masks[index]
        return mask_window(mask), mask.bits
    x1, y1, x2, y2 = pixel_window(detections.boxes[index], detections.image_size)
    return (x1, y1, x2, y2), np.ones((y2 - y1, x2 - x1), bool)


def pixel_window(box: np.ndarray, image_size: tuple[int, int]) -> Window:
    """Return the pixels of an image (H, W) that a box (4,) touches: at least one, if the image has any."""
    height, width = image_size
    (x1, y1), (x2, y2) = np.floor(box[:2]).astype(int).tolist(), np.ceil(box[2:]).astype(int).tolist()
    left, top = min(max(0, x1), max(0, width - 1)), min(max(0, y1), max(0, height - 1))
    return left, top, min(max(x2, left + 1), width), min(max(y2, top + 1), height)


def _region(region: Region, image_size: tuple[int, int]) -> tuple[list[np.ndarray], np.ndarray | None]:
    """Return a region as rings (P, 2) and as a mask (H, W), one of them empty."""
    if isinstance(region, np.ndarray) and region.dtype == bool:
        if region.shape != image_size:
            raise InputError(f"detections: region of {region.shape} for an image of {image_size}. Use its (H, W).")
        return [], region
    try:
        nested = len(region) > 0 and np.ndim(region[0]) == 2
        rings = [np.asarray(ring, np.float64) for ring in (region if nested else [region])]
    except (TypeError, ValueError):
        rings = []
    shaped = all(ring.ndim == 2 and ring.shape[1] == 2 and len(ring) > 2 for ring in rings)
    if not (rings and shaped and all(np.isfinite(ring).all() for ring in rings)):
        raise InputError(
            "detections: malformed region. Give a polygon (P, 2) of three points or more, or a mask (H, W) bool."
        )
    return rings, None


def _is_box(ring: np.ndarray) -> bool:
    """Return whether a polygon (P, 2) is a box along the axes."""
    return len(ring) == 4 and all(len(np.unique(side)) == 2 for side in ring.T) and len(np.unique(ring, axis=0)) == 4


def _region_pixels(rings: Sequence[np.ndarray], mask: np.ndarray | None, window: Window) -> np.ndarray:
    """Return the pixels of a window that are in a region, (h, w) bool."""
    x1, y1, x2, y2 = window
    if mask is not None:
        return mask[y1:y2, x1:x2]
    pixels = np.zeros((max(0, y2 - y1), max(0, x2 - x1)), bool)
    for ring in rings:
        pixels ^= inside(Polygons((ring,)), window)
    return pixels
