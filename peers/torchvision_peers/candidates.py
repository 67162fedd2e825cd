"""Mask R-CNN in the bench of whole systems: our assembly of torchvision's modules, and torchvision's model as it ships.

The region proposal network runs as it is; then its best proposals are overwritten by the scene's boxes, and the box
head's answers by the scene's classes, so that the mask head and the pasting have the scene's objects to work on.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from peers.torchvision_peers.architectures import MASK_RCNN
from peers.torchvision_peers.common import Regions, backbone_of
from peers.torchvision_peers.mask_rcnn import build_mask_rcnn
from peers.torchvision_peers.masks import full_masks
from sais.benchmark.candidates import Candidate, TrainingSetup, training_of
from sais.benchmark.workload import Workload
from sais.config import Experiment, ModelConfig
from sais.converters.fuse import fuse_frozen_bn
from sais.ops.letterbox import letterbox, resize_and_pad

TRAINED_COPIES = 40
"""Proposals of each object in training; with ten objects more than the 128 regions with an object that are trained."""
AGREEING = 9
"""Proposals that say the same of an object: one clearly, the rest, moved a little, faintly."""


def mask_rcnn_candidate(name: str, side: int, backbone: str) -> Candidate:
    """Mask R-CNN as wide as torchvision's on one of our backbones, batch-norm frozen, at `side` x `side`."""
    return mask_rcnn_of(name, Experiment(name=name, model=ModelConfig(backbone=backbone)), side)


def mask_rcnn_of(name: str, experiment: Experiment, side: int) -> Candidate:
    """Mask R-CNN of torchvision's modules with the backbone and width of an experiment."""

    def train(scene: Workload, device: str) -> TrainingSetup:
        made = training_of(MASK_RCNN, experiment, (side, side), scene, device)
        model: Any = made.model
        heads = model.roi_heads
        model.rpn.register_forward_hook(partial(_trained_proposals, scene=scene, side=side))
        parts = {
            "backbone": model.backbone.network,
            "fpn": model.fpn,
            "rpn": model.rpn,
            "box head": (heads.box_roi_pool, heads.box_head, heads.box_predictor),
            "mask head": (model.mask_roi_pool, model.mask_head, model.mask_predictor),
        }
        return TrainingSetup(model, made.losses, parts)

    note = "masks pasted into the whole image by torchvision"
    return Candidate(name, lambda scene, device: PreparedMaskRcnn(experiment, side, scene, device), train, note)


def _trained_proposals(
    module: nn.Module, inputs: Any, outputs: Any, scene: Workload, side: int, objects: int = 10
) -> Any:
    """Proposals as a trained network has them: copies of the objects' boxes, moved by up to a tenth, for the most.

    From random weights hardly any region would have an object, and the mask head would train on next to none.
    """
    proposals, losses = outputs
    scale = torch.tensor([side / scene.size[1], side / scene.size[0]] * 2)
    boxes = (torch.from_numpy(scene.boxes[:objects]) * scale).repeat(TRAINED_COPIES, 1)
    random = torch.Generator().manual_seed(0)
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    moved = (boxes + 0.1 * sides * (2 * torch.rand(boxes.shape, generator=random) - 1)).clamp(0, side)
    for one in proposals:
        room = min(len(one), len(moved))
        one[:room] = moved[:room].to(one.device)
    return proposals, losses


def shipped_mask_rcnn_candidate(name: str, side: int) -> Candidate:
    """torchvision's maskrcnn_resnet50_fpn, as it ships but for the input size."""
    note = "torchvision's own model, with its own resizing and pasting"
    return Candidate(name, lambda scene, device: ShippedMaskRcnn(side, scene, device), None, note)


def injected_boxes(scene: Workload, scale: tuple[float, float], room: int) -> tuple[Tensor, Tensor, Tensor]:
    """What the first proposals and the box head say: boxes (M, 4) canvas pixels, labels (M,) and logits (M,).

    Args:
        scale: (vertical, horizontal) canvas pixels per image pixel.
        room: number of proposals there are.
    """
    boxes = torch.from_numpy(scene.boxes) * torch.tensor([scale[1], scale[0]] * 2)
    labels = torch.from_numpy(scene.labels)
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    random = torch.Generator().manual_seed(0)
    copies = [boxes]
    for _ in range(AGREEING - 1):
        copies.append(boxes + 0.05 * sides * (2 * torch.rand(boxes.shape, generator=random) - 1))
    logits = torch.cat([torch.full((len(boxes),), value) for value in (12.0, *[8.0] * (AGREEING - 1))])
    return torch.cat(copies)[:room], labels.repeat(AGREEING)[:room], logits[:room]


class PreparedMaskRcnn:
    """Mask R-CNN with random weights; full-size masks by torchvision's paste.

    Args:
        experiment: of which the model's settings are read.
        side: of the square input.
        scene: what it is to find.
        device: cpu, cuda, ...
    """

    def __init__(self, experiment: Experiment, side: int, scene: Workload, device: str) -> None:
        torch.manual_seed(0)
        self.scene = scene
        self.device = torch.device(device)
        config = experiment.model
        self.model = build_mask_rcnn(backbone_of(config), scene.classes, config.channels).to(self.device).eval()
        fuse_frozen_bn(self.model.backbone.network)
        self.canvas_map = letterbox(scene.size, "fixed", (side, side))

    def fit(self, image: np.ndarray) -> Tensor:
        """(H, W, 3) uint8 -> (1, 3, side, side) uint8."""
        return torch.from_numpy(resize_and_pad(image, self.canvas_map)).permute(2, 0, 1)[None].to(self.device)

    def network(self, canvas: Tensor) -> Regions:
        """Both stages, with the scene planted between them, to maps of 28 x 28."""
        model, contents = self.model, [self.canvas_map.content_size]
        features = model.features(canvas)
        proposals, _ = model.rpn(ImageList(canvas, contents), features)
        boxes, labels, values = injected_boxes(self.scene, self.canvas_map.scale, len(proposals[0]))
        proposals[0][: len(boxes)] = boxes.to(self.device)
        logits, offsets = model.box_outputs(features, proposals)
        logits, offsets = torch.zeros_like(logits), torch.zeros_like(offsets)
        logits[:, 0] = 6.0
        logits[torch.arange(len(boxes)), (labels + 1).to(self.device)] = values.to(self.device)
        found, scores, names = model.roi_heads.postprocess_detections(logits, offsets, proposals, contents)
        (masks,) = model.mask_probabilities(features, found, [n - 1 for n in names])
        return Regions(found[0], scores[0], names[0] - 1, masks)

    def plant(self, raw: Regions) -> Regions:
        """Done between the stages already."""
        return raw

    def finish(self, raw: Regions) -> Tensor:
        """Every mask pasted into the whole image: (D, H, W) bool."""
        vertical, horizontal = self.canvas_map.scale
        boxes = raw.boxes / raw.boxes.new_tensor([horizontal, vertical, horizontal, vertical])
        assert raw.probabilities is not None
        return full_masks(raw.probabilities, boxes, self.scene.size).cpu()

    def dense(self, found: Tensor) -> Tensor:
        """They are whole already."""
        return found


class ShippedMaskRcnn:
    """torchvision's maskrcnn_resnet50_fpn with random weights: its resizing, network and pasting.

    Args:
        side: of the square input.
        scene: what it is to find.
        device: cpu, cuda, ...
    """

    def __init__(self, side: int, scene: Workload, device: str) -> None:
        torch.manual_seed(0)
        self.scene = scene
        self.device = torch.device(device)
        build = torchvision.models.detection.maskrcnn_resnet50_fpn
        model = build(weights=None, weights_backbone=None, num_classes=scene.classes + 1, fixed_size=(side, side)).to(
            self.device
        )
        self.model = model.eval()
        scale = (side / scene.size[0], side / scene.size[1])
        model.rpn = _PlantedProposals(model.rpn, scene, scale)
        model.roi_heads.box_predictor = _PlantedClasses(model.roi_heads.box_predictor, scene, scale)

    def fit(self, image: np.ndarray) -> Tensor:
        """(H, W, 3) uint8 -> (3, H, W) float in 0 .. 1; torchvision resizes on its own, in `network`."""
        return torch.from_numpy(image).permute(2, 0, 1).to(self.device).float() / 255

    def network(self, canvas: Tensor) -> Any:
        """Resizing, both stages, with the scene planted between them."""
        images, _ = self.model.transform([canvas])
        features = self.model.backbone(images.tensors)
        proposals, _ = self.model.rpn(images, features)
        found, _ = self.model.roi_heads(features, proposals, images.image_sizes)
        return found, images.image_sizes

    def plant(self, raw: Any) -> Any:
        """Done between the stages already."""
        return raw

    def finish(self, raw: Any) -> Tensor:
        """Boxes and masks pasted into the whole image: (D, H, W) bool."""
        (found,) = self.model.transform.postprocess(*raw, [self.scene.size])
        return (found["masks"][:, 0] > 0.5).cpu()

    def dense(self, found: Tensor) -> Tensor:
        """They are whole already."""
        return found


class _PlantedProposals(nn.Module):
    """The proposal network, its best proposals overwritten by the scene's boxes."""

    def __init__(self, network: nn.Module, scene: Workload, scale: tuple[float, float]) -> None:
        super().__init__()
        self.network, self.scene, self.scale = network, scene, scale

    def forward(self, images: Any, features: Any, targets: Any = None) -> Any:
        """As the network's."""
        proposals, losses = self.network(images, features, targets)
        boxes, _, _ = injected_boxes(self.scene, self.scale, len(proposals[0]))
        proposals[0][: len(boxes)] = boxes.to(proposals[0].device)
        return proposals, losses


class _PlantedClasses(nn.Module):
    """The box predictor, its answers overwritten by the scene's classes."""

    def __init__(self, predictor: nn.Module, scene: Workload, scale: tuple[float, float]) -> None:
        super().__init__()
        self.predictor, self.scene, self.scale = predictor, scene, scale

    def forward(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        """As the predictor's."""
        logits, offsets = (torch.zeros_like(one) for one in self.predictor(regions))
        _, labels, values = injected_boxes(self.scene, self.scale, len(logits))
        logits[:, 0] = 6.0
        rows = torch.arange(len(labels), device=logits.device)
        logits[rows, (labels + 1).to(logits.device)] = values.to(logits.device)
        return logits, offsets
