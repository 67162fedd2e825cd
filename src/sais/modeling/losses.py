"""The losses: focal, IoU, centerness and box-local mask cross-entropy.

Every normalizer comes from the targets alone (`count`), so that it can be summed over ranks and micro-batches before
any loss is computed: two ranks equal one, accumulation equals a larger batch.

The two losses over many numbers, focal and mask, compute their gradient together with their value: it is all that they
keep for backward, of the size of the logits and of the prototypes, however many objects there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sais.ops.boxes import hull_area, intersection_and_union
from sais.structures import MASK_STRIDE, DenseOutputs, DenseTargets, GroundTruth

FOCAL_ALPHA = 0.25
FOCAL_GAMMA = 2.0


@dataclass
class Normalizers:
    """What the sums are divided by. Add those of several ranks or micro-batches up before use."""

    positives: Tensor
    """Positive locations."""
    centerness: Tensor
    """Sum of the centerness targets."""
    mask_positives: Tensor
    """Locations chosen to train masks."""

    def __add__(self, other: Normalizers) -> Normalizers:
        """Of both batches together."""
        return Normalizers(
            self.positives + other.positives,
            self.centerness + other.centerness,
            self.mask_positives + other.mask_positives,
        )


@dataclass
class LossTerms:
    """The weighted terms; each a scalar tensor."""

    classification: Tensor
    box: Tensor
    centerness: Tensor
    mask: Tensor

    @property
    def total(self) -> Tensor:
        """What is minimized."""
        return self.classification + self.box + self.centerness + self.mask

    def named(self) -> dict[str, Tensor]:
        """The terms by name."""
        return {name: getattr(self, name) for name in ("classification", "box", "centerness", "mask")}


def count_normalizers(targets: DenseTargets, chosen: list[Tensor]) -> Normalizers:
    """The normalizers of one batch, float32 scalars, from its targets and its chosen mask positives."""
    return Normalizers(
        positives=(targets.object_index >= 0).sum().float(),
        centerness=targets.centerness.sum(),
        mask_positives=targets.centerness.new_tensor(float(sum(len(c) for c in chosen))),
    )


def compute_losses(
    outputs: DenseOutputs,
    targets: DenseTargets,
    objects: list[GroundTruth],
    chosen: list[Tensor],
    normalizers: Normalizers,
    box: str = "iou",
    weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0),
    mask_margin: float = 0.0,
) -> LossTerms:
    """All loss terms of a batch.

    Args:
        outputs: (B, L, .).
        targets: (B, L, .).
        objects: B entries, for the mask targets.
        chosen: B tensors of locations that train masks, from `targets.choose_mask_positives`.
        normalizers: from `count`, summed over everything that makes one optimizer step.
        box: "iou" or "giou".
        weights: of classification, box, centerness and mask.
        mask_margin: how far beyond the box the mask loss looks, as a share of its sides.
    """
    positive = (targets.object_index >= 0).nonzero(as_tuple=True)  # once: a GPU answers slowly
    positives = normalizers.positives.clamp(min=1)
    wanted, predicted = targets.distances[positive], outputs.distances[positive]  # (P, 4) both
    centerness = targets.centerness[positive]  # (P,)
    box_loss = box_losses(predicted, wanted, box) * centerness
    centerness_loss = functional.binary_cross_entropy_with_logits(
        outputs.centerness_logits[positive], centerness, reduction="sum"
    )
    zero = outputs.class_logits.new_zeros(())
    mask_loss = zero
    if outputs.prototypes is not None and outputs.coefficients is not None:
        # Unbound, since the gradient of an indexed batch is as large as the batch, for every image of it.
        coefficients = [each[c] for each, c in zip(outputs.coefficients.unbind(), chosen, strict=True)]
        owners = [index[c] for index, c in zip(targets.object_index, chosen, strict=True)]
        mask_loss = zero + mask_losses(outputs.prototypes.unbind(), coefficients, owners, objects, mask_margin)
    return LossTerms(
        classification=weights[0] * classification_loss(outputs.class_logits, targets.labels) / positives,
        box=weights[1] * box_loss.sum() / normalizers.centerness.clamp(min=1),
        centerness=weights[2] * centerness_loss / positives,
        mask=weights[3] * mask_loss / normalizers.mask_positives.clamp(min=1),
    )


def classification_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum of the focal loss over all locations and classes: logits (B, L, C), labels (B, L) with -1 as background."""
    loss: Tensor = _FocalSum.apply(logits, labels)
    return loss


class _FocalSum(torch.autograd.Function):
    """With p = sigmoid(x) and s = -log(1 - p): a class that is not there loses (1 - alpha) p^gamma s, whose derivative
    is (1 - alpha) p^gamma (p + gamma (1 - p) s); one that is there the same of -x, with alpha."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
        present = (labels >= 0)[..., None]
        place = labels.clamp(min=0)[..., None]
        own, own_gradient = _absent(-logits.gather(2, place))
        absent, gradient = _absent(logits)
        absent.scatter_(2, place, torch.where(present, 0, absent.gather(2, place)))
        if ctx.needs_input_grad[0]:
            gradient *= 1 - FOCAL_ALPHA
            gradient.scatter_(2, place, torch.where(present, -FOCAL_ALPHA * own_gradient, gradient.gather(2, place)))
            ctx.save_for_backward(gradient)
        return FOCAL_ALPHA * (own * present).sum() + (1 - FOCAL_ALPHA) * absent.sum()

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * outer[0], None


def _absent(logits: Tensor) -> tuple[Tensor, Tensor]:
    """p^gamma s and its derivative, of any shape (see `_FocalSum`)."""
    probability, surprise = logits.sigmoid(), functional.softplus(logits)
    modulation = probability**FOCAL_GAMMA
    derivative = torch.addcmul(probability, 1 - probability, surprise, value=FOCAL_GAMMA).mul_(modulation)
    return modulation.mul_(surprise), derivative


def box_losses(predicted: Tensor, wanted: Tensor, kind: str = "iou") -> Tensor:
    """-log IoU or 1 - GIoU of the boxes that distances (P, 4) span around the same locations -> (P,)."""
    shared, union = intersection_and_union(predicted, wanted)
    if kind == "iou":  # as a difference, so that the gradient does not end where the IoU is least
        return union.clamp(min=1e-12).log() - shared.clamp(min=1e-12).log()
    iou = shared / union.clamp(min=1e-6)
    hull = hull_area(predicted, wanted).clamp(min=1e-6)
    return 1 - iou + (hull - union) / hull


def image_mask_loss(
    prototypes: Tensor, coefficients: Tensor, owners: Tensor, objects: GroundTruth, margin: float = 0.0
) -> Tensor:
    """`mask_losses` of one image: prototypes (K, h, w), coefficients (M, K), owners (M,)."""
    return mask_losses([prototypes], [coefficients], [owners], [objects], margin)


def mask_losses(
    prototypes: Sequence[Tensor],
    coefficients: Sequence[Tensor],
    owners: Sequence[Tensor],
    objects: Sequence[GroundTruth],
    margin: float = 0.0,
) -> Tensor:
    """Sum over the chosen locations of all images of the mask cross-entropy inside the box, divided by the box's area.

    Locations of one object share its window of the grid, so that only chosen x window logits ever exist, for one object
    at a time.

    Args:
        prototypes: B tensors (K, h, w).
        coefficients: B tensors (M, K) of the chosen locations.
        owners: B tensors (M,), the object of each.
        objects: B entries; their mask windows are grown by `margin` already.
        margin: only to find the area of the box inside the window.
    """
    sides = [o.boxes[:, 2:] - o.boxes[:, :2] for o in objects]
    growth = (1 + 2 * margin) ** 2
    areas = _on_the_host([(s.prod(1) / MASK_STRIDE**2 * growth).clamp(min=1) for s in sides])  # in grid cells
    windows = _on_the_host([o.mask_windows for o in objects])
    orders = [torch.argsort(one, stable=True) for one in owners]
    sorted_owners = _on_the_host([one[order] for one, order in zip(owners, orders, strict=True)])
    total = prototypes[0].new_zeros(())
    for image, order in enumerate(orders):
        places = windows[image].tolist()
        sizes = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in places]
        values = objects[image].mask_values.split(sizes)
        present, counts = torch.unique_consecutive(sorted_owners[image], return_counts=True)
        pieces, first = [], 0
        for owner, number in zip(present.tolist(), counts.tolist(), strict=True):
            rows = slice(first, first + number)
            first += number
            if sizes[owner]:  # an annotation with a box but no outline trains everything but the mask
                pieces.append(_Piece(rows, places[owner], values[owner], float(areas[image][owner])))
        total = total + _MaskSum.apply(prototypes[image], coefficients[image][order], pieces)
    return total


def _on_the_host(tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The same in the CPU's memory, fetched at once: a GPU answers slowly."""
    return torch.cat(list(tensors)).cpu().split([len(one) for one in tensors])


@dataclass
class _Piece:
    """An object that trains masks."""

    rows: slice
    """Of the coefficients: its locations."""
    window: tuple[int, int, int, int]
    """x1 y1 x2 y2 in grid cells."""
    values: Tensor
    """(window,) uint8."""
    area: float
    """Grid cells of its box."""


class _MaskSum(torch.autograd.Function):
    """Cross-entropy of prototypes (K, h, w) and coefficients (M, K) inside the windows of pieces, each by its area: a
    scalar, whose gradients have the shapes of both and are all that is kept.

    An image without objects still takes part in the graph: distributed training waits for every gradient.
    """

    @staticmethod
    def forward(ctx: Any, prototypes: Tensor, coefficients: Tensor, pieces: list[_Piece]) -> Tensor:
        """(K, h, w), (M, K) -> (); logits exist for one object at a time, (its locations, its window)."""
        cells = prototypes.permute(1, 2, 0)  # (h, w, K), the order in which they lie
        by_cell, by_row = torch.zeros_like(cells), torch.zeros_like(coefficients)  # the gradients
        total = prototypes.new_zeros(())
        for piece in pieces:
            x1, y1, x2, y2 = piece.window
            inside = cells[y1:y2, x1:x2].reshape(-1, cells.shape[2])  # (window, K)
            weights = coefficients[piece.rows]  # (rows, K)
            logits = weights @ inside.T  # Eq. 1 without its sigmoid: (rows, window)
            wanted = (piece.values.to(logits.dtype) / 255).expand_as(logits)
            total += functional.binary_cross_entropy_with_logits(logits, wanted, reduction="sum") / piece.area
            error = logits.sigmoid_().sub_(wanted).div_(piece.area)
            by_row[piece.rows] = error @ inside
            by_cell[y1:y2, x1:x2] += (error.T @ weights).view(y2 - y1, x2 - x1, -1)
        ctx.save_for_backward(by_cell, by_row)
        return total

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, Tensor, None]:
        by_cell, by_row = ctx.saved_tensors
        return (by_cell * outer[0]).permute(2, 0, 1), by_row * outer[0], None
