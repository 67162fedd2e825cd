"""Arithmetic of boxes given as positive distances left, top, right, bottom from a location inside, on tensors."""

from __future__ import annotations

import torch
from torch import Tensor


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
    """Return the areas (...) of intersection and union of boxes, as distances (..., 4) from one point.

    Distances are positive where a box contains the point; boxes without a common point have intersection 0.
    """
    smaller = torch.minimum(first, second)
    width, height = smaller[..., 0] + smaller[..., 2], smaller[..., 1] + smaller[..., 3]
    intersection = width.clamp(min=0) * height.clamp(min=0)
    areas = [(d[..., 0] + d[..., 2]) * (d[..., 1] + d[..., 3]) for d in (first, second)]
    return intersection, areas[0] + areas[1] - intersection


def hull_area(first: Tensor, second: Tensor) -> Tensor:
    """Return the area (...) of the smallest box around two boxes that share a point, as positive distances (..., 4)."""
    larger = torch.maximum(first, second)
    return (larger[..., 0] + larger[..., 2]) * (larger[..., 1] + larger[..., 3])
