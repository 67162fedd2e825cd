"""Extents of shapes from runs of pixels, compared with those of their bitmaps."""

from __future__ import annotations

import numpy as np
import pytest

from sais.ops.pixel_extent import extent_of_bits, pixel_extents
from sais.ops.rasterize import Bitmap, ObjectMask, Polygons, bounding_box, cut_mask, inside


def random_shape(random: np.random.Generator) -> ObjectMask:
    """Return a star-shaped or self-intersecting polygon, two separate or overlapping parts, or a bitmap."""
    kind = int(random.integers(6))
    count = int(random.integers(3, 12))
    points = random.uniform(2, 60, (count, 2))
    if random.random() < 0.3:
        points = np.round(points * 2) / 2  # points on pixel centers and edges
    if kind == 0:
        return Bitmap(random.random((7, 9)) < 0.4, (3.0, 4.5, 40.0, 52.25))
    if kind == 1:
        return Polygons((points, points + np.array([70, 0])))
    if kind == 2:
        return Polygons((points, points + np.array([5, 3])))
    if kind == 3:
        return Polygons((points * 0.02 + 20, np.zeros((0, 2))))  # mostly without a pixel center
    return Polygons((points,))


@pytest.mark.parametrize("seed", range(200))
def test_pixel_extents_equal_those_of_bitmaps(seed: int) -> None:
    random = np.random.default_rng(seed)
    shape = random_shape(random)
    extent = bounding_box(shape)
    low, high = np.floor(extent[:2]).astype(int).tolist(), np.ceil(extent[2:]).astype(int).tolist()
    window = (*low, *high)
    corners = np.sort(random.uniform(0, 70, (2, 2)), axis=0)
    if seed % 2:
        corners = np.round(corners * 2) / 2
    within = tuple(corners.reshape(-1).tolist())
    visible_shape = cut_mask(shape, within)
    full, visible = inside(shape, window), inside(visible_shape, window)
    for actual, bits in zip(pixel_extents(shape, visible_shape, window, within), (full, visible), strict=True):
        assert actual == extent_of_bits(bits)
        assert actual.area == bits.sum()
        if bits.any():
            rows, columns = np.nonzero(bits)
            assert actual.first == (columns.min(), rows.min())
            assert actual.last == (columns.max(), rows.max())
    assert pixel_extents(shape, visible_shape, window, None)[1] == extent_of_bits(visible)
