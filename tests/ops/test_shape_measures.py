"""Measures of masks: against loops over pixels, against regionprops of scikit-image, and on shapes with known sizes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from sais.ops.shape_measures import (
    centroid_and_orientation,
    convex_hull,
    crofton_perimeter,
    minimal_rectangle,
    perimeter,
)

REGIONPROPS = Path(__file__).with_name("regionprops.json")
"""Properties of the first masks of `random_mask` as scikit-image computes them; `write_regionprops` writes it."""
NAMES = ("area", "perimeter", "perimeter_crofton", "equivalent_diameter_area", "centroid", "orientation")


def random_mask(seed: int) -> np.ndarray:
    """Return a mask with at least one pixel: noise, ellipses with holes, or a few rectangles."""
    random = np.random.default_rng(seed)
    height, width = (int(side) for side in random.integers(1, 60, 2))
    if seed % 3 == 0:
        mask = random.random((height, width)) < random.uniform(0.3, 0.95)
    elif seed % 3 == 1:
        y, x = np.mgrid[:height, :width] + 0.5
        angle, (a, b) = random.uniform(0, math.pi), random.uniform(0.2, 0.6, 2) * max(height, width)
        u = (x - width / 2) * math.cos(angle) + (y - height / 2) * math.sin(angle)
        v = (y - height / 2) * math.cos(angle) - (x - width / 2) * math.sin(angle)
        mask = ((u / a) ** 2 + (v / b) ** 2 < 1) & ((u / a) ** 2 + (v / b) ** 2 > random.uniform(-0.5, 0.4))
    else:
        mask = np.zeros((height, width), bool)
        for _ in range(3):
            y, x = int(random.integers(0, height)), int(random.integers(0, width))
            mask[y : y + int(random.integers(1, height + 1)), x : x + int(random.integers(1, width + 1))] = True
    mask[height // 2, width // 2] = True
    return mask


def tight(mask: np.ndarray) -> np.ndarray:
    """Return the mask without empty rows and columns at its sides."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def measures_of(mask: np.ndarray) -> dict[str, float | list[float]]:
    """Return our measures in the names and conventions of scikit-image: centroids are row, column of pixel centers."""
    x, y, orientation = centroid_and_orientation(mask)
    area = int(mask.sum())
    lengths = {"perimeter": perimeter(mask), "perimeter_crofton": crofton_perimeter(mask)}
    centers = {"centroid": [y - 0.5, x - 0.5], "orientation": orientation}
    return {"area": area, "equivalent_diameter_area": math.sqrt(4 * area / math.pi), **lengths, **centers}


def assert_same_properties(ours: dict[str, float | list[float]], theirs: dict[str, float | list[float]]) -> None:
    """Assert equality up to rounding; an orientation of exactly 0 may be any where there is no major axis."""
    for name in NAMES:
        if name == "orientation":
            difference = float(ours[name]) - float(theirs[name])  # type: ignore[arg-type]
            no_axis = ours[name] == 0 and abs(float(theirs[name])) == pytest.approx(math.pi / 4)  # type: ignore[arg-type]
            assert no_axis or abs(math.sin(difference)) < 1e-8, (name, ours[name], theirs[name])
        else:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-9, abs=1e-9), name


def write_regionprops(count: int = 40) -> None:
    """Write the file of reference values; needs scikit-image."""
    import skimage

    values = [skimage_properties(random_mask(seed)) for seed in range(count)]
    REGIONPROPS.write_text(json.dumps({"scikit-image": skimage.__version__, "masks": values}))


def skimage_properties(mask: np.ndarray) -> dict[str, float | list[float]]:
    from skimage.measure import regionprops

    (region,) = regionprops(mask.astype(np.uint8))
    values = {name: getattr(region, name) for name in NAMES}
    return {name: [*map(float, value)] if name == "centroid" else float(value) for name, value in values.items()}


def test_measures_equal_stored_regionprops() -> None:
    for seed, theirs in enumerate(json.loads(REGIONPROPS.read_text())["masks"]):
        assert_same_properties(measures_of(random_mask(seed)), theirs)


def test_measures_equal_regionprops_on_500_masks() -> None:
    pytest.importorskip("skimage")
    for seed in range(500):
        assert_same_properties(measures_of(random_mask(seed)), skimage_properties(random_mask(seed)))


def test_perimeter_counts_border_pixels_by_their_neighbors() -> None:
    """By a loop over the pixels, with the published table of weights."""
    weights = {1: [5, 7, 15, 17, 25, 27], math.sqrt(2): [21, 33], (1 + math.sqrt(2)) / 2: [13, 23]}
    for seed in range(30):
        mask = np.pad(random_mask(seed), 2)
        border = np.zeros(mask.shape, bool)
        for y, x in np.argwhere(mask).tolist():
            border[y, x] = not (mask[y - 1, x] and mask[y + 1, x] and mask[y, x - 1] and mask[y, x + 1])
        total = 0.0
        for y, x in np.argwhere(border).tolist():
            near = border[y - 1 : y + 2, x - 1 : x + 2]
            corners = int(near[0, 0]) + int(near[0, 2]) + int(near[2, 0]) + int(near[2, 2])
            code = 1 + 2 * (int(near.sum()) - 1 - corners) + 10 * corners
            total += sum(weight for weight, codes in weights.items() if code in codes)
        assert perimeter(mask) == pytest.approx(total)


@pytest.mark.parametrize("radius", [10.3, 20.8, 80.5])
def test_crofton_perimeter_of_discs_is_exact_within_two_percent(radius: float) -> None:
    y, x = np.mgrid[:170, :170] - 84.2
    assert crofton_perimeter(np.hypot(x + 0.4, y) < radius) == pytest.approx(2 * math.pi * radius, rel=0.02)


def test_centroid_and_orientation_equal_the_eigenvector_of_the_pixels() -> None:
    for seed in range(60):
        mask = random_mask(seed)
        y, x = np.nonzero(mask)
        center_x, center_y, orientation = centroid_and_orientation(mask)
        assert (center_x, center_y) == pytest.approx((x.mean() + 0.5, y.mean() + 0.5))
        values, vectors = np.linalg.eigh(np.cov(np.stack([x, y]), bias=True) if len(x) > 1 else np.zeros((2, 2)))
        if values[1] - values[0] > 1e-6:
            major = vectors[:, 1]
            axis = np.array([math.sin(orientation), math.cos(orientation)])  # from the y axis, counterclockwise
            assert abs(float(major @ axis)) == pytest.approx(1.0)
    assert centroid_and_orientation(np.ones((7, 7), bool)) == (3.5, 3.5, 0.0)
    assert all(map(math.isnan, centroid_and_orientation(np.zeros((3, 4), bool))))


def test_convex_hull_contains_all_pixel_corners_and_has_no_straight_angle() -> None:
    for seed in range(120):
        mask = random_mask(seed)
        hull = convex_hull(mask)
        y, x = np.nonzero(mask)
        corners = np.concatenate([np.stack([x + i, y + j], 1) for i in (0, 1) for j in (0, 1)])
        sides = np.roll(hull, -1, axis=0) - hull
        offsets = corners - hull[:, None]
        assert (sides[:, None, 0] * offsets[..., 1] - sides[:, None, 1] * offsets[..., 0] >= 0).all()
        following = np.roll(sides, -1, axis=0)
        assert (sides[:, 0] * following[:, 1] - sides[:, 1] * following[:, 0] > 0).all()
        assert {tuple(point) for point in hull.tolist()} <= {tuple(corner) for corner in corners.tolist()}
    assert convex_hull(np.zeros((3, 3), bool)).shape == (0, 2)


@pytest.mark.parametrize("seed", range(0, 40, 4))
def test_minimal_rectangle_is_the_smallest_of_all_directions(seed: int) -> None:
    mask = random_mask(seed)
    rectangle = minimal_rectangle(mask)
    y, x = np.nonzero(mask)
    corners = np.concatenate([np.stack([x + i, y + j], 1) for i in (0, 1) for j in (0, 1)]).astype(float)
    angles = np.radians(np.arange(0, 90, 0.25))
    along = np.ptp(corners @ np.stack([np.cos(angles), np.sin(angles)]), axis=0)
    across = np.ptp(corners @ np.stack([-np.sin(angles), np.cos(angles)]), axis=0)
    areas = along * across
    assert rectangle.length >= rectangle.width > 0
    assert areas.min() * 0.97 <= rectangle.length * rectangle.width <= areas.min() + 1e-9
    direction = np.array([math.cos(math.radians(rectangle.angle)), math.sin(math.radians(rectangle.angle))])
    assert float(np.ptp(corners @ direction)) == pytest.approx(rectangle.length)


@pytest.mark.parametrize("angle", [0, 25, 45, 90, -30, -80])
def test_minimal_rectangle_finds_length_width_and_angle_of_a_bar(angle: int) -> None:
    y, x = np.mgrid[:300, :300] + 0.5 - 150
    t = math.radians(angle)
    bar = (abs(x * math.cos(t) + y * math.sin(t)) < 100) & (abs(y * math.cos(t) - x * math.sin(t)) < 30)
    rectangle = minimal_rectangle(bar)
    assert rectangle.length == pytest.approx(200, abs=1.5)
    assert rectangle.width == pytest.approx(60, abs=1.5)
    assert rectangle.angle == pytest.approx(angle, abs=0.3)
    assert centroid_and_orientation(bar)[2] % math.pi == pytest.approx(math.radians(90 - angle) % math.pi, abs=0.01)


def test_measures_of_one_pixel_and_of_none() -> None:
    one, none = np.ones((1, 1), bool), np.zeros((2, 2), bool)
    assert minimal_rectangle(one)[:2] == (1.0, 1.0)
    assert (perimeter(one), perimeter(none), crofton_perimeter(none)) == (0.0, 0.0, 0.0)
    assert crofton_perimeter(one) == pytest.approx(math.pi / 4 * (2 + math.sqrt(2)))
    assert minimal_rectangle(none)[:2] == (0.0, 0.0)
