"""Locations and boxes on tensors. Boxes are ``x1 y1 x2 y2``, distances left top right bottom."""

from __future__ import annotations

import torch
from torch import Tensor


def grid_sizes(canvas: tuple[int, int], strides: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """Return (height, width) of the levels of a canvas (height, width) whose sides are multiples of 32."""
    return tuple((-(-canvas[0] // stride), -(-canvas[1] // stride)) for stride in strides)


def locations(
    level_sizes: tuple[tuple[int, int], ...], strides: tuple[int, ...], device: torch.device | str = "cpu"
) -> Tensor:
    """Return the centers of all locations, level by level, row by row: (L, 2) float32 ``x y`` in canvas pixels.

    The center of location i of a level with stride s is (i + 0.5) s.
    """
    levels = []
    for (height, width), stride in zip(level_sizes, strides, strict=True):
        y = (torch.arange(height, device=device, dtype=torch.float32) + 0.5) * stride
        x = (torch.arange(width, device=device, dtype=torch.float32) + 0.5) * stride
        levels.append(torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=2).reshape(-1, 2))
    return torch.cat(levels)


def boxes_from_distances(points: Tensor, distances: Tensor) -> Tensor:
    """Convert points (..., 2) and their distances (..., 4) to the four sides to boxes (..., 4)."""
    return torch.cat([points - distances[..., :2], points + distances[..., 2:]], dim=-1)


def distances_from_boxes(points: Tensor, boxes: Tensor) -> Tensor:
    """Return the distances (..., 4) of points (..., 2) to the sides of boxes (..., 4); negative outside the box."""
    return torch.cat([points - boxes[..., :2], boxes[..., 2:] - points], dim=-1)
