"""The mask loss of all sampled locations of an image at once, on its whole grid; see `sais.modeling.mask_loss`.

One image at a time has logits, targets and weights for each location and cell of the grid: 3 x 10 MB for 100 locations
of a canvas of 640 x 640. What depends on values is computed in host memory, so that the host does not wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sais.ops.transfers import copy_together
from sais.structures import GroundTruth


def grid_losses(
    prototypes: Sequence[Tensor],
    coefficients: Sequence[Tensor],
    indices: Sequence[Tensor],
    windows: Sequence[Tensor],
    areas: Sequence[Tensor],
    ground_truths: Sequence[GroundTruth],
    dice_weight: float = 0.0,
) -> Tensor:
    """Sum the mask loss over the sampled locations of all images, a scalar.

    Args:
        prototypes: B tensors (K, h, w).
        coefficients: B tensors (M, K) of the sampled locations.
        indices: B tensors (M,) int64 in host memory, the object of each sampled location.
        windows: B tensors (N, 4) int64 in host memory, grid cells.
        areas: B tensors (N,) in host memory, area of each box in grid cells.
        ground_truths: objects of B images on the device of the prototypes.
        dice_weight: weight of the Dice loss; 0 for none.
    """
    total = prototypes[0].new_zeros(())
    masks = location_masks(indices, windows, areas, ground_truths, prototypes)
    for image, of_image in enumerate(masks):
        total = total + _GridSum.apply(prototypes[image], coefficients[image], of_image, dice_weight)
    return total


@dataclass
class LocationMasks:
    """What the sampled locations of an image learn on the whole grid, on the device."""

    coverage: Tensor
    """(U, h, w) uint8 coverage of the cells by the sampled objects."""
    windows: Tensor
    """(U, 4) int64 x1 y1 x2 y2 in grid cells."""
    slots: Tensor
    """(M,) int64, which of the U objects each location learns."""
    weights: Tensor
    """(M,) float32, 1 / area of its box in grid cells; 0 where the object has no outline."""


def location_masks(
    indices: Sequence[Tensor],
    windows: Sequence[Tensor],
    areas: Sequence[Tensor],
    ground_truths: Sequence[GroundTruth],
    prototypes: Sequence[Tensor],
) -> list[LocationMasks]:
    """Return the masks of B images; all that is computed on the host is copied in one transfer.

    Args:
        indices: B tensors (M,) in host memory, the object of each sampled location.
        windows: B tensors (N, 4) in host memory.
        areas: B tensors (N,) in host memory, grid cells.
        ground_truths: objects of B images on the device.
        prototypes: B tensors (K, h, w) on the device.
    """
    tables: list[Tensor] = []
    cells: list[int] = []
    for index, window, area in zip(indices, windows, areas, strict=True):
        sizes = (window[:, 2] - window[:, 0]) * (window[:, 3] - window[:, 1])  # (N,)
        present, slots = torch.unique(index, return_inverse=True)  # (U,), (M,)
        first = (sizes.cumsum(0) - sizes)[present]  # of the object's values among those of all objects
        weights = torch.where(sizes > 0, 1 / area, 0)[index]
        tables += [torch.cat([window[present], first[:, None], sizes[present, None]], 1), slots, weights]
        cells.append(int(sizes[present].sum()))
    copies = copy_together(tables, prototypes[0].device)
    return [
        LocationMasks(
            _coverage(copies[3 * i], cells[i], ground_truth.mask_values, prototypes[i]),
            copies[3 * i][:, :4],
            copies[3 * i + 1],
            copies[3 * i + 2],
        )
        for i, ground_truth in enumerate(ground_truths)
    ]


def _coverage(table: Tensor, cells: int, mask_values: Tensor, prototypes: Tensor) -> Tensor:
    """Return the coverage (U, h, w) uint8 of the grid by objects, zero outside their windows.

    Args:
        table: (U, 6) int64, window x1 y1 x2 y2, index of the first value and number of values of each object.
        cells: sum of these numbers.
        mask_values: values of all objects of the image.
        prototypes: (K, h, w).
    """
    x1, y1, x2, _, first, sizes = table.unbind(1)
    sizes = sizes.clone()  # MPS crashes if they start inside a block of memory (pytorch issue 167924): for U = 1
    owner = torch.repeat_interleave(sizes, output_size=cells)  # (cells,), which of the U objects
    offset = torch.arange(cells, device=table.device) - (sizes.cumsum(0) - sizes)[owner]  # in its window
    width = (x2 - x1)[owner]
    coverage = mask_values.new_zeros(len(table), *prototypes.shape[1:])
    coverage[owner, y1[owner] + offset // width, x1[owner] + offset % width] = mask_values[first[owner] + offset]
    return coverage


class _GridSum(torch.autograd.Function):
    """Mask loss of one image, all locations on the whole grid, with its gradients; equals `_WindowSum`."""

    @staticmethod
    def forward(ctx: Any, prototypes: Tensor, coefficients: Tensor, masks: LocationMasks, dice_weight: float) -> Tensor:
        """Compute the scalar sum from prototypes (K, h, w) and coefficients (M, K)."""
        height, width = prototypes.shape[1:]
        cells = prototypes.flatten(1)  # (K, h * w)
        x1, y1, x2, y2 = masks.windows.to(torch.int32)[:, :, None].unbind(1)  # (U, 1) each
        x, y = (torch.arange(n, dtype=torch.int32, device=cells.device) for n in (width, height))
        inside = ((y >= y1) & (y < y2))[:, :, None] & ((x >= x1) & (x < x2))[:, None, :]  # (U, h, w)
        scale = inside.flatten(1)[masks.slots] * masks.weights[:, None].to(cells.dtype)  # (M, h * w)
        targets = masks.coverage.flatten(1)[masks.slots].to(cells.dtype) / 255
        logits = coefficients @ cells  # Eq. 1 without its sigmoid: (M, h * w)
        total = functional.binary_cross_entropy_with_logits(logits, targets, weight=scale, reduction="sum")
        probabilities = logits.sigmoid_()
        error = (probabilities - targets if dice_weight else probabilities.sub_(targets)).mul_(scale)
        if dice_weight:  # cells outside of the windows have neither probability nor coverage
            from sais.modeling.dice import dice_loss

            dice, slope = dice_loss(probabilities.mul_(inside.flatten(1)[masks.slots]), targets)
            has_outline = (masks.weights > 0).to(cells.dtype) * dice_weight  # (M,)
            total = total + (dice * has_outline).sum()
            error.addcmul_(slope, has_outline[:, None])
        ctx.save_for_backward((coefficients.T @ error).view_as(prototypes), error @ cells.T)
        return total

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """Scale the gradients that `forward` saved."""
        from sais.ops.derivatives import first_derivative

        by_cell, by_row = (first_derivative(gradient * outer[0], "mask loss") for gradient in ctx.saved_tensors)
        return by_cell, by_row, None, None
