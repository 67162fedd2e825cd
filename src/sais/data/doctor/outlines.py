"""Polygons that cross themselves. Legend: P points of one polygon part."""

from __future__ import annotations

import numpy as np

from sais.ops.outlines import crop_shape, ring_area
from sais.ops.rasterize import Polygons

_MAX_POINTS = 2_000
"""Number of points above which a polygon is not examined: the time grows with its square."""
_FEW_POINTS = 200
"""Number of points up to which the search for crossings is faster than filling the polygon."""
_MIN_PIXELS = 6.0
_MIN_FRACTION = 0.04
"""Number of pixels, and fraction of the filled pixels, by which the enclosed area must differ from the filled area."""


def crosses_itself(part: np.ndarray, size: tuple[int, int]) -> bool:
    """Return whether a polygon crosses itself so that its area changes: points are out of order or missing.

    Crossings of neighboring pixels, which tracing tools make, change next to nothing and do not count.

    Args:
        part: (P, 2) x y.
        size: (H, W) of the image. Polygons far outside of it are not examined.
    """
    sides = np.ptp(part, axis=0) if len(part) else np.zeros(2)
    if not 4 <= len(part) <= _MAX_POINTS or sides.max() > 3 * max(size):
        return False
    if len(part) > _FEW_POINTS and not _changes_area(part):
        return False
    return _has_crossing(part) and _changes_area(part)


def _changes_area(part: np.ndarray) -> bool:
    """Return whether a polygon (P, 2) fills another number of pixels than the area that it encloses."""
    moved = part - np.floor(part.min(0))
    width, height = (int(edge) + 1 for edge in moved.max(0))
    filled = float(crop_shape(Polygons((moved,)), (height, width))[0].sum())
    return abs(filled - abs(ring_area(part))) > max(_MIN_PIXELS, _MIN_FRACTION * filled)


def _has_crossing(part: np.ndarray) -> bool:
    """Return whether any two sides of a polygon (P, 2) cross in their interior."""
    start, end = part, np.roll(part, -1, axis=0)
    first = _orientation(start[:, None], end[:, None], start) * _orientation(start[:, None], end[:, None], end) < 0
    return bool((first & first.T).any())


def _orientation(start: np.ndarray, end: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return on which side of lines (P, 1, 2) points (P, 2) are, (P, P) -1, 0 or 1."""
    cross = (end[..., 0] - start[..., 0]) * (points[:, 1] - start[..., 1]) - (end[..., 1] - start[..., 1]) * (
        points[:, 0] - start[..., 0]
    )
    return np.sign(cross)
