"""What the peers lose on a batch: network, choice of what trains, losses. torchvision's, but for the mask loss."""

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
from sais.config import Experiment
from sais.structures import MASK_STRIDE, Batch, GroundTruth


@dataclass
class Chosen:
    """The regions of B images that train the heads. Each field has B entries."""

    boxes: list[Tensor]
    """(R, 4) canvas pixels."""
    matched: list[Tensor]
    """(R,) int64, the nearest object of each; meaningless where the label is 0."""
    labels: list[Tensor]
    """(R,) int64, 1 .. C, 0 for the background."""
    offsets: list[Tensor]
    """(R, 4) from each region to its object, in torchvision's units."""


def mask_rcnn_losses(model: MaskRcnn, batch: Batch, experiment: Experiment) -> dict[str, Tensor]:
    """Both stages' losses, all of weight 1 as in the paper; of `experiment` it reads the precision only.

    torchvision chooses at random what trains; the engine seeds each step, so a resumed run chooses the same.
    """
    device = batch.images.device
    canvas = (batch.images.shape[2], batch.images.shape[3])
    targets = box_targets(batch.ground_truths, first_label=1)
    with torch.autocast(device.type, torch.bfloat16, enabled=experiment.run.precision == "bf16"):
        features = model.features(batch.images)
        sizes = [canvas] * len(batch.images)
        proposals, first_stage = model.rpn(ImageList(batch.images, sizes), features, targets)
        chosen = Chosen(*model.roi_heads.select_training_samples(proposals, targets))
        class_logits, offsets = model.box_outputs(features, chosen.boxes)
        with_mask = choose_mask_regions(chosen, batch.ground_truths, model.mask_regions)
        mask_logits = model.mask_logits(features, with_mask.boxes)
    classification, box = fastrcnn_loss(class_logits, offsets, chosen.labels, chosen.offsets)
    grid = (canvas[0] // MASK_STRIDE, canvas[1] // MASK_STRIDE)
    wanted = [
        mask_targets(objects, boxes, matched, grid, mask_logits.shape[2])
        for objects, boxes, matched in zip(batch.ground_truths, with_mask.boxes, with_mask.matched, strict=True)
    ]
    return {
        "objectness": first_stage["loss_objectness"],
        "proposal": first_stage["loss_rpn_box_reg"],
        "classification": classification,
        "box": box,
        "mask": mask_loss(mask_logits, torch.cat(with_mask.labels), torch.cat(wanted)),
    }


def choose_mask_regions(chosen: Chosen, objects: list[GroundTruth], limit: int) -> Chosen:
    """Of the regions with an object that has an outline, at most `limit` an image, at random."""
    results = Chosen([], [], [], [])
    for image, labels in enumerate(chosen.labels):
        candidates = (labels > 0).nonzero().squeeze(1)
        candidates = candidates[has_mask(objects[image])[chosen.matched[image][candidates]]]
        if len(candidates) > limit:
            candidates = candidates[torch.randperm(len(candidates), device=labels.device)[:limit]]
        results.boxes.append(chosen.boxes[image][candidates])
        results.matched.append(chosen.matched[image][candidates])
        results.labels.append(labels[candidates])
        results.offsets.append(chosen.offsets[image][candidates])
    return results


def fcos_losses(model: TorchvisionFcos, batch: Batch, experiment: Experiment) -> dict[str, Tensor]:
    """torchvision's three losses, unweighted; of `experiment` it reads the precision only."""
    device = batch.images.device
    with torch.autocast(device.type, torch.bfloat16, enabled=experiment.run.precision == "bf16"):
        outputs, anchors, level_sizes = model.outputs(batch.images)
    targets = box_targets(batch.ground_truths, first_label=0)
    terms = model.detector.compute_loss(targets, outputs, anchors, level_sizes)
    return {
        "classification": terms["classification"],
        "box": terms["bbox_regression"],
        "centerness": terms["bbox_ctrness"],
    }
