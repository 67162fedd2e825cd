"""Outlines of shapes: rings of a mask with few points, and one polygon that visits all rings. Numpy only.

Legend: P points of a ring, R rings. A ring is float64 (P, 2) x y in pixels, closed implicitly. As `contours` returns
them, outer rings have a positive `ring_area` and holes a negative one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from sais.ops.contours import contours
from sais.ops.rasterize import Bitmap, Polygons, bounding_box, inside, parts_disjoint

MIN_IOU = 0.98
"""Minimum IoU of a mask and its simplified outline."""
_HALVINGS = 4
"""Number of times that the tolerance is halved before the outline remains exact."""
_LONG_SIDE = 3
"""Length in pixels from which a side of an outline along pixel edges is not a step of a slanted or round one."""
_SPECK = 4.0
"""Side in tolerances of a square below whose area a part or hole is left out."""


def ring_area(ring: np.ndarray) -> float:
    """Return the signed area of a ring (P, 2): positive if it runs clockwise as seen on the screen (y points down)."""
    x, y = ring[:, 0], ring[:, 1]
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2) if len(ring) > 2 else 0.0


def simplify_ring(ring: np.ndarray, tolerance: float) -> np.ndarray:
    """Remove points of a ring that are at most `tolerance` pixels from the line between the remaining ones.

    The algorithm of Ramer (1972), Douglas and Peucker (1973), applied to the two halves of the ring between its
    leftmost point and the point farthest from it.

    Args:
        ring: (P, 2) x y.
        tolerance: Maximum distance in pixels; 0 removes only points on straight lines.

    Returns:
        (Q, 2), 3 <= Q <= P; the ring itself if fewer than three points would remain.
    """
    if len(ring) < 4:
        return ring
    first = int(np.lexsort((ring[:, 1], ring[:, 0]))[0])
    closed = np.concatenate([ring[first:], ring[: first + 1]])
    middle = int(np.argmax(((closed - closed[0]) ** 2).sum(1)))
    selected = np.zeros(len(closed), bool)
    selected[[0, middle, -1]] = True
    ranges = [(0, middle), (middle, len(closed) - 1)]
    while ranges:
        start, end = ranges.pop()
        if end - start < 2:
            continue
        distances = _segment_distances(closed[start + 1 : end], closed[start], closed[end])
        farthest = int(np.argmax(distances))
        if distances[farthest] > tolerance:
            split = start + 1 + farthest
            selected[split] = True
            ranges += [(start, split), (split, end)]
    simplified = closed[:-1][selected[:-1]]
    return simplified if len(simplified) > 2 and ring_area(simplified) else ring


def _segment_distances(points: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Return the distance of each point (P, 2) from the segment between two points (2,)."""
    direction, offsets = end - start, points - start
    squared = float((direction**2).sum())
    if not squared:
        return np.hypot(offsets[:, 0], offsets[:, 1])
    position = (offsets @ direction / squared).clip(0, 1)
    normals = offsets - position[:, None] * direction
    return np.hypot(normals[:, 0], normals[:, 1])


def mask_rings(bits: np.ndarray, tolerance: float = 0.0, min_iou: float = MIN_IOU) -> list[np.ndarray]:
    """Return the rings of a mask with few points.

    Parts and holes smaller than a square of four tolerances are left out. Where the IoU with the mask would be below
    `min_iou`, as for small objects, the tolerance is halved, up to four times; after that the outline is exact.

    Args:
        bits: (h, w) bool.
        tolerance: Distance in pixels by which an outline may deviate; 0 for the exact outline along pixel edges.
        min_iou: Minimum IoU of the mask and the filled rings.

    Returns:
        R rings (P, 2) of x y on the pixel grid of `bits`.
    """
    exact = contours(bits)
    if tolerance <= 0 or not exact:
        return exact
    areas = [ring_area(ring) for ring in exact]
    largest = max(areas)
    for halvings in range(_HALVINGS + 1):
        limit = tolerance / 2**halvings
        speck = (_SPECK * limit) ** 2
        large = [ring for ring, area in zip(exact, areas, strict=True) if abs(area) >= speck or area == largest]
        # Steps of one pixel cost corners many points, and midpoints few; sharp corners need the former.
        for rings in ([_without_steps(ring) for ring in large], large):
            simplified = [simplify_ring(ring, limit) for ring in rings]
            is_shorter = sum(map(len, simplified)) <= sum(map(len, exact))
            if is_shorter and _fill_iou(simplified, bits) >= min_iou:
                return simplified
    return exact


def _without_steps(ring: np.ndarray) -> np.ndarray:
    """Return the midpoints of the sides of a ring (P, 2) along pixel edges, and the corners of two long sides."""
    following = np.roll(ring, -1, axis=0)
    lengths = np.abs(following - ring).sum(1)
    corner = np.minimum(lengths, np.roll(lengths, 1)) >= _LONG_SIDE
    points = np.stack([ring, (ring + following) / 2], axis=1).reshape(-1, 2)
    return points[np.stack([corner, np.ones(len(ring), bool)], axis=1).reshape(-1)]


def _fill_iou(rings: Sequence[np.ndarray], bits: np.ndarray) -> float:
    """Return the IoU of rings, filled by the even-odd rule, and a mask (h, w) bool."""
    filled = fill_rings(rings, (bits.shape[0], bits.shape[1]))
    union = int((filled | bits).sum())
    return int((filled & bits).sum()) / union if union else 1.0


def fill_rings(rings: Sequence[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """Return the pixels whose centers are inside an odd number of rings, (H, W) bool.

    Args:
        rings: R rings (P, 2) x y.
        size: (H, W).
    """
    filled = np.zeros(size, bool)
    for ring in rings:
        x1, y1, x2, y2 = _window(Polygons((ring,)), size)
        filled[y1:y2, x1:x2] ^= inside(Polygons((ring,)), (x1, y1, x2, y2))
    return filled


def _window(shape: Polygons | Bitmap, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the pixels x1 y1 x2 y2 that contain a shape, inside an image (H, W)."""
    height, width = size
    x1, y1, x2, y2 = (float(edge) for edge in bounding_box(shape))
    left, top = min(max(0, math.floor(x1)), width), min(max(0, math.floor(y1)), height)
    return left, top, max(left, min(math.ceil(x2), width)), max(top, min(math.ceil(y2), height))


def crop_shape(shape: Polygons | Bitmap, size: tuple[int, int]) -> tuple[np.ndarray, int, int]:
    """Return the pixels of a shape inside an image as a crop.

    Args:
        shape: The shape in image pixels.
        size: (H, W) of the image.

    Returns:
        (h, w) bool, its left column x and its top row y.
    """
    window = _window(shape, size)
    return inside(shape, window), window[0], window[1]


def shape_rings(shape: Polygons | Bitmap, size: tuple[int, int], tolerance: float = 0.0) -> list[np.ndarray]:
    """Return the rings of a shape whose filling by the even-odd rule gives its pixels.

    Polygons remain as they are at a tolerance of 0. Those whose parts overlap are traced from their pixels, because the
    even-odd rule would cut out the overlap.

    Args:
        shape: The shape in image pixels.
        size: (H, W) of the image.
        tolerance: As for `mask_rings`; for polygons, of `simplify_ring`.

    Returns:
        R rings (P, 2).
    """
    if isinstance(shape, Polygons):
        parts = [part for part in shape.parts if len(part) > 2]
        if parts_disjoint(parts) or np.array_equal(fill_rings(parts, size), fill_union(parts, size)):
            rings = [part if ring_area(part) >= 0 else part[::-1] for part in parts]
            return [simplify_ring(ring, tolerance) for ring in rings] if tolerance > 0 else rings
    bits, x, y = crop_shape(shape, size)
    return [ring + np.array([x, y], np.float64) for ring in mask_rings(bits, tolerance)]


def fill_union(parts: Sequence[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """Return the pixels whose centers are inside any of the parts (P, 2), (H, W) bool.

    Args:
        parts: Polygons (P, 2) x y.
        size: (H, W).
    """
    filled = np.zeros(size, bool)
    bits, x, y = crop_shape(Polygons(tuple(parts)), size)
    filled[y : y + bits.shape[0], x : x + bits.shape[1]] = bits
    return filled


def group_rings(rings: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
    """Return the parts of an object: each outer ring (P, 2) with its holes.

    A hole belongs to the smallest outer ring that contains it.

    Args:
        rings: R rings (P, 2); outer rings with a positive area, holes with a negative one.

    Returns:
        For each outer ring a list: the ring and its holes.
    """
    parts = [[ring] for ring in rings if ring_area(ring) > 0]
    order = sorted(parts, key=lambda part: ring_area(part[0]))
    for hole in rings:
        if ring_area(hole) < 0:
            middles = (hole + np.roll(hole, -1, axis=0)) / 2
            counts = [np.count_nonzero(_contains(part[0], middles)) for part in order]
            order[int(np.argmax(np.array(counts) * 2 > len(middles))) if counts else 0].append(hole)
    return parts


def _contains(ring: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return whether points (n, 2) are inside a ring (P, 2) by the even-odd rule, (n,) bool."""
    start, end = ring, np.roll(ring, -1, axis=0)
    crosses = (start[:, 1] > points[:, 1:]) != (end[:, 1] > points[:, 1:])  # (n, P)
    rise = np.where(end[:, 1] == start[:, 1], 1.0, end[:, 1] - start[:, 1])
    x = start[:, 0] + (points[:, 1:] - start[:, 1]) / rise * (end[:, 0] - start[:, 0])
    return np.count_nonzero(crosses & (x > points[:, :1]), axis=1) % 2 == 1


def join_rings(rings: Sequence[np.ndarray]) -> np.ndarray:
    """Return one polygon that visits all rings: from ring to ring over the shortest bridge, and back over the same.

    A bridge has no area, so that filling by the even-odd rule gives the pixels of the rings, holes included.

    Args:
        rings: R rings (P, 2), R >= 1.

    Returns:
        (Q, 2), Q the number of all points and two more for each ring after the first.
    """
    joined, *others = rings
    for ring in others:
        own, other = _nearest_points(joined, ring)
        tour = np.concatenate([ring[other:], ring[: other + 1]])
        joined = np.concatenate([joined[: own + 1], tour, joined[own:]])
    return joined


def _nearest_points(first: np.ndarray, second: np.ndarray) -> tuple[int, int]:
    """Return the indices of the nearest points of two rings (P, 2)."""
    best, pair = math.inf, (0, 0)
    step = max(1, 2**20 // len(second))
    for start in range(0, len(first), step):
        distances = ((first[start : start + step, None] - second) ** 2).sum(2)
        index = int(np.argmin(distances))
        if distances.flat[index] < best:
            best, pair = float(distances.flat[index]), (start + index // len(second), index % len(second))
    return pair
