"""The losses of YOLACT: class, box and mask (Section 3.3), semantic segmentation (Section 5).

Class, box and mask are divided by the positive anchors of the batch, at least 1; the semantic loss is a sum over
classes and a mean over cells and images. The weights are the paper's and no settings of ours.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from peers.yolact.model import AnchorOutputs
from peers.yolact.targets import IGNORED, AnchorTargets, semantic_targets
from sais.modeling.losses import image_mask_loss
from sais.structures import GroundTruth

CLASS_WEIGHT = 1.0
BOX_WEIGHT = 1.5
MASK_WEIGHT = 6.125
SEMANTIC_WEIGHT = 1.0
NEGATIVES_PER_POSITIVE = 3


def compute_losses(
    outputs: AnchorOutputs,
    targets: AnchorTargets,
    objects: list[GroundTruth],
    chosen: list[Tensor],
    mask_margin: float = 0.0,
) -> dict[str, Tensor]:
    """The weighted terms by name, each a scalar.

    Args:
        outputs: (B, A, .), of a network in training mode.
        targets: (B, A, .).
        objects: B entries.
        chosen: B tensors of anchors that train masks, from `targets.choose_mask_positives`.
        mask_margin: how far beyond the box the masks of `objects` reach, as a share of its sides; 0 in the paper.
    """
    positive = targets.object_index >= 0
    positives = positive.sum().clamp(min=1)
    box = functional.smooth_l1_loss(outputs.offsets[positive], targets.offsets[positive], reduction="sum")
    return {
        "classification": CLASS_WEIGHT * classification_loss(outputs.class_logits, targets.labels) / positives,
        "box": BOX_WEIGHT * box / positives,
        "mask": MASK_WEIGHT * mask_loss(outputs, targets, objects, chosen, mask_margin) / positives,
        "semantic": SEMANTIC_WEIGHT * semantic_loss(outputs, objects),
    }


def classification_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum of the softmax cross-entropy over positives and the hardest negatives.

    Args:
        logits: (B, A, C + 1), background first.
        labels: (B, A), BACKGROUND or IGNORED where there is no object.
    """
    wanted = labels.clamp(min=-1) + 1  # the background comes first
    entropies = functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), reduction="none").view_as(labels)
    counted = (labels >= 0) | hard_negatives(entropies.detach(), labels)
    return entropies[counted].sum()


def hard_negatives(entropies: Tensor, labels: Tensor) -> Tensor:
    """Of each image the negatives of greatest loss, three for each positive (online hard example mining, 3:1).

    An image without positives counts as one with one: its three hardest negatives are taken. (The authors leave
    images without objects out of their data.)

    Args:
        entropies: (B, A) cross-entropy of every anchor.
        labels: (B, A).

    Returns:
        (B, A) bool.
    """
    negative = (labels < 0) & (labels != IGNORED)
    order = torch.where(negative, entropies, -1.0).argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )
    wanted = NEGATIVES_PER_POSITIVE * (labels >= 0).sum(1, keepdim=True).clamp(min=1)  # (B, 1)
    return negative & (rank < wanted)


def mask_loss(
    outputs: AnchorOutputs,
    targets: AnchorTargets,
    objects: list[GroundTruth],
    chosen: list[Tensor],
    margin: float = 0.0,
) -> Tensor:
    """Sum over the chosen anchors of the mask cross-entropy inside the object's box, divided by the box's area.

    Each image's sum is scaled up so that its chosen anchors stand for all of its positives. The sum over one image is
    SAIS' own: the same crop (every cell that the box touches) and the same targets (the share of a cell covered).
    """
    total = outputs.prototypes.sum() * 0
    for image, rows in enumerate(chosen):
        owners = targets.object_index[image, rows]
        loss = image_mask_loss(
            outputs.prototypes[image], outputs.coefficients[image, rows], owners, objects[image], margin
        )
        positives = (targets.object_index[image] >= 0).sum()
        total = total + loss * positives / max(1, len(rows))
    return total


def semantic_loss(outputs: AnchorOutputs, objects: list[GroundTruth]) -> Tensor:
    """Cross-entropy of the semantic maps, summed over classes, averaged over cells and images (Section 5).

    Raises:
        ValueError: the network was not in training mode.
    """
    logits = outputs.semantic_logits  # (B, C, height, width)
    if logits is None:
        raise ValueError("semantic logits exist in training mode only")
    total = logits.sum() * 0
    for maps, image_objects in zip(logits, objects, strict=True):
        wanted, told = semantic_targets(image_objects, len(maps), (maps.shape[1], maps.shape[2]))
        entropies = functional.binary_cross_entropy_with_logits(maps, wanted, reduction="none")
        total = total + (entropies.mean((1, 2)) * told).sum()
    return total / len(objects)
