"""Box-local masks against masks assembled at full size, and known shapes that must be restored in place."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from sais.ops.letterbox import CanvasMap, letterbox
from sais.ops.maskness import compute_maskness
from sais.ops.masks import box_masks, neighbors, pixel_window
from sais.structures import MASK_STRIDE

MIN_LOGIT = 1e-4
"""Absolute logit below which a pixel is not compared."""


def full_size_logits(prototypes: np.ndarray, coefficients: np.ndarray, canvas_map: CanvasMap) -> np.ndarray:
    """Assemble logits and sample them at the mapped pixel centers: (D, H, W) float64."""
    grid = np.einsum("dk,khw->dhw", coefficients.astype(np.float64), prototypes.astype(np.float64))
    height, width = grid.shape[1:]
    coordinates = []
    for axis, cells in ((0, height), (1, width)):
        pixels = np.arange(canvas_map.image_size[axis]) + 0.5
        on_canvas = pixels * canvas_map.scale[axis]
        coordinates.append(2 * (on_canvas / MASK_STRIDE) / cells - 1)  # -1 and 1 are the outer edges of the grid
    y, x = np.meshgrid(*coordinates, indexing="ij")
    sampled = functional.grid_sample(
        torch.from_numpy(grid)[None],
        torch.from_numpy(np.stack([x, y], 2))[None],
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )
    return sampled[0].numpy()


def paste(size: tuple[int, int], x: int, y: int, bits: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Return a cropped mask at image size, (H, W) bool."""
    mask = np.zeros(size, bool)
    mask[y : y + bits.shape[0], x : x + bits.shape[1]] = bits
    return mask


def random_canvas_map(random: np.random.Generator) -> CanvasMap:
    """Letterbox an image of a random size with a random mode."""
    height, width = random.integers(1, 170, 2).tolist()
    if random.random() < 0.5:
        canvas = (32 * random.integers(1, 6, 2)).tolist()
        return letterbox((height, width), "fixed", (canvas[0], canvas[1]))
    short, long = sorted(random.integers(20, 200, 2).tolist())
    return letterbox((height, width), "keep_ratio", (short, long))


def random_boxes(random: np.random.Generator, count: int, size: tuple[int, int]) -> np.ndarray:
    """Return boxes inside, at and beyond the border, with integer and fractional sides, some of zero area."""
    height, width = size
    corners = random.uniform(-0.3, 1.3, (count, 2, 2)) * (width, height)
    boxes = np.concatenate([corners.min(1), corners.max(1)], 1)
    kind = random.integers(0, 5, count)
    boxes[kind == 1] = boxes[kind == 1].round()
    boxes[kind == 2] = np.clip(boxes[kind == 2], 0, (width, height, width, height))
    boxes[kind == 3] = boxes[kind == 3].round() + 0.5  # exactly on pixel centers
    boxes[0] = (0, 0, width, height)
    boxes[-1, 2:] = boxes[-1, :2]
    return boxes.astype(np.float32)


@pytest.mark.parametrize("part", range(5))
def test_box_masks_equal_full_size_masks(part: int) -> None:
    margins = (0.0, 0.1)
    inside = skipped = 0
    for number in range(100):
        random = np.random.default_rng([part, number])
        canvas_map = random_canvas_map(random)
        size, canvas = canvas_map.image_size, canvas_map.canvas_size
        grid = canvas[0] // MASK_STRIDE, canvas[1] // MASK_STRIDE
        prototypes = np.maximum(random.normal(0, 1, (6, *grid)), 0).astype(np.float32)
        coefficients = np.tanh(random.normal(0, 1, (5, 6))).astype(np.float32)
        boxes = random_boxes(random, 5, size)
        margin = margins[number % 2]
        cells_per_pixel = (canvas_map.scale[0] / MASK_STRIDE, canvas_map.scale[1] / MASK_STRIDE)
        masks = list(box_masks(prototypes, coefficients, boxes, size, cells_per_pixel, margin))
        assert len(masks) == 5
        logits = full_size_logits(prototypes, coefficients, canvas_map)
        y, x = np.arange(size[0])[:, None] + 0.5, np.arange(size[1]) + 0.5
        for mask, mask_logits, box in zip(masks, logits, boxes.astype(np.float64), strict=True):
            margin_x, margin_y = margin * (box[2] - box[0]), margin * (box[3] - box[1])
            in_box = (
                (x >= box[0] - margin_x) & (x < box[2] + margin_x) & (y >= box[1] - margin_y) & (y < box[3] + margin_y)
            )
            expected = (mask_logits > 0) & in_box
            compared = np.abs(mask_logits) >= MIN_LOGIT
            np.testing.assert_array_equal(paste(size, *mask)[compared], expected[compared])
            inside += int(expected.sum())
            skipped += int((~compared & in_box).sum())
            assert mask[2].dtype == bool
    assert inside > 100_000
    assert skipped < 0.001 * inside


@pytest.mark.parametrize("factor", [1, 2, 3, 8])
def test_box_masks_at_integer_ratios_equal_torch_interpolate(factor: int) -> None:
    random = np.random.default_rng(factor)
    grid = (16, 24)
    size = (grid[0] * factor, grid[1] * factor)
    canvas_map = letterbox(size, "fixed", (grid[0] * MASK_STRIDE, grid[1] * MASK_STRIDE))
    prototypes = random.normal(0, 1, (4, *grid)).astype(np.float32)
    coefficients = random.normal(0, 1, (3, 4)).astype(np.float32)
    boxes = np.array([[0, 0, size[1], size[0]]] * 3, np.float32)
    scale = (canvas_map.scale[0] / MASK_STRIDE, canvas_map.scale[1] / MASK_STRIDE)
    masks = box_masks(prototypes, coefficients, boxes, size, scale)
    logits = torch.einsum("dk,khw->dhw", torch.from_numpy(coefficients), torch.from_numpy(prototypes))
    expected = functional.interpolate(logits[None], size=size, mode="bilinear", align_corners=False)[0].numpy()
    for (x, y, bits, _), mask_logits in zip(masks, expected, strict=True):
        assert (x, y, bits.shape) == (0, 0, size)
        compared = np.abs(mask_logits) >= MIN_LOGIT
        np.testing.assert_array_equal(bits[compared], (mask_logits > 0)[compared])


@pytest.mark.parametrize(
    ("pixels", "cells", "cells_per_pixel", "before", "weight"),
    [
        # Two cells per pixel: pixel i is at cell position 2 i + 0.5, halfway between two cells.
        (2, 4, 2.0, [0, 2], [0.5, 0.5]),
        # Half a cell per pixel: positions -0.25 (border), 0.25, 0.75, 1.25 (border).
        (4, 2, 0.5, [0, 0, 0, 0], [0, 0.25, 0.75, 1]),
        (3, 1, 0.4, [0, 0, 0], [0, 0, 0]),
    ],
)
def test_neighbors_of_known_positions(
    pixels: int, cells: int, cells_per_pixel: float, before: list[int], weight: list[float]
) -> None:
    indices, weights = neighbors(pixels, cells, cells_per_pixel)
    np.testing.assert_array_equal(indices, before)
    np.testing.assert_allclose(weights, weight)


def test_pixel_window_contains_pixel_centers_inside_the_box() -> None:
    assert pixel_window(np.array([1.5, 0.4, 3.5, 2.6]), (10, 10)) == (1, 0, 3, 3)
    assert pixel_window(np.array([1.6, 0.6, 3.4, 2.4]), (10, 10)) == (2, 1, 3, 2)
    assert pixel_window(np.array([-5.0, -5.0, 50.0, 50.0]), (7, 9)) == (0, 0, 9, 7)
    assert pixel_window(np.array([2.0, 2.0, 12.0, 7.0]), (20, 20), 0.1) == (1, 1, 13, 7)  # 1 1.5 13 7.5
    left, top, right, bottom = pixel_window(np.array([30.0, 30.0, 40.0, 40.0]), (20, 20))
    assert (right - left, bottom - top) == (0, 0)


def test_box_masks_without_detections() -> None:
    masks = box_masks(np.zeros((4, 8, 8), np.float32), np.zeros((0, 4)), np.zeros((0, 4)), (32, 32), (0.25, 0.25))
    assert list(masks) == []


def test_strips_and_memory_order_change_no_pixel(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    prototypes, coefficients = random.normal(0, 1, (4, 12, 16)).astype(np.float32), random.normal(0, 1, (3, 4))
    boxes = np.array([[0, 0, 160, 120], [3.2, 8.9, 77, 119.7], [60, 2, 160, 95]], np.float32)
    arguments = (coefficients.astype(np.float32), boxes, (120, 160), (0.1, 0.1))
    expected = list(box_masks(prototypes, *arguments))
    monkeypatch.setattr("sais.ops.masks.STRIP_PIXELS", 160 * 7)  # seven rows at once, the last strip shorter
    channels_last = np.ascontiguousarray(prototypes.transpose(1, 2, 0)).transpose(2, 0, 1)
    for first, second in zip(expected, box_masks(channels_last, *arguments), strict=True):
        assert first[:2] == second[:2]
        np.testing.assert_array_equal(first[2], second[2])
        assert 0.1 < first[2].mean() < 0.9


def ellipse(x: np.ndarray, y: np.ndarray, center: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Return the approximate signed distance to an ellipse, positive inside."""
    radius = np.hypot((x - center[0]) / radii[0], (y - center[1]) / radii[1])
    slope = np.hypot((x - center[0]) / radii[0] ** 2, (y - center[1]) / radii[1] ** 2)
    return (1 - radius) * radius / np.maximum(slope, 1e-6)


def half_planes(x: np.ndarray, y: np.ndarray, center: np.ndarray, normals: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """Return the signed distance to the nearest side of a convex polygon, positive inside."""
    sides = [r - (x - center[0]) * nx - (y - center[1]) * ny for (nx, ny), r in zip(normals, reach, strict=True)]
    return np.minimum.reduce(sides)


def make_shape(kind: str, random: np.random.Generator, room: tuple[float, float]) -> tuple:
    """Return the distance map and the box of a shape of at least 40 canvas pixels inside room (height, width)."""
    radius = float(random.uniform(20, min(room) / 2 - 4))
    center = np.array(
        [random.uniform(radius + 2, room[1] - radius - 2), random.uniform(radius + 2, room[0] - radius - 2)]
    )
    if kind == "ellipse":
        radii = np.array([radius, max(20.0, radius * random.uniform(0.7, 1))])
        return (lambda x, y: ellipse(x, y, center, radii)), np.concatenate([center - radii, center + radii])
    if kind == "rectangle":
        reach = np.array([radius, max(20.0, radius * random.uniform(0.6, 1))])
        normals = np.array([[1, 0], [-1, 0], [0, 1], [0, -1]])
        box = np.concatenate([center - reach, center + reach])
        return (lambda x, y: half_planes(x, y, center, normals, reach[[0, 0, 1, 1]])), box
    angles = np.arange(8) * np.pi / 4 + random.uniform(0, np.pi / 4)
    normals, reach = np.stack([np.cos(angles), np.sin(angles)], 1), np.full(8, radius * np.cos(np.pi / 8))
    box = np.concatenate([center - radius, center + radius])  # of the circle through the corners
    return (lambda x, y: half_planes(x, y, center, normals, reach)), box


IMAGES = {
    "smaller": ((120, 150), "fixed", (256, 320)),
    "equal": ((256, 320), "fixed", (256, 320)),
    "much larger": ((1100, 1700), "fixed", (256, 320)),
    "odd and stretched": ((401, 233), "fixed", (256, 320)),
    "kept ratio, padded": ((333, 501), "keep_ratio", (230, 333)),
    "kept ratio, upright": ((901, 467), "keep_ratio", (203, 380)),
    "kept ratio, smaller": ((97, 161), "keep_ratio", (210, 340)),
}


@pytest.mark.parametrize("kind", ["ellipse", "rectangle", "octagon"])
@pytest.mark.parametrize("name", IMAGES)
def test_box_masks_restore_a_shape_in_place(name: str, kind: str) -> None:
    size, mode, limits = IMAGES[name]
    canvas_map = letterbox(size, mode, limits)  # type: ignore[arg-type]
    if mode == "keep_ratio":
        assert canvas_map.canvas_size != (round(size[0] * canvas_map.scale[0]), round(size[1] * canvas_map.scale[1]))
    grid = canvas_map.canvas_size[0] // MASK_STRIDE, canvas_map.canvas_size[1] // MASK_STRIDE
    room = size[0] * canvas_map.scale[0], size[1] * canvas_map.scale[1]  # of the canvas, without its padding
    random = np.random.default_rng(len(name))
    worst, drift = 1.0, np.zeros(2)
    shapes = [make_shape(kind, random, room) for _ in range(6)]
    x, y = (np.arange(grid[1]) + 0.5) * MASK_STRIDE, (np.arange(grid[0]) + 0.5) * MASK_STRIDE
    prototypes = np.stack([shape(x, y[:, None]) for shape, _ in shapes]).astype(np.float32)
    # Boxes larger than the shapes, so that the masks alone determine their borders.
    boxes = canvas_map.boxes_to_image(np.stack([box for _, box in shapes]) + np.array([-3, -3, 3, 3]))
    scale = (canvas_map.scale[0] / MASK_STRIDE, canvas_map.scale[1] / MASK_STRIDE)
    masks = box_masks(prototypes, np.eye(6, dtype=np.float32), boxes, size, scale)
    x, y = (np.arange(size[1]) + 0.5) * canvas_map.scale[1], (np.arange(size[0]) + 0.5) * canvas_map.scale[0]
    for (shape, _), mask in zip(shapes, masks, strict=True):
        truth, bits = shape(x, y[:, None]) > 0, paste(size, *mask)
        worst = min(worst, (truth & bits).sum() / (truth | bits).sum())
        drift += np.argwhere(bits).mean(0) - np.argwhere(truth).mean(0)
    assert worst >= 0.99
    assert np.abs(drift / 6).max() < 0.1 / min(canvas_map.scale[0], canvas_map.scale[1], 1)  # a tenth of a canvas pixel


def test_maskness_is_the_mean_probability_of_the_cells_of_the_mask() -> None:
    random = np.random.default_rng(3)
    size, grid = (61, 83), (16, 24)
    canvas_map = letterbox(size, "fixed", (64, 96))
    scale = canvas_map.cells_per_pixel(MASK_STRIDE)
    prototypes = random.normal(0, 1, (4, *grid)).astype(np.float32)
    coefficients = random.normal(0, 1, (6, 4)).astype(np.float32)
    boxes = random_boxes(random, 6, size)
    boxes[1] = (20, 30, 20.2, 30.2)  # no pixel
    results = list(box_masks(prototypes, coefficients, boxes, size, scale, 0.05))
    for i, (x, y, bits, logits) in enumerate(results):
        if not bits.size:
            assert compute_maskness(logits) == 0.5
            continue
        columns, rows = (
            {
                neighbor
                for pixel in range(first, first + count)
                for neighbor in (int(neighbors(length, cells, factor)[0][pixel]) + k for k in (0, 1))
            }
            for first, count, length, cells, factor in (
                (x, bits.shape[1], size[1], grid[1], scale[1]),
                (y, bits.shape[0], size[0], grid[0], scale[0]),
            )
        )
        cells = [
            float(coefficients[i].astype(np.float64) @ prototypes[:, row, column].astype(np.float64))
            for row in sorted(rows)
            for column in sorted(columns)
        ]
        assert logits.size == len(cells)
        probabilities = [1 / (1 + np.exp(-cell)) for cell in cells if cell > 0]
        assert compute_maskness(logits) == pytest.approx(np.mean(probabilities) if probabilities else 0.5, abs=1e-5)


def test_formula_of_the_documentation_is_maskness(root: Path) -> None:
    page = (root / "docs/export.md").read_text(encoding="utf-8")
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "maskness = " in block)
    random = np.random.default_rng(4)
    size, grid = (61, 83), (16, 24)
    cells_per_pixel = letterbox(size, "fixed", (64, 96)).cells_per_pixel(MASK_STRIDE)
    logits = random.normal(-0.5, 1, grid).astype(np.float32)
    boxes = random_boxes(random, 60, size).clip(0, (*size[::-1], *size[::-1]))
    masks = box_masks(logits[None], np.ones((60, 1), np.float32), boxes, size, cells_per_pixel)
    factors = set()
    for box, result in zip(boxes, masks, strict=True):
        if not result[2].size:
            continue
        corners = dict(zip(("x1", "y1", "x2", "y2"), np.ceil(box - 0.5).astype(int), strict=True))
        values = {"np": np, "logits": logits, "cells_per_pixel": cells_per_pixel, **corners}
        exec(code, values)
        assert values["maskness"] == pytest.approx(compute_maskness(result[3]), abs=1e-6)
        factors.add(values["maskness"])
    assert len(factors) > 30


def test_maskness_of_an_empty_mask_is_its_limit() -> None:
    assert compute_maskness(np.full((2, 3), -0.1, np.float32)) == 0.5
    assert compute_maskness(np.array([[-5, 1e-6]], np.float32)) == pytest.approx(0.5, abs=1e-6)
    assert compute_maskness(np.array([[200.0, 90.0]], np.float32)) == 1.0
