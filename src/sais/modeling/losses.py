"""Losses of classes and boxes, and the targets of the quality branch. `sais.modeling.mask_loss` is that of masks.

All functions return sums or one value per location. `sais.modeling.criterion` weights and normalizes them.

The focal loss, over many numbers, computes its gradient together with its value. It is all that is saved for backward.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sais.ops.distances import centerness, hull_area, intersection_and_union

FOCAL_ALPHA = 0.25
FOCAL_GAMMA = 2.0


def focal_loss(
    logits: Tensor,
    labels: Tensor,
    score_targets: Tensor | None = None,
    weights: Tensor | None = None,
    alpha: float = FOCAL_ALPHA,
    gamma: float = FOCAL_GAMMA,
) -> Tensor:
    """Compute the sum of the focal loss over all locations and classes.

    With soft targets y the modulating factor is |y - p|^gamma (quality focal loss, Li et al. 2020), which equals the
    focal loss for y in {0, 1}.

    Args:
        logits: class logits (B, L, C).
        labels: class indices (B, L) int64, -1 for background.
        score_targets: target probabilities (B, L) in [0, 1] of the classes in `labels`; None means 1.
        weights: weights (B, L) of the locations; None means 1.
        alpha: weight of the assigned classes; all others have 1 - alpha.
        gamma: exponent of the modulating factor.

    Returns:
        A scalar.
    """
    if score_targets is None and weights is None:
        hard: Tensor = _FocalSum.apply(logits, labels, alpha, gamma)
        return hard
    assigned = torch.zeros_like(logits, dtype=torch.bool)
    assigned.scatter_(2, labels.clamp(min=0)[..., None], (labels >= 0)[..., None])
    scores = logits.new_ones(labels.shape) if score_targets is None else score_targets.to(logits.dtype)
    targets = torch.where(assigned, scores[..., None], 0)
    loss = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    loss = loss * (logits.sigmoid() - targets).abs() ** gamma * torch.where(assigned, alpha, 1 - alpha)
    return loss.sum() if weights is None else (loss * weights[..., None]).sum()


class _FocalSum(torch.autograd.Function):
    """Focal loss of hard targets, with its gradient.

    With p = sigmoid(x) and s = -log(1 - p), an absent class has the loss (1 - alpha) p^gamma s, whose derivative is
    (1 - alpha) p^gamma (p + gamma (1 - p) s). A present class has the same loss of -x, with alpha.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor, alpha: float, gamma: float) -> Tensor:
        """Compute the scalar sum from logits (B, L, C) and labels (B, L)."""
        present = (labels >= 0)[..., None]
        place = labels.clamp(min=0)[..., None]
        own, own_gradient = _absent_class_loss(-logits.gather(2, place), gamma)
        absent, gradient = _absent_class_loss(logits, gamma)
        absent.scatter_(2, place, torch.where(present, 0, absent.gather(2, place)))
        if ctx.needs_input_grad[0]:
            gradient *= 1 - alpha
            gradient.scatter_(2, place, torch.where(present, -alpha * own_gradient, gradient.gather(2, place)))
            ctx.save_for_backward(gradient)
        return alpha * (own * present).sum() + (1 - alpha) * absent.sum()

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None, None, None]:
        """Scale the gradient (B, L, C) that `forward` saved."""
        from sais.ops.derivatives import first_derivative

        (gradient,) = ctx.saved_tensors
        return first_derivative(gradient * outer[0], "focal loss"), None, None, None


def _absent_class_loss(logits: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """Return p^gamma s and its derivative, both of the shape of `logits` (see `_FocalSum`)."""
    probability, surprise = logits.sigmoid(), functional.softplus(logits)
    modulation = probability**gamma
    derivative = torch.addcmul(probability, 1 - probability, surprise, value=gamma).mul_(modulation)
    return modulation.mul_(surprise), derivative


def iou_loss(predicted: Tensor, targets: Tensor) -> Tensor:
    """Compute -log IoU of boxes around the same locations: distances (P, 4), twice -> (P,)."""
    intersection, union = intersection_and_union(predicted, targets)
    # A difference of logarithms keeps a gradient where the IoU is clamped.
    return union.clamp(min=1e-12).log() - intersection.clamp(min=1e-12).log()


def giou_loss(predicted: Tensor, targets: Tensor) -> Tensor:
    """Compute 1 - GIoU of boxes around the same locations: distances (P, 4), twice -> (P,)."""
    intersection, union = intersection_and_union(predicted, targets)
    iou = intersection / union.clamp(min=1e-6)
    hull = hull_area(predicted, targets).clamp(min=1e-6)
    return 1 - iou + (hull - union) / hull


def centerness_quality(targets: Tensor, predicted: Tensor | None = None) -> Tensor:
    """Return the centerness (Eq. 3) of target distances (P, 4) as quality target (P,); predictions are ignored."""
    return centerness(targets)


def iou_quality(targets: Tensor, predicted: Tensor | None) -> Tensor:
    """Return the IoU of predicted and target boxes as quality target: distances (P, 4), twice -> (P,)."""
    assert predicted is not None
    intersection, union = intersection_and_union(predicted.detach(), targets)
    return intersection / union.clamp(min=1e-6)


iou_quality.needs_predictions = True  # type: ignore[attr-defined]

ClassificationLoss = Callable[..., Tensor]
"""(logits (B, L, C), labels (B, L), score targets (B, L) or None, weights (B, L) or None, alpha, gamma) -> scalar."""
BoxLoss = Callable[[Tensor, Tensor], Tensor]
"""(predicted distances (P, 4), target distances (P, 4)) -> (P,)."""
QualityTarget = Callable[[Tensor, Tensor | None], Tensor]
"""(target distances (P, 4), predicted distances (P, 4) or None) -> (P,) in [0, 1]. Only functions with the attribute
`needs_predictions = True` are given predictions."""

CLASSIFICATION_LOSSES: dict[str, ClassificationLoss] = {"focal": focal_loss}
BOX_LOSSES: dict[str, BoxLoss] = {"iou": iou_loss, "giou": giou_loss}
QUALITY_TARGETS: dict[str, QualityTarget | None] = {
    "centerness": centerness_quality,
    "iou": iou_quality,
    "none": None,
}
