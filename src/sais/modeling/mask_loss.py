"""The mask loss: cross-entropy of sigmoid(P C) inside the box, divided by the box's area, over the sampled locations.

By option the Dice loss of the same cells is added (`sais.modeling.dice`).

It computes its gradients together with its value. They are all that is saved for backward: tensors of the size of the
prototypes and coefficients, independent of the number of objects. Two ways give the same sums:

- on a CPU, object by object inside the object's window of the grid, with the minimum of arithmetic and memory;
- on an accelerator, all locations of an image on its whole grid (`sais.modeling.mask_loss_grid`), because a few large
  operations take less time there than 16 small ones per object.

What an accelerator needs to know of the objects comes from host memory, so that the host never waits for the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sais.structures import MASK_STRIDE, GroundTruth


def mask_losses(
    prototypes: Sequence[Tensor],
    coefficients: Sequence[Tensor],
    object_index: Sequence[Tensor],
    ground_truths: Sequence[GroundTruth],
    margin: float = 0.0,
    dice_weight: float = 0.0,
) -> Tensor:
    """Sum the mask loss over the sampled locations of all images.

    Args:
        prototypes: B tensors (K, h, w).
        coefficients: B tensors (M, K) of the sampled locations.
        object_index: B tensors (M,) int64, the object of each sampled location, best in host memory.
        ground_truths: objects of B images; their mask windows already include `margin`.
        margin: margin around the box as a fraction of its sides, used to compute the area inside the window.
        dice_weight: weight of the Dice loss; 0 for none.

    Returns:
        A scalar.
    """
    host = [objects.on_host() for objects in ground_truths]
    growth = (1 + 2 * margin) ** 2
    sides = [g.boxes[:, 2:] - g.boxes[:, :2] for g in host]
    areas = _to_host([(s.prod(1) / MASK_STRIDE**2 * growth).clamp(min=1) for s in sides])  # in grid cells
    windows = _to_host([g.mask_windows for g in host])
    indices = _to_host(object_index)
    total = prototypes[0].new_zeros(())
    if prototypes[0].device.type == "cpu":
        for image, index in enumerate(indices):
            order, segments = _segments(index, windows[image], ground_truths[image].mask_values, areas[image])
            total = total + _WindowSum.apply(prototypes[image], coefficients[image][order], segments, dice_weight)
        return total
    from sais.modeling.mask_loss_grid import grid_losses

    return total + grid_losses(prototypes, coefficients, indices, windows, areas, ground_truths, dice_weight)


def image_mask_loss(
    prototypes: Tensor,
    coefficients: Tensor,
    object_index: Tensor,
    ground_truth: GroundTruth,
    margin: float = 0.0,
    dice_weight: float = 0.0,
) -> Tensor:
    """Compute `mask_losses` of one image: prototypes (K, h, w), coefficients (M, K), object_index (M,) -> scalar."""
    return mask_losses([prototypes], [coefficients], [object_index], [ground_truth], margin, dice_weight)


def _to_host(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return tensors in host memory, copied in one transfer from a device."""
    return torch.cat(list(tensors)).cpu().split([len(tensor) for tensor in tensors])


@dataclass
class _ObjectSegment:
    """An object and its sampled locations."""

    rows: slice
    """Rows of the coefficients."""
    window: tuple[int, int, int, int]
    """x1 y1 x2 y2 in grid cells."""
    values: Tensor
    """(cells of the window,) uint8 coverage."""
    area: float
    """Area of its box in grid cells."""


def _segments(
    index: Tensor, windows: Tensor, mask_values: Tensor, areas: Tensor
) -> tuple[Tensor, list[_ObjectSegment]]:
    """Return the order (M,) of the sampled locations by their object, and the objects with their rows in that order.

    Locations of one object share its window of the grid, so only logits of (locations of one object, its window) exist
    at a time.

    Args:
        index: (M,) int64, the object of each sampled location.
        windows: (N, 4) of all objects of the image.
        mask_values: coverage (sum of window areas,) of all objects.
        areas: (N,) areas of the boxes in grid cells.
    """
    order = torch.argsort(index, stable=True)
    places = windows.tolist()
    values = mask_values.split([(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in places])
    present, counts = torch.unique_consecutive(index[order], return_counts=True)
    segments, first = [], 0
    for number, count in zip(present.tolist(), counts.tolist(), strict=True):
        rows = slice(first, first + count)
        first += count
        if len(values[number]):  # an annotation with a box but no outline trains everything but the mask
            segments.append(_ObjectSegment(rows, tuple(places[number]), values[number], float(areas[number])))
    return order, segments


class _WindowSum(torch.autograd.Function):
    """Mask loss of one image, object by object, with its gradients.

    An image without objects is part of the graph as well: distributed training waits for every gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, prototypes: Tensor, coefficients: Tensor, segments: list[_ObjectSegment], dice_weight: float
    ) -> Tensor:
        """Compute the scalar sum from prototypes (K, h, w) and coefficients (M, K)."""
        cells = prototypes.permute(1, 2, 0)  # (h, w, K), their order in memory
        by_cell, by_row = torch.zeros_like(cells), torch.zeros_like(coefficients)  # the gradients
        total = prototypes.new_zeros(())
        for segment in segments:
            x1, y1, x2, y2 = segment.window
            inside = cells[y1:y2, x1:x2].reshape(-1, cells.shape[2])  # (window, K)
            weights = coefficients[segment.rows]  # (rows, K)
            logits = weights @ inside.T  # Eq. 1 without its sigmoid: (rows, window)
            targets = (segment.values.to(logits.dtype) / 255).expand_as(logits)
            total += functional.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / segment.area
            probabilities = logits.sigmoid_()
            error = (probabilities - targets if dice_weight else probabilities.sub_(targets)).div_(segment.area)
            if dice_weight:
                from sais.modeling.dice import dice_loss

                dice, slope = dice_loss(probabilities, targets)
                total += dice_weight * dice.sum()
                error.add_(slope, alpha=dice_weight)
            by_row[segment.rows] = error @ inside
            by_cell[y1:y2, x1:x2] += (error.T @ weights).view(y2 - y1, x2 - x1, -1)
        ctx.save_for_backward(by_cell, by_row)
        return total

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """Scale the gradients that `forward` saved."""
        from sais.ops.derivatives import first_derivative

        by_cell, by_row = (first_derivative(gradient * outer[0], "mask loss") for gradient in ctx.saved_tensors)
        return by_cell.permute(2, 0, 1), by_row, None, None
