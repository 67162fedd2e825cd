"""Clipping of polygons: the same pixels inside, whatever is far outside."""

from __future__ import annotations

import numpy as np
import pytest

from sais.ops.clip_polygon import clip_polygon
from sais.ops.rasterize import Polygons, inside


def test_clip_polygon_keeps_the_pixels_inside() -> None:
    random = np.random.default_rng(0)
    for _ in range(200):
        points = random.uniform(-60, 120, (int(random.integers(3, 12)), 2))
        clipped = clip_polygon(points, 50, 40)
        expected = inside(Polygons((points,)), (0, 0, 50, 40))
        np.testing.assert_array_equal(inside(Polygons((clipped,)), (0, 0, 50, 40)), expected)
        if len(clipped):
            assert clipped.min() >= 0
            assert (clipped.max(0) <= (50, 40)).all()


@pytest.mark.parametrize("far", [1e3, 1e6, 1e9, 1e12, 1e300, 1.7e308])
def test_clip_polygon_is_exact_for_far_points(far: float) -> None:
    clipped = clip_polygon(np.array([[10, 20], [far, 20], [50, 70], [10, 70]]), 128, 96)
    assert np.isfinite(clipped).all()
    assert clipped.max() <= 128
    mask = inside(Polygons((clipped,)), (0, 0, 128, 96))
    assert mask[20:70, 10:50].all()
    assert not mask[:20].any()
    assert not mask[70:].any()


def test_clip_polygon_is_empty_outside() -> None:
    for shift in ((-200, 0), (0, -200), (200, 0), (0, 200), (-20, 0)):
        assert clip_polygon(np.array([[0, 0], [20, 0], [20, 20]]) + shift, 128, 96).shape == (0, 2)
