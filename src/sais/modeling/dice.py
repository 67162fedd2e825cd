"""The Dice loss of masks (Milletari et al. 2016), an option of `sais.modeling.mask_loss`.

It is 1 - 2 sum(p t) / (sum(p^2) + sum(t^2)) with probabilities p and coverage t of the cells of a window. Unlike the
cross-entropy, it does not depend on how many cells a mask has.
"""

from __future__ import annotations

from torch import Tensor

MIN_SIZE = 1e-6
"""Minimum denominator, against a division by zero."""


def dice_loss(probabilities: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the Dice loss of each row, and its gradient with respect to the logits of the probabilities.

    Args:
        probabilities: (M, n) probabilities of n cells.
        targets: (M, n) coverage of these cells, 0 to 1.

    Returns:
        (M,) losses and (M, n) gradients. A row without probability and coverage has a loss of 1 and no gradient.
    """
    shared = (probabilities * targets).sum(1, keepdim=True)
    sizes = (probabilities.square().sum(1, keepdim=True) + targets.square().sum(1, keepdim=True)).clamp(min=MIN_SIZE)
    ratio = 2 * shared / sizes
    slope = (ratio * probabilities - targets).mul_(2 / sizes)
    return 1 - ratio[:, 0], slope.mul_(probabilities).mul_(1 - probabilities)
