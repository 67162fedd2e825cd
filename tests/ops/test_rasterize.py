"""Rasterization of shapes: against a point-by-point reference, against bitmaps, and after transforms."""

from __future__ import annotations

import numpy as np
import pytest

from sais.ops.rasterize import (
    Bitmap,
    ObjectMask,
    Polygons,
    bounding_box,
    coverage,
    coverages,
    cut_mask,
    hflip_mask,
    inside,
    parts_disjoint,
    transform_mask,
)


def slow_inside(mask: ObjectMask, x: float, y: float) -> bool:
    """Return whether a point is inside a shape, by definition."""
    if isinstance(mask, Bitmap):
        x1, y1, x2, y2 = mask.box
        height, width = mask.bits.shape
        if not (x1 <= x < x2 and y1 <= y < y2):
            return False
        return bool(mask.bits[int((y - y1) / (y2 - y1) * height), int((x - x1) / (x2 - x1) * width)])
    for part in mask.parts:
        crossings = 0
        for (xa, ya), (xb, yb) in zip(part, np.roll(part, -1, axis=0), strict=True):
            if (ya <= y) != (yb <= y):
                crossings += x >= xa + (y - ya) * (xb - xa) / (yb - ya)
        if crossings % 2:
            return True
    return False


def slow_coverage(mask: ObjectMask, window: tuple[int, int, int, int], cell: float, samples: int) -> np.ndarray:
    """Return the coverage of a window, computed point by point."""
    x1, y1, x2, y2 = window
    out = np.zeros((y2 - y1, x2 - x1), np.uint8)
    offsets = (np.arange(samples) + 0.5) / samples
    for i in range(y2 - y1):
        for j in range(x2 - x1):
            hits = [slow_inside(mask, (x1 + j + a) * cell, (y1 + i + b) * cell) for a in offsets for b in offsets]
            out[i, j] = round(sum(hits) / samples**2 * 255 + 1e-9)
    return out


def random_polygons(random: np.random.Generator) -> Polygons:
    """Return one to three self-intersecting parts, partly outside the window."""
    return Polygons(tuple(random.uniform(-8, 40, (random.integers(3, 9), 2)) for _ in range(random.integers(1, 4))))


@pytest.mark.parametrize("seed", range(12))
def test_coverage_and_inside_of_polygons_equal_the_definition(seed: int) -> None:
    random = np.random.default_rng(seed)
    mask = random_polygons(random)
    window = (-1, 0, 8, 7)
    np.testing.assert_array_equal(coverage(mask, window), slow_coverage(mask, window, 4.0, 4))
    slow = np.array([[slow_inside(mask, x + 0.5, y + 0.5) for x in range(3, 30)] for y in range(-2, 28)])
    np.testing.assert_array_equal(inside(mask, (3, -2, 30, 28)), slow)


def test_inside_counts_vertices_on_sample_points_once() -> None:
    """Use vertices and edges exactly on sample points, which scanline algorithms often count twice."""
    random = np.random.default_rng(5)
    for _ in range(30):
        mask = Polygons((random.integers(0, 10, (6, 2)) + 0.5,))
        slow = np.array([[slow_inside(mask, x + 0.5, y + 0.5) for x in range(10)] for y in range(10)])
        np.testing.assert_array_equal(inside(mask, (0, 0, 10, 10)), slow)


def test_coverage_of_a_square() -> None:
    square = Polygons((np.array([[2.0, 2.0], [10.0, 2.0], [10.0, 6.0], [2.0, 6.0]]),))
    expected = np.rint(np.outer([0.5, 0.5], [0.5, 1.0, 0.5, 0.0]) * 255)
    np.testing.assert_array_equal(coverage(square, (0, 0, 4, 2)), expected)
    assert inside(square, (0, 0, 12, 8)).sum() == 32
    np.testing.assert_array_equal(bounding_box(square), [2, 2, 10, 6])


def test_inside_is_even_odd_in_a_part_and_the_union_of_parts() -> None:
    outer = np.array([[0.0, 0.0], [8.0, 0.0], [8.0, 8.0], [0.0, 8.0]])
    inner = np.array([[2.0, 2.0], [6.0, 2.0], [6.0, 6.0], [2.0, 6.0]])
    assert inside(Polygons((outer, inner)), (0, 0, 8, 8)).all()
    bridged = np.concatenate([outer, outer[:1], inner, inner[:1]])
    ring = inside(Polygons((bridged,)), (0, 0, 8, 8))
    assert ring.sum() == 64 - 16
    assert not ring[2:6, 2:6].any()


def test_inside_of_a_bitmap_at_its_own_scale_is_the_bitmap() -> None:
    bits = np.random.default_rng(0).random((5, 7)) < 0.5
    mask = Bitmap(bits, (3.0, 2.0, 10.0, 7.0))
    expected = np.zeros((9, 12), bool)
    expected[2:7, 3:10] = bits
    np.testing.assert_array_equal(inside(mask, (0, 0, 12, 9)), expected)
    np.testing.assert_array_equal(inside(mask, (5, 3, 9, 6)), expected[3:6, 5:9])


@pytest.mark.parametrize("seed", range(4))
def test_coverage_of_bitmaps_equals_the_definition(seed: int) -> None:
    random = np.random.default_rng(seed)
    box = tuple(random.uniform(0, 8, 2)) + tuple(random.uniform(14, 30, 2))
    mask = Bitmap(random.random((6, 5)) < 0.5, box)  # type: ignore[arg-type]
    np.testing.assert_array_equal(coverage(mask, (0, -1, 8, 8)), slow_coverage(mask, (0, -1, 8, 8), 4.0, 4))


@pytest.mark.parametrize("kind", ["polygons", "bitmap"])
def test_transform_and_hflip_move_and_mirror_the_raster(kind: str) -> None:
    random = np.random.default_rng(1)
    mask: ObjectMask = random_polygons(random)
    if kind == "bitmap":
        mask = Bitmap(random.random((9, 8)) < 0.6, (4.0, 5.0, 12.0, 14.0))
    plain = inside(mask, (0, 0, 32, 24))
    np.testing.assert_array_equal(inside(transform_mask(mask, 1, 1, 3, -2), (3, -2, 35, 22)), plain)
    # After scaling by 4, a cell of side 4 covers one original pixel.
    np.testing.assert_array_equal(
        coverage(transform_mask(mask, 4, 4, 0, 0), (0, 0, 32, 24)), coverage(mask, (0, 0, 32, 24), cell=1.0)
    )
    mirrored = hflip_mask(mask, 32)
    np.testing.assert_array_equal(inside(mirrored, (0, 0, 32, 24)), plain[:, ::-1])
    np.testing.assert_allclose(bounding_box(hflip_mask(mirrored, 32)), bounding_box(mask), atol=1e-5)


def test_bounding_box_of_a_bitmap_is_tight() -> None:
    bits = np.zeros((4, 10), bool)
    bits[1:3, 2:7] = True
    np.testing.assert_allclose(bounding_box(Bitmap(bits, (10.0, 20.0, 30.0, 40.0))), [14, 25, 24, 35])


@pytest.mark.parametrize(
    "mask", [Polygons(()), Polygons((np.zeros((2, 2)),)), Bitmap(np.zeros((0, 0), bool), (0.0, 0.0, 0.0, 0.0))]
)
def test_empty_shapes_cover_nothing(mask: ObjectMask) -> None:
    assert coverage(mask, (0, 0, 3, 2)).shape == (2, 3)
    assert not coverage(mask, (0, 0, 3, 2)).any()
    assert inside(mask, (4, 4, 4, 9)).shape == (5, 0)
    np.testing.assert_array_equal(bounding_box(mask), np.zeros(4))


def test_coverage_adds_up_to_the_area_of_a_disc() -> None:
    angles = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    disc = Polygons((np.stack([100 + 60 * np.cos(angles), 90 + 60 * np.sin(angles)], 1),))
    area = coverage(disc, (0, 0, 50, 50)).astype(float).sum() / 255 * 16
    assert area == pytest.approx(np.pi * 3600, rel=2e-3)


def test_coverages_of_several_shapes_equal_inside() -> None:
    """Use overlapping and disjoint parts, and windows that cut them or are empty."""
    random = np.random.default_rng(0)
    disjoint = 0
    for _ in range(150):
        masks: list[ObjectMask] = []
        windows = []
        for _ in range(int(random.integers(0, 5))):
            parts = tuple(
                random.uniform(-20, 120, (random.integers(0, 9), 2)) * random.uniform(0.1, 1) for _ in range(2)
            )
            masks.append(Polygons(parts[: random.integers(0, 3)]))
            disjoint += parts_disjoint(masks[-1].parts) and len(masks[-1].parts) == 2  # type: ignore[union-attr]
            x, y, w, h = random.integers(0, 15, 4).tolist()
            windows.append((x, y, x + w, y + h))
        for mask, (x1, y1, x2, y2), values in zip(masks, windows, coverages(masks, windows), strict=True):
            points = inside(transform_mask(mask, 1, 1, 0, 0), (x1 * 4, y1 * 4, x2 * 4, y2 * 4))
            fraction = points.reshape(y2 - y1, 4, x2 - x1, 4).mean((1, 3))
            np.testing.assert_array_equal(values, np.rint(fraction * 255))
            assert values.dtype == np.uint8
    assert disjoint > 20


@pytest.mark.parametrize("seed", range(6))
def test_coverages_of_a_cut_shape_do_not_depend_on_the_cut_outside_of_the_window(seed: int) -> None:
    """Such a shape is rasterized as if it were not cut, which is faster."""
    random = np.random.default_rng(seed)
    shape = Polygons((random.uniform(0, 60, (9, 2)),))
    whole, part = cut_mask(shape, (4, 8, 44, 48)), cut_mask(shape, (6.5, 8, 44, 48))
    window = (1, 2, 11, 12)  # 4 8 44 48 in cells of 4
    expected = coverage(shape, window)
    assert expected.any()
    np.testing.assert_array_equal(coverage(whole, window), expected)
    cut = coverage(part, window)
    np.testing.assert_array_equal(cut[:, 1:], expected[:, 1:])
    assert (cut[:, 0] <= expected[:, 0]).all()
