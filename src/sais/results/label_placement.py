"""Where class names are written: next to their objects, on no other name, and not over small objects.

Tags of objects that are small and crowded are omitted, because they would cover more than they explain.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MAX_COVERED = 0.25
"""Maximum fraction of any object's box that a tag may cover, of its own object as well."""
MAX_COST = 0.6
"""Maximum sum of the fractions of all boxes that a tag may cover."""
CROWDED = 40
"""Number of objects from which the tags of tiny objects are omitted without a search for a place."""
MAX_RELATIVE_AREA = 5.0
"""Area of a tag relative to its object's box from which the object counts as tiny."""

Place = tuple[int, int, bool]
"""Left and top edge of a tag in pixels, and whether it is far enough from its object to need a leader line."""


def place_tags(
    boxes: np.ndarray, tag_sizes: Sequence[tuple[int, int]], image_size: tuple[int, int]
) -> list[Place | None]:
    """Choose the place of each object's tag, in the order of the objects.

    Args:
        boxes: (N, 4) boxes x1 y1 x2 y2 in image pixels.
        tag_sizes: (width, height) of each of the N tags in pixels.
        image_size: (H, W) of the image.

    Returns:
        The place of each tag; None if it is omitted.
    """
    height, width = image_size
    limits = np.array([width, height, width, height], np.float64)
    boxes = np.clip(np.asarray(boxes, np.float64).reshape(-1, 4), 0, limits)
    areas = np.maximum(1.0, (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))
    places: list[Place | None] = []
    occupied = np.zeros((0, 4))
    for i, (w, h) in enumerate(tag_sizes):
        if len(boxes) >= CROWDED and w * h > MAX_RELATIVE_AREA * areas[i]:
            places.append(None)
            continue
        corners, far = _candidates(boxes[i], w, h, width)
        tags = np.concatenate([corners, corners + np.array([w, h])], 1)
        covered = _intersections(tags, boxes) / areas
        cost = covered.sum(1) + 0.01 * np.arange(len(tags)) + 0.15 * far
        allowed = (covered.max(1) <= MAX_COVERED) & (cost <= MAX_COST)
        allowed &= (tags[:, :2] >= 0).all(1) & (tags[:, 2] <= width) & (tags[:, 3] <= height)
        allowed &= ~(_intersections(tags, occupied) > 0).any(1)
        if not allowed.any():
            places.append(None)
            continue
        best = int(np.where(allowed, cost, np.inf).argmin())
        places.append((int(corners[best, 0]), int(corners[best, 1]), bool(far[best])))
        occupied = np.concatenate([occupied, tags[best : best + 1]])
    return places


def _candidates(box: np.ndarray, w: int, h: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return top left corners (M, 2) of possible tags of a box (4,), preferred ones first, and (M,) which are far."""
    x1, y1, x2, y2 = np.rint(box).tolist()
    left, right = (min(max(x, 0), max(0, width - w)) for x in (x1, x2 - w))
    center = min(max((x1 + x2 - w) / 2, 0), max(0, width - w))
    outside = [(left, y1 - h), (left, y2), (right, y1 - h), (right, y2), (x2, y1), (x1 - w, y1)]
    outside += [(x2, y2 - h), (x1 - w, y2 - h)]
    inside = [(left, max(0, y1)), (right, max(0, y1)), (left, y2 - h), (right, y2 - h)]
    far = [(center, y1 - 2.2 * h), (center, y2 + 1.2 * h), (x2 + h, y1 - h), (x1 - w - h, y1 - h)]
    far += [(x2 + h, y2), (x1 - w - h, y2), (center, y1 - 3.6 * h), (center, y2 + 2.6 * h)]
    corners = np.rint(np.array([*outside, *inside, *far], np.float64))
    return corners, np.arange(len(corners)) >= len(outside) + len(inside)


def _intersections(tags: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Return the areas (M, N) of the intersections of rectangles (M, 4) and (N, 4)."""
    low = np.maximum(tags[:, None, :2], boxes[None, :, :2])
    high = np.minimum(tags[:, None, 2:], boxes[None, :, 2:])
    return np.clip(high - low, 0, None).prod(2)
