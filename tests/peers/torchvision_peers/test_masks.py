"""Tests of Mask R-CNN's masks: targets, loss and both pasting methods, by value and against torchvision."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import paste_masks_in_image

from peers.torchvision_peers.losses import SampledRegions, sample_mask_regions
from peers.torchvision_peers.masks import coverage_grids, full_masks, mask_loss, mask_targets, paste_masks
from sais.results.cropped_mask import CroppedMask
from tests.peers.torchvision_peers.torchvision_samples import TWO, objects_of


def bilinear(grid: Tensor, x: float, y: float) -> float:
    """Interpolate at a point in cells; clamped at the border, and 0 more than half a cell outside the grid."""
    height, width = grid.shape
    x, y = x - 0.5, y - 0.5
    if x < -1 or y < -1 or x > width or y > height:
        return 0.0
    x, y = min(max(x, 0), width - 1), min(max(y, 0), height - 1)
    left, top = min(int(x), width - 2), min(int(y), height - 2)
    across, down = x - left, y - top
    upper = (1 - across) * float(grid[top, left]) + across * float(grid[top, left + 1])
    lower = (1 - across) * float(grid[top + 1, left]) + across * float(grid[top + 1, left + 1])
    return (1 - down) * upper + down * lower


def test_coverage_grids_place_windows() -> None:
    objects = objects_of([[8.0, 4.0, 16.0, 16.0], [0.0, 0.0, 4.0, 8.0]])
    grids = coverage_grids(objects, (6, 7))
    assert grids.shape == (2, 6, 7)
    torch.testing.assert_close(grids[0, 1:4, 2:4].flatten(), objects.mask_values[:6] / 255)
    torch.testing.assert_close(grids[1, :2, :1].flatten(), objects.mask_values[6:] / 255)
    assert (grids[0] > 0).sum() <= 6
    assert (grids[1] > 0).sum() <= 2


def test_mask_targets_equal_loop() -> None:
    objects = objects_of(TWO)
    regions = torch.tensor([[6.0, 10.0, 52.0, 66.0], [40.0, 30.0, 90.0, 80.0], [0.5, 41.0, 95.5, 63.3]])
    matched, side = torch.tensor([0, 1, 1]), 7
    actual = mask_targets(objects, regions, matched, (24, 24), side)
    grids = coverage_grids(objects, (24, 24))
    for target, index, box in zip(actual, matched, regions, strict=True):
        x1, y1, x2, y2 = (box / 4).tolist()
        points = [
            math.ceil((y2 - y1) / side),
            math.ceil((x2 - x1) / side),
        ]  # samples per cell
        for row in range(side):
            for column in range(side):
                samples = [
                    bilinear(
                        grids[index],
                        x1 + (column + (i + 0.5) / points[1]) * (x2 - x1) / side,
                        y1 + (row + (j + 0.5) / points[0]) * (y2 - y1) / side,
                    )
                    for i in range(points[1])
                    for j in range(points[0])
                ]
                assert float(target[row, column]) == pytest.approx(sum(samples) / len(samples), abs=1e-5)
    assert mask_targets(objects, regions[:0], matched[:0], (24, 24)).shape == (0, 28, 28)


def test_mask_loss_uses_the_class_of_each_region() -> None:
    logits = torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(3))
    targets = torch.rand(3, 5, 5, generator=torch.Generator().manual_seed(4))
    labels = torch.tensor([1, 3, 2])
    total = 0.0
    for region, label in enumerate(labels):
        for t, p in zip(targets[region].flatten(), logits[region, label].sigmoid().flatten(), strict=True):
            total -= float(t * p.log() + (1 - t) * (1 - p).log())
    assert float(mask_loss(logits, labels, targets)) == pytest.approx(total / 75, abs=1e-5)
    assert mask_loss(logits[:0], labels[:0], targets[:0]) == 0


def test_sample_mask_regions_excludes_objects_without_masks() -> None:
    partial = objects_of(TWO)
    partial.mask_windows[0] = 0  # the first object has a box only
    boxes = torch.rand(60, 4)
    matched, labels = torch.arange(60) % 2, torch.tensor([1, 2, 0, 0] * 15)
    chosen = SampledRegions([boxes] * 2, [matched] * 2, [labels] * 2, [boxes] * 2)
    torch.manual_seed(0)
    sampled = sample_mask_regions(chosen, [objects_of(TWO), partial], limit=20)
    assert [len(b) for b in sampled.boxes] == [20, 15]
    assert sampled.matched[1].unique().tolist() == [1]
    assert sampled.labels[1].unique().tolist() == [2]
    indices = [int((boxes == box).all(1).nonzero()) for box in sampled.boxes[0]]
    assert len(set(indices)) == 20
    assert sampled.labels[0].tolist() == labels[indices].tolist()
    assert (sampled.labels[0] > 0).all()


def blobs(number: int, seed: int, cells: int = 7) -> Tensor:
    """Return probabilities (number, 28, 28) of smooth random shapes."""
    noise = torch.randn(number, 1, cells, cells, generator=torch.Generator().manual_seed(seed)) * 4 + 1
    return nn.functional.interpolate(noise, (28, 28), mode="bicubic")[:, 0].sigmoid()


def dense(cropped: list[CroppedMask], size: tuple[int, int]) -> np.ndarray:
    masks = np.zeros((len(cropped), *size), bool)
    for frame, mask in zip(masks, cropped, strict=True):
        frame[mask.y : mask.y + mask.bits.shape[0], mask.x : mask.x + mask.bits.shape[1]] = mask.bits
    return masks


def test_paste_masks_agrees_with_torchvision() -> None:
    """With boxes rounded as in torchvision, the pixels are equal; otherwise borders differ by half a pixel."""
    boxes = torch.tensor([[20.3, 10, 90, 110.8], [60, 60.9, 160, 120], [0, 5, 30.5, 45], [100, 2, 130, 40]])
    size = (128, 160)
    for maps, minimum in ((blobs(4, 5), 0.98), (blobs(4, 5, cells=3), 0.99)):
        reference = full_masks(maps, boxes, size).numpy()
        assert np.array_equal(reference, (paste_masks_in_image(maps[:, None], boxes, size)[:, 0] > 0.5).numpy())
        assert (reference.sum((1, 2)) > 0.2 * (boxes[:, 2:] - boxes[:, :2]).prod(1).numpy()).all()
        pasted = dense(paste_masks(maps.numpy(), boxes.numpy(), size), size)
        assert (pasted == reference).mean((1, 2)).min() > minimum
        # In torchvision the padded map covers whole pixels, from the truncated edge to the pixel of the opposite edge.
        middle, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2 * (30 / 28)
        low, high = (middle - half).to(torch.int64), (middle + half).to(torch.int64) + 1
        middle, half = (low + high) / 2, (high - low) / 2 * (28 / 30)
        rounded = torch.cat([middle - half, middle + half], dim=1)
        assert (dense(paste_masks(maps.numpy(), rounded.numpy(), size), size) == reference).mean() > 0.9999
    assert full_masks(maps[:0], boxes[:0], size).shape == (0, *size)


def test_paste_masks_equals_loop() -> None:
    boxes = np.array([[3.3, 4.2, 50.7, 30.9], [0, 0, 64, 40], [10.6, 10.6, 11.2, 11.9], [10.6, 3, 11.4, 9]], np.float32)
    maps = blobs(4, 6)
    masks = paste_masks(maps.numpy(), boxes, (40, 64))
    padded = nn.functional.pad(maps, (1, 1, 1, 1))  # zero padding, as in torchvision
    assert masks[3].bits.shape == (6, 0)  # contains no pixel center
    for mask, values, (x1, y1, x2, y2) in zip(masks, padded, boxes.tolist(), strict=True):
        for row, column in np.ndindex(mask.bits.shape):
            x, y = mask.x + column + 0.5, mask.y + row + 0.5
            assert x1 <= x <= x2
            assert y1 <= y <= y2
            value = bilinear(values, (x - x1) / (x2 - x1) * 28 + 1, (y - y1) / (y2 - y1) * 28 + 1)
            assert bool(mask.bits[row, column]) == (value > 0.5) or abs(value - 0.5) < 1e-5
    assert sum(mask.bits.sum() for mask in masks) > 500
