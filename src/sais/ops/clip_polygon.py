"""Clipping of polygons to a rectangle. Numpy only. P is the number of points."""

from __future__ import annotations

import numpy as np

_LARGEST = 1e150
"""Coordinates are limited to this, so that no difference of two is infinite."""


def clip_polygon(points: np.ndarray, width: float, height: float) -> np.ndarray:
    """Return the part of a polygon inside the rectangle 0 0 `width` `height`.

    The clipped polygon covers the same points of the rectangle by the even-odd rule: what is outside is replaced by
    edges along the border (Sutherland and Hodgman, 1974). A polygon without points inside becomes empty.

    Args:
        points: (P, 2) x y, closed implicitly.
        width: Right edge of the rectangle.
        height: Lower edge of the rectangle.

    Returns:
        (Q, 2) float64 x y with Q >= 3, or (0, 2).
    """
    points = np.asarray(points, np.float64).reshape(-1, 2).clip(-_LARGEST, _LARGEST)
    for axis, limit, sign in ((0, 0.0, 1.0), (0, width, -1.0), (1, 0.0, 1.0), (1, height, -1.0)):
        points = _clip_half_plane(points, axis, limit, sign)
    extent = np.ptp(points, axis=0) if len(points) > 2 else np.zeros(2)
    return points if extent.all() else np.zeros((0, 2))


def _clip_half_plane(points: np.ndarray, axis: int, limit: float, sign: float) -> np.ndarray:
    """Clip a polygon (P, 2) to the points whose coordinate `axis` times `sign` is at least `limit` times `sign`."""
    distances = (points[:, axis] - limit) * sign
    if (distances >= 0).all():
        return points
    if (distances <= 0).all():
        return np.zeros((0, 2))
    clipped = []
    for i in range(len(points)):
        before, after = distances[i - 1], distances[i]
        if (before < 0) != (after < 0):
            # From the point inside: at 1e12, one place of a float is a ten-thousandth of a pixel.
            inner, outer = (points[i], points[i - 1]) if before < 0 else (points[i - 1], points[i])
            inner_distance, outer_distance = max(before, after), min(before, after)
            crossing = inner + (outer - inner) * (inner_distance / (inner_distance - outer_distance))
            crossing[axis] = limit
            clipped.append(crossing)
        if after >= 0:
            clipped.append(points[i])
    return np.array(clipped).reshape(-1, 2)
