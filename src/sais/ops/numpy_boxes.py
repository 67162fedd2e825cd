"""Box and pixel-window arithmetic in numpy; `sais.ops.boxes` is its counterpart on tensors.

Boxes are ``x1 y1 x2 y2`` in one space, of any floating type; results keep that type. A window is a box of whole pixels,
end exclusive; it is empty where x2 <= x1 or y2 <= y1.
"""

from __future__ import annotations

import numpy as np

Window = tuple[int, int, int, int]
"""x1 y1 x2 y2 in whole pixels, end exclusive."""


def box_area(boxes: np.ndarray) -> np.ndarray:
    """Return the areas of boxes (..., 4): (...)."""
    area: np.ndarray = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
    return area


def box_intersection(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the area shared by two boxes, 0 where they are disjoint.

    Args:
        first: (..., 4) boxes.
        second: (..., 4) boxes, broadcast against `first`.

    Returns:
        (...) areas.
    """
    sides = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(first[..., :2], second[..., :2])
    sides = np.maximum(sides, 0)
    area: np.ndarray = sides[..., 0] * sides[..., 1]
    return area


def box_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the intersection over union of boxes.

    Args:
        first: (..., 4) boxes of positive area.
        second: (..., 4) boxes, broadcast against `first`; ``first[:, None]`` and ``second`` give all pairs.

    Returns:
        (...) IoU, 0 to 1.
    """
    shared = box_intersection(first, second)
    iou: np.ndarray = shared / (box_area(first) + box_area(second) - shared)
    return iou


def boxes_overlap(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return whether two boxes (..., 4), broadcast against each other, share an area: (...) bool."""
    corner, end = np.maximum(first[..., :2], second[..., :2]), np.minimum(first[..., 2:], second[..., 2:])
    overlap: np.ndarray = (corner < end).all(-1)
    return overlap


def intersect_windows(first: Window, second: Window) -> Window:
    """Return the pixels in both windows; an empty window may have its end before its start."""
    return max(first[0], second[0]), max(first[1], second[1]), min(first[2], second[2]), min(first[3], second[3])


def is_empty(window: Window) -> bool:
    """Return whether a window has no pixel."""
    return window[2] <= window[0] or window[3] <= window[1]


def window_slices(window: Window) -> tuple[slice, slice]:
    """Return the index of a window's rows and columns in an image array (H, W, ...)."""
    return slice(window[1], window[3]), slice(window[0], window[2])
