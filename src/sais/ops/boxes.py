"""Box arithmetic on tensors. Boxes are ``x1 y1 x2 y2``, distances left top right bottom."""

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


def centerness(distances: Tensor) -> Tensor:
    """Return sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b)) (Eq. 3) of positive distances (..., 4) -> (...)."""
    return squared_centerness(distances).sqrt()


def squared_centerness(distances: Tensor) -> Tensor:
    """Return the square of the centerness of positive distances (..., 4) -> (...), for ranking.

    It has the same order, and the same bits on every device. Roots are rounded differently, which would create or break
    ties.
    """
    left, top, right, bottom = distances.unbind(-1)
    horizontal = torch.minimum(left, right) / torch.maximum(left, right)
    vertical = torch.minimum(top, bottom) / torch.maximum(top, bottom)
    return horizontal * vertical


def intersection_and_union(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return the areas (...) of intersection and union of boxes around one point, as positive distances (..., 4)."""
    smaller = torch.minimum(first, second)
    intersection = (smaller[..., 0] + smaller[..., 2]) * (smaller[..., 1] + smaller[..., 3])
    areas = [(d[..., 0] + d[..., 2]) * (d[..., 1] + d[..., 3]) for d in (first, second)]
    return intersection, areas[0] + areas[1] - intersection


def hull_area(first: Tensor, second: Tensor) -> Tensor:
    """Return the area (...) of the smallest box around two boxes that share a point, as positive distances (..., 4)."""
    larger = torch.maximum(first, second)
    return (larger[..., 0] + larger[..., 2]) * (larger[..., 1] + larger[..., 3])
