"""Contours of masks: filling them restores the mask exactly."""

from __future__ import annotations

import numpy as np

from sais.ops.contours import contours
from tests.ops.mask_samples import random_masks


def fill_contours(rings: list[np.ndarray], height: int, width: int) -> np.ndarray:
    """Fill rings by the even-odd rule: a ray to the left from a set pixel's center crosses an odd number of edges."""
    mask = np.zeros((height, width), bool)
    rows = np.arange(height) + 0.5
    for ring in rings:
        for (x1, y1), (x2, y2) in zip(ring, np.roll(ring, -1, 0), strict=True):
            if x1 == x2:
                hit = (rows > min(y1, y2)) & (rows < max(y1, y2))
                mask[np.ix_(hit, np.arange(width) + 0.5 > x1)] ^= True
    return mask


def signed_area(ring: np.ndarray) -> float:
    """Return the area by the shoelace formula; positive is clockwise on the screen, where y points down."""
    x, y = ring.T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


def test_filled_contours_restore_the_mask() -> None:
    for bits in random_masks(3, 150):
        rings = contours(bits)
        np.testing.assert_array_equal(fill_contours(rings, *bits.shape), bits)
        assert sum(signed_area(ring) for ring in rings) == bits.sum()
        for ring in rings:
            steps = np.roll(ring, -1, 0) - ring
            assert ((steps == 0).sum(1) == 1).all()  # each side is parallel to an axis
            assert ((steps[:, 0] == 0) != (np.roll(steps, -1, 0)[:, 0] == 0)).all()  # each corner changes the axis


def test_contours_of_a_ring_and_a_diagonal() -> None:
    ring = np.ones((5, 6), bool)
    ring[1:4, 2:4] = False
    outer, hole = contours(ring)
    assert signed_area(outer) == 30
    assert signed_area(hole) == -6
    assert outer.tolist() == [[0, 0], [6, 0], [6, 5], [0, 5]]
    assert len(contours(np.eye(3, dtype=bool))) == 3  # pixels that touch at a corner are separate parts
    assert contours(np.zeros((4, 4), bool)) == []
    assert contours(np.zeros((0, 0), bool)) == []
