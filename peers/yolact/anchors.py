"""Anchors, box encoding relative to anchors, and IoU.

One scale per level and three aspect ratios (Section 4): 24, 48, 96, 192, 384 pixels at an input of 550.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sais.ops.boxes import locations
from sais.structures import STRIDES

BASE_SIDE = 550
"""Input side in pixels that `SCALES` refer to."""
SCALES = (24.0, 48.0, 96.0, 192.0, 384.0)
"""Side of a square anchor on P3 .. P7, in pixels of an input of `BASE_SIDE`."""
RATIOS = (1.0, 0.5, 2.0)
"""Aspect ratios (width to height) of the anchors of a location; all three have the same area."""
VARIANCES = (0.1, 0.2)
"""Unit of the center offset, in anchor sides, and of the logarithm of the size ratio (SSD)."""
MIN_SIDE = 1e-3
"""Minimum box side in pixels, so that its logarithm is finite."""


def anchor_boxes(
    level_sizes: tuple[tuple[int, int], ...], canvas_size: tuple[int, int], device: torch.device | str = "cpu"
) -> Tensor:
    """Create all anchors; they may extend beyond the canvas.

    Scales grow with the input: 24 pixels at 550 become 30.5 at 700 and 8.4 at 192. The scale of a non-square canvas is
    that of the square with the same area.

    Args:
        level_sizes: the height and width of P3 to P7.
        canvas_size: the height and width of the canvas in pixels.
        device: the device of the anchors.

    Returns:
        Boxes (A, 4), ``x1 y1 x2 y2`` in canvas pixels; A is three times the number of locations.
    """
    factor = math.sqrt(canvas_size[0] * canvas_size[1]) / BASE_SIDE
    centers = locations(level_sizes, STRIDES, device)  # (L, 2)
    counts = torch.tensor([height * width for height, width in level_sizes], device=device)
    sides = torch.tensor(SCALES, device=device).repeat_interleave(counts) * factor  # (L,)
    stretch = torch.tensor(RATIOS, device=device).sqrt()  # (3,)
    sizes = sides[:, None, None] * torch.stack([stretch, 1 / stretch], dim=1)  # (L, 3, 2)
    return torch.cat([centers[:, None] - sizes / 2, centers[:, None] + sizes / 2], dim=2).reshape(-1, 4)


def encode(anchors: Tensor, boxes: Tensor) -> Tensor:
    """Encode boxes (..., 4) as offsets (..., 4) from anchors (..., 4): center x y, width, height (SSD)."""
    centers, sides = _centers_and_sides(anchors)
    box_centers, box_sides = _centers_and_sides(boxes)
    center_offsets = (box_centers - centers) / sides / VARIANCES[0]
    size_offsets = (box_sides.clamp(min=MIN_SIDE) / sides).log() / VARIANCES[1]
    return torch.cat([center_offsets, size_offsets], dim=-1)


def decode(anchors: Tensor, offsets: Tensor) -> Tensor:
    """Decode offsets (..., 4) from anchors (..., 4) to boxes (..., 4); inverse of `encode`."""
    centers, sides = _centers_and_sides(anchors)
    box_centers = centers + offsets[..., :2] * VARIANCES[0] * sides
    box_sides = sides * (offsets[..., 2:] * VARIANCES[1]).exp()
    return torch.cat([box_centers - box_sides / 2, box_centers + box_sides / 2], dim=-1)


def pairwise_iou(first: Tensor, second: Tensor) -> Tensor:
    """Compute the IoU of all pairs of boxes (..., N, 4) and (..., M, 4): (..., N, M); 0 if both are empty."""
    first, second = first[..., :, None, :], second[..., None, :, :]
    low = torch.maximum(first[..., :2], second[..., :2])
    high = torch.minimum(first[..., 2:], second[..., 2:])
    intersection = (high - low).clamp(min=0).prod(-1)
    areas = [(boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1) for boxes in (first, second)]
    return intersection / (areas[0] + areas[1] - intersection).clamp(min=1e-9)


def _centers_and_sides(boxes: Tensor) -> tuple[Tensor, Tensor]:
    return (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
