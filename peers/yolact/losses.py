"""The losses of YOLACT: class, box and mask (Section 3.3), semantic segmentation (Section 5).

Class, box and mask loss are divided by the number of positive anchors of the step, at least 1; the semantic loss is a
sum over classes and a mean over cells and images. The weights are those of the paper.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from peers.yolact.model import AnchorOutputs
from peers.yolact.targets import IGNORED, AnchorTargets, semantic_targets
from sais.modeling.criterion import Assignment
from sais.modeling.mask_loss import image_mask_loss
from sais.structures import GroundTruth

CLASS_WEIGHT = 1.0
BOX_WEIGHT = 1.5
MASK_WEIGHT = 6.125
SEMANTIC_WEIGHT = 1.0
NEGATIVES_PER_POSITIVE = 3


def compute_losses(
    outputs: AnchorOutputs, ground_truths: list[GroundTruth], assignment: Assignment, mask_margin: float = 0.0
) -> dict[str, Tensor]:
    """Compute the weighted loss terms, scalars by name.

    Args:
        outputs: the outputs (B, A, .) of a network in training mode.
        ground_truths: the ground truth of B images.
        assignment: the targets (B, A, .), the mask positives, and the normalizers "positives" and "images" of the step.
        mask_margin: the margin around the box that the masks of the ground truth include, as a fraction of its sides.
    """
    targets: AnchorTargets = assignment.targets
    positives, images = (assignment.normalizers[name].clamp(min=1) for name in ("positives", "images"))
    positive = targets.object_index >= 0
    classification = classification_loss(outputs.class_logits, targets.labels)
    box = functional.smooth_l1_loss(outputs.offsets[positive], targets.offsets[positive], reduction="sum")
    mask = mask_loss(outputs, targets, ground_truths, assignment.mask_positives, mask_margin)
    return {
        "classification": CLASS_WEIGHT * classification / positives,
        "box": BOX_WEIGHT * box / positives,
        "mask": MASK_WEIGHT * mask / positives,
        "semantic": SEMANTIC_WEIGHT * semantic_loss(outputs, ground_truths) / images,
    }


def classification_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum the softmax cross-entropy over positive anchors and the hardest negatives.

    Args:
        logits: the class logits (B, A, C + 1), background first.
        labels: the classes (B, A), BACKGROUND or IGNORED for anchors without an object.
    """
    indices = labels.clamp(min=-1) + 1  # index 0 is the background
    entropies = functional.cross_entropy(logits.flatten(0, 1), indices.flatten(), reduction="none").view_as(labels)
    selected = (labels >= 0) | hard_negatives(entropies.detach(), labels)
    return entropies[selected].sum()


def hard_negatives(entropies: Tensor, labels: Tensor) -> Tensor:
    """Select the negatives of highest loss of each image, three for each positive (online hard example mining, 3:1).

    Of images without positives, the three hardest negatives are selected. (The authors exclude images without objects.)

    Args:
        entropies: the cross-entropy (B, A) of every anchor.
        labels: the classes (B, A), BACKGROUND or IGNORED for anchors without an object.

    Returns:
        Mask (B, A) bool.
    """
    negative = (labels < 0) & (labels != IGNORED)
    order = torch.where(negative, entropies, -1.0).argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )
    count = NEGATIVES_PER_POSITIVE * (labels >= 0).sum(1, keepdim=True).clamp(min=1)  # (B, 1)
    return negative & (rank < count)


def mask_loss(
    outputs: AnchorOutputs,
    targets: AnchorTargets,
    ground_truths: list[GroundTruth],
    mask_positives: list[Tensor],
    margin: float = 0.0,
) -> Tensor:
    """Sum the mask cross-entropy inside the object's box, divided by the box's area, over the sampled anchors.

    The sum of each image is scaled from its sampled anchors to all of its positive anchors. The loss of an image is
    that of SAIS: the same crop (every cell that the box touches) and the same targets (the coverage of a cell).

    Args:
        outputs: the outputs (B, A, .).
        targets: the targets (B, A, .).
        ground_truths: the ground truth of B images.
        mask_positives: B tensors (M,) of anchors that train masks.
        margin: the margin around the box as a fraction of its sides.
    """
    total = outputs.prototypes.sum() * 0
    for image, anchors in enumerate(mask_positives):
        index = targets.object_index[image, anchors]
        coefficients = outputs.coefficients[image, anchors]
        loss = image_mask_loss(outputs.prototypes[image], coefficients, index, ground_truths[image], margin)
        positives = (targets.object_index[image] >= 0).sum()
        total = total + loss * positives / max(1, len(anchors))
    return total


def semantic_loss(outputs: AnchorOutputs, ground_truths: list[GroundTruth]) -> Tensor:
    """Sum the cross-entropy of the semantic maps over images and classes, averaged over cells (Section 5).

    Args:
        outputs: the outputs of a network in training mode, with semantic logits (B, C, height, width).
        ground_truths: the ground truth of B images.

    Raises:
        ValueError: the network was not in training mode.
    """
    logits = outputs.semantic_logits
    if logits is None:
        raise ValueError("semantic logits exist in training mode only")
    total = logits.sum() * 0
    for maps, ground_truth in zip(logits, ground_truths, strict=True):
        targets, valid = semantic_targets(ground_truth, len(maps), (maps.shape[1], maps.shape[2]))
        entropies = functional.binary_cross_entropy_with_logits(maps, targets, reduction="none")
        total = total + (entropies.mean((1, 2)) * valid).sum()
    return total
