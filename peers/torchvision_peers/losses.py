"""The losses of the torchvision peers: forward pass, sampling and losses. torchvision's, except for the mask loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import fastrcnn_loss

from peers.torchvision_peers.common import box_targets
from peers.torchvision_peers.fcos import TorchvisionFcos
from peers.torchvision_peers.mask_rcnn import MaskRcnn
from peers.torchvision_peers.masks import has_mask, mask_loss, mask_targets
from sais.device import precision_dtype
from sais.structures import MASK_STRIDE, Batch, GroundTruth


@dataclass
class SampledRegions:
    """The regions of B images that train the heads. Each field has B entries."""

    boxes: list[Tensor]
    """(R, 4) canvas pixels."""
    matched: list[Tensor]
    """(R,) int64, index of the object with the highest IoU; meaningless if the label is 0."""
    labels: list[Tensor]
    """(R,) int64, 1 to C, 0 for the background."""
    offsets: list[Tensor]
    """(R, 4) from each region to its object, in torchvision's units."""


def mask_rcnn_losses(model: MaskRcnn, batch: Batch, precision: str) -> dict[str, Tensor]:
    """Compute the losses of both stages, scalars by name, all of weight 1 as in the paper.

    torchvision samples regions at random. The engine seeds each step, so that a resumed run draws the same samples.

    Args:
        model: the network in training mode.
        batch: B images and their ground truth.
        precision: the precision of the forward pass: fp32, bf16 or fp16.
    """
    canvas = (batch.images.shape[2], batch.images.shape[3])
    targets = box_targets(batch.ground_truths, first_label=1)
    with _autocast(batch, precision):
        features = model.features(batch.images)
        sizes = [canvas] * len(batch.images)
        proposals, first_stage = model.rpn(ImageList(batch.images, sizes), features, targets)
        sampled = SampledRegions(*model.roi_heads.select_training_samples(proposals, targets))
        class_logits, offsets = model.box_outputs(features, sampled.boxes)
        mask_regions = sample_mask_regions(sampled, batch.ground_truths, model.mask_regions)
        mask_logits = model.mask_logits(features, mask_regions.boxes)
    classification, box = fastrcnn_loss(class_logits, offsets, sampled.labels, sampled.offsets)
    grid = (canvas[0] // MASK_STRIDE, canvas[1] // MASK_STRIDE)
    masks = [
        mask_targets(ground_truth, boxes, matched, grid, mask_logits.shape[2])
        for ground_truth, boxes, matched in zip(
            batch.ground_truths, mask_regions.boxes, mask_regions.matched, strict=True
        )
    ]
    return {
        "objectness": first_stage["loss_objectness"],
        "proposal": first_stage["loss_rpn_box_reg"],
        "classification": classification,
        "box": box,
        "mask": mask_loss(mask_logits, torch.cat(mask_regions.labels), torch.cat(masks)),
    }


def sample_mask_regions(regions: SampledRegions, ground_truths: list[GroundTruth], limit: int) -> SampledRegions:
    """Sample at most `limit` regions per image at random whose object has a mask."""
    samples = SampledRegions([], [], [], [])
    for image, labels in enumerate(regions.labels):
        positive = (labels > 0).nonzero().squeeze(1)
        positive = positive[has_mask(ground_truths[image])[regions.matched[image][positive]]]
        if len(positive) > limit:
            positive = positive[torch.randperm(len(positive), device=labels.device)[:limit]]
        samples.boxes.append(regions.boxes[image][positive])
        samples.matched.append(regions.matched[image][positive])
        samples.labels.append(labels[positive])
        samples.offsets.append(regions.offsets[image][positive])
    return samples


def fcos_losses(model: TorchvisionFcos, batch: Batch, precision: str) -> dict[str, Tensor]:
    """Compute the three losses of torchvision, scalars by name, without weights.

    Args:
        model: the network in training mode.
        batch: B images and their ground truth.
        precision: the precision of the forward pass: fp32, bf16 or fp16.
    """
    with _autocast(batch, precision):
        outputs, anchors, level_sizes = model.outputs(batch.images)
    targets = box_targets(batch.ground_truths, first_label=0)
    terms = model.detector.compute_loss(targets, outputs, anchors, level_sizes)
    return {
        "classification": terms["classification"],
        "box": terms["bbox_regression"],
        "centerness": terms["bbox_ctrness"],
    }


def _autocast(batch: Batch, precision: str) -> torch.autocast:
    dtype = precision_dtype(precision)
    return torch.autocast(batch.images.device.type, dtype, enabled=dtype != torch.float32)
