"""Masks packed in fixed shapes have the windows and the pixels of the masks that the host assembles."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sais.ops import masks, masks_on_device
from sais.ops.letterbox import CanvasMap, letterbox
from sais.ops.maskness import compute_maskness
from sais.ops.masks_on_device import image_boxes, map_tensors, masknesses, pack_masks, pixel_windows

MAX_LOGIT = 1e-5
"""Absolute logit up to which a pixel may differ: sums of 32 products are added up in another order."""


def maps_of(seed: int, batch: int) -> tuple[list[CanvasMap], torch.Generator]:
    random = np.random.default_rng(seed)
    sizes = random.integers(1, 150, (batch, 2)).tolist()
    canvas = (32 * random.integers(1, 5, 2)).tolist()
    maps = [letterbox((height, width), "fixed", (canvas[0], canvas[1])) for height, width in sizes]
    if seed % 2:  # an image in the middle of its canvas, not stretched
        maps[-1] = CanvasMap((20, 30), (canvas[0], canvas[1]), (0.7, 0.7), (3.2, 1.5))
    return maps, torch.Generator().manual_seed(seed)


def random_boxes(maps: list[CanvasMap], count: int, generator: torch.Generator) -> torch.Tensor:
    """Return boxes on the canvas of fractional and whole sides, some beyond it or without area."""
    height, width = maps[0].canvas_size
    corners = torch.rand(len(maps), count, 2, 2, generator=generator) * 1.4 - 0.2
    corners = (corners * torch.tensor([width, height])).sort(2).values
    corners[:, ::3] = corners[:, ::3].round()
    corners[:, 1::7, 1, 0] = corners[:, 1::7, 0, 0]
    return corners.flatten(2)


def assert_same_pixels(
    bits: np.ndarray, expected: np.ndarray, logits: np.ndarray, window: tuple[int, int, int, int]
) -> int:
    """Compare the bits of a window where the logits (H, W) are not close to 0; return the number of other pixels."""
    x1, y1, x2, y2 = window
    near = np.abs(logits[y1:y2, x1:x2]) <= MAX_LOGIT
    np.testing.assert_array_equal(bits | near, expected | near)
    return int(near.sum())


def logits_of(prototypes: np.ndarray, coefficients: np.ndarray, canvas_map: CanvasMap) -> np.ndarray:
    """Return the logits (H, W) float64 of one mask."""
    grid = np.einsum("khw,k->hw", prototypes.astype(np.float64), coefficients.astype(np.float64))
    cells = canvas_map.cells_per_pixel(4)
    for axis in (0, 1):
        before, weight = masks.neighbors(canvas_map.image_size[axis], grid.shape[axis], cells[axis])
        after = np.minimum(before + 1, grid.shape[axis] - 1)
        weight = weight.reshape((-1, 1) if axis == 0 else (1, -1)).astype(np.float64)
        grid = grid.take(before, axis) * (1 - weight) + grid.take(after, axis) * weight
    return grid


@pytest.mark.parametrize("margin", [0.0, 0.17])
@pytest.mark.parametrize("seed", range(8))
def test_packed_masks_are_those_of_the_host(seed: int, margin: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masks_on_device, "CHUNK_PIXELS", 4096)  # masks extend over several chunks
    batch, count = 3, 12
    maps, generator = maps_of(seed, batch)
    height, width = (side // 4 for side in maps[0].canvas_size)
    boxes = random_boxes(maps, count, generator)
    coefficients = torch.randn(batch, count, 8, generator=generator).tanh()
    prototypes = torch.randn(batch, 8, height, width, generator=generator).relu()
    visible = torch.rand(batch, count, generator=generator) < 0.8
    tensors, side = map_tensors(maps, 4), max(max(canvas_map.image_size) for canvas_map in maps)
    result = pack_masks(boxes, coefficients, prototypes, visible, tensors, side, 60_000, margin)
    first, near, pixels = 0, 0, 0
    for image, canvas_map in enumerate(maps):
        mapped = canvas_map.boxes_to_image(boxes[image].numpy())
        np.testing.assert_array_equal(image_boxes(boxes, tensors)[image].numpy(), mapped)
        arrays = prototypes[image].numpy(), coefficients[image].numpy()
        expected = masks.box_masks(*arrays, mapped, canvas_map.image_size, canvas_map.cells_per_pixel(4), margin)
        for index, (x, y, bits, _) in enumerate(expected):
            if not visible[image, index]:
                continue
            window = (x, y, x + bits.shape[1], y + bits.shape[0])
            assert tuple(result.windows[image, index].tolist()) == window
            length = -(-bits.size // 8)
            packed = result.packed[first : first + length].numpy()
            unpacked = np.unpackbits(packed)
            assert not unpacked[bits.size :].any()
            logits = logits_of(prototypes[image].numpy(), arrays[1][index], canvas_map)
            near += assert_same_pixels(unpacked[: bits.size].reshape(bits.shape).astype(bool), bits, logits, window)
            first += length
            pixels += bits.size
    assert result.length == first
    assert not result.packed[first:].any()
    assert near <= 1 + pixels // 10_000
    assert pixels > 500


@pytest.mark.parametrize("margin", [0.0, 0.17])
@pytest.mark.parametrize("seed", range(8))
def test_maskness_is_that_of_the_host(seed: int, margin: float) -> None:
    batch, count = 3, 24
    maps, generator = maps_of(seed, batch)
    height, width = (side // 4 for side in maps[0].canvas_size)
    boxes = random_boxes(maps, count, generator)
    coefficients = torch.randn(batch, count, 8, generator=generator)
    coefficients[:, ::5] = coefficients[:, ::5].abs().neg()  # empty masks
    prototypes = torch.randn(batch, 8, height, width, generator=generator).relu()
    result = masknesses(boxes, coefficients, prototypes, map_tensors(maps, 4), margin)
    near, different = 0, set()
    for image, canvas_map in enumerate(maps):
        mapped = canvas_map.boxes_to_image(boxes[image].numpy())
        arrays = prototypes[image].numpy(), coefficients[image].numpy()
        expected = masks.box_masks(*arrays, mapped, canvas_map.image_size, canvas_map.cells_per_pixel(4), margin)
        for index, (_, _, _, logits) in enumerate(expected):
            if ((np.abs(logits) <= MAX_LOGIT) & (logits != 0)).any():  # may be positive in the other order of sums
                near += 1
                continue
            assert result[image, index].item() == pytest.approx(compute_maskness(logits), abs=1e-6)
            different.add(round(result[image, index].item(), 4))
    assert near <= 2
    assert len(different) > 20
    assert 0.5 in different


def test_a_list_beyond_the_capacity_states_the_bytes_needed() -> None:
    maps, generator = maps_of(2, 2)
    height, width = (side // 4 for side in maps[0].canvas_size)
    boxes = torch.tensor([0.0, 0.0, 4 * width, 4 * height]).expand(2, 5, 4)
    coefficients = torch.ones(2, 5, 1)
    prototypes = torch.rand(2, 1, height, width, generator=generator) + 0.1
    visible = torch.ones(2, 5, dtype=torch.bool)
    side = max(max(canvas_map.image_size) for canvas_map in maps)
    needed = sum(5 * -(-canvas_map.image_size[0] * canvas_map.image_size[1] // 8) for canvas_map in maps)
    result = pack_masks(boxes, coefficients, prototypes, visible, map_tensors(maps, 4), side, needed - 1)
    assert result.length == needed
    assert len(result.packed) == needed - 1
    assert (result.packed[:100] == 255).all()
    none = pack_masks(boxes, coefficients, prototypes, ~visible, map_tensors(maps, 4), side, 64)
    assert none.length == 0
    assert not none.packed.any()


@pytest.mark.parametrize("margin", [0.0, 0.1, 1 / 3])
def test_windows_are_those_of_the_host_to_the_last_bit(margin: float) -> None:
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(1, 2000, 2, 2, generator=generator).mul(120).sort(2).values
    boxes[:, :500] = boxes[:, :500].mul(2).round().div(2)  # edges at pixel centers
    boxes[:, 500:700] *= 1e-8
    boxes = boxes.flatten(2)
    windows = pixel_windows(boxes, torch.tensor([[100, 110]]), margin)
    for box, window in zip(boxes[0].numpy(), windows[0].tolist(), strict=True):
        assert tuple(window) == masks.pixel_window(box, (100, 110), margin)


def test_neighbors_are_those_of_the_host() -> None:
    scales = torch.tensor([0.11, 0.25, 1.7, 0.001], dtype=torch.float64)
    for cells in (1, 2, 24):
        before, weight = masks_on_device.neighbors(133, cells, scales)
        for row, scale in enumerate(scales.tolist()):
            expected = masks.neighbors(133, cells, scale)
            np.testing.assert_array_equal(before[row].numpy(), expected[0])
            np.testing.assert_array_equal(weight[row].numpy(), expected[1])
