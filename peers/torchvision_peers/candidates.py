"""Benchmark candidates of Mask R-CNN: built from torchvision's modules, and torchvision's own model.

The region proposal network runs unchanged; then its best proposals are overwritten by the boxes of the workload, and
the outputs of the box head by its classes, so that mask head and mask pasting process the objects of the workload.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from peers.torchvision_peers.architectures import MASK_RCNN_NAME
from peers.torchvision_peers.common import Regions, backbone_of
from peers.torchvision_peers.mask_rcnn import build_mask_rcnn
from peers.torchvision_peers.masks import full_masks
from sais.benchmark.candidates import Candidate, TrainingSetup
from sais.benchmark.recipe_candidates import set_up_training
from sais.benchmark.workload import Workload
from sais.config import Experiment, ModelConfig
from sais.converters.fuse import fuse_batch_norms
from sais.ops.letterbox import letterbox
from sais.recipes.adjust import replace_settings

TRAINING_PROPOSALS_PER_OBJECT = 40
"""Proposals of each object in training; for ten objects more than the 128 positive regions that are sampled."""
PROPOSALS_PER_OBJECT = 9
"""Proposals of each injected object: one with a high score, the others, slightly shifted, with a low one."""


def mask_rcnn_candidate(name: str, side: int, backbone: str) -> Candidate:
    """Create a Mask R-CNN candidate of torchvision's width, batch-norm frozen, with a square input of `side` pixels."""
    return mask_rcnn_of(name, Experiment(name=name, model=ModelConfig(backbone=backbone)), side)


def mask_rcnn_of(name: str, experiment: Experiment, side: int) -> Candidate:
    """Create a Mask R-CNN candidate with backbone and width of an experiment and a square input of `side` pixels."""

    def train(workload: Workload, device: str) -> TrainingSetup:
        mask_rcnn = replace_settings(experiment, "model", architecture=MASK_RCNN_NAME)
        setup = set_up_training(mask_rcnn, (side, side), workload, device)
        model: Any = setup.model
        heads = model.roi_heads
        model.rpn.register_forward_hook(partial(_inject_training_proposals, workload=workload, side=side))
        parts = {
            "backbone": model.backbone.network,
            "fpn": model.fpn,
            "rpn": model.rpn,
            "box head": (heads.box_roi_pool, heads.box_head, heads.box_predictor),
            "mask head": (model.mask_roi_pool, model.mask_head, model.mask_predictor),
        }
        return TrainingSetup(model, setup.losses, parts)

    note = "masks pasted into the whole image by torchvision"
    return Candidate(name, lambda workload, device: PreparedMaskRcnn(experiment, side, workload, device), train, note)


def _inject_training_proposals(
    module: nn.Module, inputs: Any, outputs: Any, workload: Workload, side: int, objects: int = 10
) -> Any:
    """Overwrite proposals by those of a trained network: copies of the objects' boxes, shifted by up to a tenth.

    With random weights, hardly any region would contain an object, and the mask head would train on almost none.
    """
    proposals, losses = outputs
    scale = torch.tensor([side / workload.size[1], side / workload.size[0]] * 2)
    boxes = (torch.from_numpy(workload.boxes[:objects]) * scale).repeat(TRAINING_PROPOSALS_PER_OBJECT, 1)
    random = torch.Generator().manual_seed(0)
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    shifted = (boxes + 0.1 * sides * (2 * torch.rand(boxes.shape, generator=random) - 1)).clamp(0, side)
    for regions in proposals:
        count = min(len(regions), len(shifted))
        regions[:count] = shifted[:count].to(regions.device)
    return proposals, losses


def shipped_mask_rcnn_candidate(name: str, side: int) -> Candidate:
    """Create the candidate of torchvision's unchanged maskrcnn_resnet50_fpn with a square input of `side` pixels."""
    note = "torchvision's own model, with its own resizing and pasting"
    return Candidate(name, lambda workload, device: ShippedMaskRcnn(side, workload, device), None, note)


def injected_boxes(workload: Workload, scale: tuple[float, float], num_proposals: int) -> tuple[Tensor, Tensor, Tensor]:
    """Create the injected proposals and the outputs of the box head for them.

    Args:
        workload: the image and its objects.
        scale: the vertical and horizontal number of canvas pixels per image pixel.
        num_proposals: the number of proposals that the network has.

    Returns:
        Boxes (M, 4) in canvas pixels, labels (M,) and class logits (M,).
    """
    boxes = torch.from_numpy(workload.boxes) * torch.tensor([scale[1], scale[0]] * 2)
    labels = torch.from_numpy(workload.labels)
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    random = torch.Generator().manual_seed(0)
    copies = [boxes]
    for _ in range(PROPOSALS_PER_OBJECT - 1):
        copies.append(boxes + 0.05 * sides * (2 * torch.rand(boxes.shape, generator=random) - 1))
    logits = torch.cat([torch.full((len(boxes),), value) for value in (12.0, *[8.0] * (PROPOSALS_PER_OBJECT - 1))])
    return (
        torch.cat(copies)[:num_proposals],
        labels.repeat(PROPOSALS_PER_OBJECT)[:num_proposals],
        logits[:num_proposals],
    )


class PreparedMaskRcnn:
    """Mask R-CNN with random weights and torchvision's full-frame mask pasting, in inference mode.

    Args:
        experiment: the experiment whose model settings are used.
        side: the side of the square input in pixels.
        workload: the image and its objects.
        device: the device of the network: cpu, cuda, ...
        batch_size: the number B of copies of the image in one forward pass.
    """

    def __init__(self, experiment: Experiment, side: int, workload: Workload, device: str, batch_size: int = 1) -> None:
        torch.manual_seed(0)
        self.workload = workload
        self.device = torch.device(device)
        self.batch_size = batch_size
        config = experiment.model
        self.model = build_mask_rcnn(backbone_of(config), workload.num_classes, config.channels).to(self.device).eval()
        fuse_batch_norms(self.model.backbone.network)
        self.canvas_map = letterbox(workload.size, "fixed", (side, side))
        self._injected: tuple[Tensor, Tensor, Tensor] | None = None

    def preprocess(self, image: np.ndarray) -> Tensor:
        """Resize the image (H, W, 3) uint8 to (B, 3, side, side) uint8, every copy on its own."""
        canvases = np.stack([self.canvas_map.image(image) for _ in range(self.batch_size)])
        return torch.from_numpy(canvases).permute(0, 3, 1, 2).to(self.device)

    def network(self, canvases: Tensor) -> list[Regions]:
        """Run both stages on canvases (B, 3, side, side), with the workload injected between them: B regions."""
        model, content_sizes = self.model, [self.canvas_map.content_size] * self.batch_size
        features = model.features(canvases)
        proposals, _ = model.rpn(ImageList(canvases, content_sizes), features)
        boxes, labels, values = self._boxes(len(proposals[0]))
        for regions in proposals:
            regions[: len(boxes)] = boxes
        logits, offsets = model.box_outputs(features, proposals)
        logits, offsets = torch.zeros_like(logits), torch.zeros_like(offsets)
        logits[:, 0] = 6.0
        first = 0
        for regions in proposals:
            logits[first + torch.arange(len(boxes), device=self.device), labels + 1] = values
            first += len(regions)
        detected, scores, classes = model.roi_heads.postprocess_detections(logits, offsets, proposals, content_sizes)
        masks = model.mask_probabilities(features, detected, [labels - 1 for labels in classes])
        return [Regions(*image) for image in zip(detected, scores, [c - 1 for c in classes], masks, strict=True)]

    def _boxes(self, num_proposals: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the injected boxes (M, 4), labels (M,) and class logits (M,) on the device."""
        if self._injected is None or len(self._injected[0]) > num_proposals:
            injected = injected_boxes(self.workload, self.canvas_map.scale, num_proposals)
            self._injected = (injected[0].to(self.device), injected[1].to(self.device), injected[2].to(self.device))
        return self._injected

    def inject(self, outputs: list[Regions]) -> list[Regions]:
        """Return the outputs; the workload is injected between the two stages."""
        return outputs

    def postprocess(self, outputs: list[Regions]) -> list[Tensor]:
        """Paste every mask into the whole image: B times (D, H, W) bool, on the device."""
        vertical, horizontal = self.canvas_map.scale
        masks = []
        for regions in outputs:
            boxes = regions.boxes / regions.boxes.new_tensor([horizontal, vertical, horizontal, vertical])
            assert regions.probabilities is not None
            masks.append(full_masks(regions.probabilities, boxes, self.workload.size))
        return masks

    def dense_masks(self, results: list[Tensor]) -> Tensor:
        """Return the masks (D, H, W) of the last image, which are full-frame already, in host memory."""
        return results[-1].cpu()


class ShippedMaskRcnn:
    """torchvision's maskrcnn_resnet50_fpn with random weights: its resizing, network and mask pasting.

    Args:
        side: the side of the square input in pixels.
        workload: the image and its objects.
        device: the device of the network: cpu, cuda, ...
    """

    def __init__(self, side: int, workload: Workload, device: str) -> None:
        torch.manual_seed(0)
        self.workload = workload
        self.device = torch.device(device)
        build = torchvision.models.detection.maskrcnn_resnet50_fpn
        model = build(
            weights=None, weights_backbone=None, num_classes=workload.num_classes + 1, fixed_size=(side, side)
        ).to(self.device)
        self.model = model.eval()
        scale = (side / workload.size[0], side / workload.size[1])
        model.rpn = _InjectedProposals(model.rpn, workload, scale)
        model.roi_heads.box_predictor = _InjectedClasses(model.roi_heads.box_predictor, workload, scale)

    def preprocess(self, image: np.ndarray) -> Tensor:
        """Convert the image (H, W, 3) uint8 to (3, H, W) float32 in [0, 1]; torchvision resizes it in `network`."""
        return torch.from_numpy(image).permute(2, 0, 1).to(self.device).float() / 255

    def network(self, canvases: Tensor) -> Any:
        """Resize the image (3, H, W) and run both stages, with the workload injected between them."""
        images, _ = self.model.transform([canvases])
        features = self.model.backbone(images.tensors)
        proposals, _ = self.model.rpn(images, features)
        detections, _ = self.model.roi_heads(features, proposals, images.image_sizes)
        return detections, images.image_sizes

    def inject(self, outputs: Any) -> Any:
        """Return the outputs; the workload is injected between the two stages."""
        return outputs

    def postprocess(self, outputs: Any) -> Tensor:
        """Scale the boxes and paste every mask into the whole image: (D, H, W) bool, on the device."""
        (detections,) = self.model.transform.postprocess(*outputs, [self.workload.size])
        return detections["masks"][:, 0] > 0.5

    def dense_masks(self, results: Tensor) -> Tensor:
        """Return the masks (D, H, W), which are full-frame already, in host memory."""
        return results.cpu()


class _InjectedProposals(nn.Module):
    """A proposal network whose best proposals are overwritten by the boxes of the workload."""

    def __init__(self, network: nn.Module, workload: Workload, scale: tuple[float, float]) -> None:
        super().__init__()
        self.network, self.workload, self.scale = network, workload, scale

    def forward(self, images: Any, features: Any, targets: Any = None) -> Any:
        """Run the network: proposals (P, 4) per image, and the losses."""
        proposals, losses = self.network(images, features, targets)
        boxes, _, _ = injected_boxes(self.workload, self.scale, len(proposals[0]))
        proposals[0][: len(boxes)] = boxes.to(proposals[0].device)
        return proposals, losses


class _InjectedClasses(nn.Module):
    """A box predictor whose outputs are overwritten by the classes of the workload."""

    def __init__(self, predictor: nn.Module, workload: Workload, scale: tuple[float, float]) -> None:
        super().__init__()
        self.predictor, self.workload, self.scale = predictor, workload, scale

    def forward(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        """Run the predictor on features (P, F): class logits (P, 1 + C) and offsets (P, 4 (1 + C))."""
        logits, offsets = (torch.zeros_like(output) for output in self.predictor(regions))
        _, labels, values = injected_boxes(self.workload, self.scale, len(logits))
        logits[:, 0] = 6.0
        rows = torch.arange(len(labels), device=logits.device)
        logits[rows, (labels + 1).to(logits.device)] = values.to(logits.device)
        return logits, offsets
