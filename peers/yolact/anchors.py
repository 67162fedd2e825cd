"""Anchors: where they lie, how boxes are told relative to them, how much boxes overlap.

One scale a level and three ratios (Section 4): 24, 48, 96, 192, 384 pixels at an input of 550.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sais.modeling.fpn import STRIDES
from sais.ops.boxes import locations

BASE_SIDE = 550
"""Input side in pixels that `SCALES` are meant for."""
SCALES = (24.0, 48.0, 96.0, 192.0, 384.0)
"""Side of a square anchor on P3 .. P7, in pixels of an input of `BASE_SIDE`."""
RATIOS = (1.0, 0.5, 2.0)
"""Width : height of the anchors of one location; all three have the same area."""
VARIANCES = (0.1, 0.2)
"""Unit of an offset of the center, in anchor sides, and of a change of size, in logarithms (SSD)."""
LEAST_SIDE = 1e-3
"""Pixels: what a narrower box counts as, so that its logarithm is finite."""


def anchor_boxes(
    level_sizes: tuple[tuple[int, int], ...], canvas_size: tuple[int, int], device: torch.device | str = "cpu"
) -> Tensor:
    """All anchors, (A, 4) ``x1 y1 x2 y2`` in canvas pixels, A = 3 for each location; they may reach beyond the canvas.

    Scales grow with the input: 24 pixels at 550 are 30.5 at 700 and 8.4 at 192. An oblong canvas counts as the square
    of the same area.

    Args:
        level_sizes: (height, width) of P3 .. P7.
        canvas_size: (height, width) in pixels.
    """
    factor = math.sqrt(canvas_size[0] * canvas_size[1]) / BASE_SIDE
    centers = locations(level_sizes, STRIDES, device)  # (L, 2)
    counts = torch.tensor([height * width for height, width in level_sizes], device=device)
    sides = torch.tensor(SCALES, device=device).repeat_interleave(counts) * factor  # (L,)
    stretch = torch.tensor(RATIOS, device=device).sqrt()  # (3,)
    sizes = sides[:, None, None] * torch.stack([stretch, 1 / stretch], dim=1)  # (L, 3, 2)
    return torch.cat([centers[:, None] - sizes / 2, centers[:, None] + sizes / 2], dim=2).reshape(-1, 4)


def encode(anchors: Tensor, boxes: Tensor) -> Tensor:
    """Boxes (..., 4) as offsets (..., 4) from their anchors (..., 4): center x y, then width and height (SSD)."""
    centers, sides = _centers_and_sides(anchors)
    box_centers, box_sides = _centers_and_sides(boxes)
    moved = (box_centers - centers) / sides / VARIANCES[0]
    grown = (box_sides.clamp(min=LEAST_SIDE) / sides).log() / VARIANCES[1]
    return torch.cat([moved, grown], dim=-1)


def decode(anchors: Tensor, offsets: Tensor) -> Tensor:
    """The boxes (..., 4) that offsets (..., 4) from anchors (..., 4) mean; undoes `encode`."""
    centers, sides = _centers_and_sides(anchors)
    box_centers = centers + offsets[..., :2] * VARIANCES[0] * sides
    box_sides = sides * (offsets[..., 2:] * VARIANCES[1]).exp()
    return torch.cat([box_centers - box_sides / 2, box_centers + box_sides / 2], dim=-1)


def pairwise_iou(first: Tensor, second: Tensor) -> Tensor:
    """IoU of every box of (..., N, 4) with every box of (..., M, 4) -> (..., N, M); 0 where both are empty."""
    one, other = first[..., :, None, :], second[..., None, :, :]
    low = torch.maximum(one[..., :2], other[..., :2])
    high = torch.minimum(one[..., 2:], other[..., 2:])
    shared = (high - low).clamp(min=0).prod(-1)
    areas = [(boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1) for boxes in (one, other)]
    return shared / (areas[0] + areas[1] - shared).clamp(min=1e-9)


def _centers_and_sides(boxes: Tensor) -> tuple[Tensor, Tensor]:
    return (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
