"""Outlines: simplified rings against the pixels of random masks, and joined rings that fill the same pixels."""

from __future__ import annotations

import numpy as np
import pytest

from sais.ops.contours import contours
from sais.ops.outlines import (
    fill_rings,
    group_rings,
    join_rings,
    mask_rings,
    ring_area,
    shape_rings,
    simplify_ring,
)
from sais.ops.rasterize import Bitmap, Polygons, inside


def random_blob(random: np.random.Generator, size: int) -> np.ndarray:
    """Return a smooth mask (size, size) bool with up to two holes."""
    y, x = np.mgrid[:size, :size] + 0.5 - size / 2
    angle, radius = np.arctan2(y, x), np.full((size, size), size * 0.36)
    for k in range(2, 7):
        radius += size * 0.08 * random.normal() / k * np.cos(k * angle + random.uniform(0, 6))
    mask = np.hypot(x, y) < radius
    for _ in range(random.integers(0, 3)):
        center = random.uniform(-0.15, 0.15, 2) * size
        mask &= np.hypot(x - center[0], y - center[1]) > random.uniform(0.03, 0.12) * size
    return mask


def iou(first: np.ndarray, second: np.ndarray) -> float:
    """Return the IoU of two masks (H, W) bool."""
    return float((first & second).sum() / (first | second).sum())


@pytest.mark.parametrize(("size", "fraction"), [(20, 1.0), (60, 0.35), (300, 0.1)])
def test_mask_rings_has_iou_of_098_with_few_points(size: int, fraction: float) -> None:
    random = np.random.default_rng(size)
    points = []
    for _ in range(15):
        mask = random_blob(random, size)
        rings = mask_rings(mask, 1.0)
        assert iou(fill_rings(rings, mask.shape), mask) >= 0.98
        points.append(sum(map(len, rings)) / sum(map(len, contours(mask))))
    assert np.mean(points) <= fraction


def test_mask_rings_is_exact_at_tolerance_zero_and_for_tiny_masks() -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        mask = random.random((7, 9)) < 0.5
        for tolerance in (0.0, 1.0):
            filled = fill_rings(mask_rings(mask, tolerance), mask.shape)
            assert not mask.any() or iou(filled, mask) >= (0.98 if tolerance else 1.0)
    assert mask_rings(np.zeros((3, 4), bool), 1.0) == []


def test_mask_rings_has_no_more_points_than_the_exact_outline() -> None:
    mask = np.ones((10, 10), bool)
    for tolerance in (0.5, 1.0, 50.0, 1e9):  # too coarse a tolerance gave the middles of the sides as well
        np.testing.assert_array_equal(*(sorted(mask_rings(mask, t)[0].tolist()) for t in (tolerance, 0.0)))


def test_mask_rings_leaves_out_specks_and_pinholes() -> None:
    mask = np.zeros((60, 60), bool)
    mask[5:50, 5:50] = True
    mask[20:22, 20:22] = False
    mask[56:58, 56:58] = True
    (ring,) = mask_rings(mask, 1.0)
    np.testing.assert_array_equal(sorted(ring.tolist()), [[5, 5], [5, 50], [50, 5], [50, 50]])
    assert len(mask_rings(mask, 1.0, min_iou=1.0)) == 3


def test_simplify_ring_removes_no_point_farther_than_the_tolerance() -> None:
    random = np.random.default_rng(1)
    for _ in range(20):
        angle = np.sort(random.uniform(0, 2 * np.pi, 200))
        ring = np.stack([np.cos(angle), np.sin(angle)], 1) * random.uniform(20, 22, (200, 1))
        simple = simplify_ring(ring, 0.8)
        assert 3 <= len(simple) < len(ring)
        start, end = simple, np.roll(simple, -1, axis=0)
        for point in ring:  # the slow way: its distance from every side
            direction = end - start
            position = (((point - start) * direction).sum(1) / (direction**2).sum(1)).clip(0, 1)
            distances = np.hypot(*(start + position[:, None] * direction - point).T)
            assert distances.min() <= 0.8 + 1e-9


def test_join_rings_fills_the_same_pixels_with_parts_and_holes() -> None:
    random = np.random.default_rng(2)
    for _ in range(150):
        height, width = random.integers(3, 40, 2)
        mask = random.random((height, width)) < random.uniform(0.2, 0.95)
        mask[0, 0] = True
        rings = contours(mask)
        joined = join_rings(rings)
        assert len(joined) == sum(map(len, rings)) + 2 * (len(rings) - 1)
        np.testing.assert_array_equal(inside(Polygons((joined,)), (0, 0, width, height)), mask)
        assert ring_area(joined) == pytest.approx(mask.sum())


def test_group_rings_gives_each_hole_to_its_part() -> None:
    random = np.random.default_rng(3)
    for _ in range(60):
        mask = random.random(random.integers(3, 40, 2)) < random.uniform(0.3, 0.9)
        parts = group_rings(contours(mask))
        filled = [fill_rings(part, mask.shape) for part in parts]
        assert all(part[0].size and ring_area(part[0]) > 0 for part in parts)
        assert not any((pixels & ~mask).any() for pixels in filled)
        np.testing.assert_array_equal(sum(pixels.astype(int) for pixels in filled) if filled else 0 * mask, mask)


def test_shape_rings_keeps_polygons_and_traces_those_that_overlap() -> None:
    first, second = np.array([[1.5, 1], [9, 1], [9, 8.25]]), np.array([[12.0, 2], [18, 2], [18, 9], [12, 9]])
    rings = shape_rings(Polygons((first, second)), (20, 20))
    np.testing.assert_array_equal(rings[0], first)
    np.testing.assert_array_equal(rings[1], second)
    overlapping = Polygons((second, second + 2))
    window = (0, 0, 20, 20)
    filled = fill_rings(shape_rings(overlapping, (20, 20)), (20, 20))
    np.testing.assert_array_equal(filled, inside(overlapping, window))
    assert not np.array_equal(fill_rings(overlapping.parts, (20, 20)), filled)  # which the even-odd rule would lose


def test_shape_rings_places_a_bitmap_in_the_image() -> None:
    bits = np.array([[True, False], [True, True]])
    (ring,) = shape_rings(Bitmap(bits, (3, 4, 5, 6)), (10, 10))
    np.testing.assert_array_equal(fill_rings([ring], (10, 10))[4:6, 3:5], bits)
