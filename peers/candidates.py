"""The peers that `sais reproduce table4 --peers peers.candidates:paper` measures beside SAIS.

Backbones, frozen batch-norm folded into convolutions and channels-last are those of SAIS for all; masks are made as
each system's own paper or library makes them: on the whole image.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from peers.torchvision_peers.candidates import mask_rcnn_candidate, mask_rcnn_of, shipped_mask_rcnn_candidate
from peers.yolact import YOLACT
from peers.yolact.anchors import anchor_boxes, encode, pairwise_iou
from peers.yolact.model import AnchorOutputs, build_yolact
from peers.yolact.postprocess import full_masks, postprocess
from sais.benchmark.candidates import Candidate, TrainingSetup, recipe_candidate, training_of
from sais.benchmark.workload import Workload
from sais.config import Experiment, ModelConfig
from sais.converters.fuse import fuse_frozen_bn
from sais.recipes import recipe
from sais.recipes.adjust import changed
from sais.recipes.paper import RESNET50, RESNET101

AGREEING = 9
"""Anchors that say the same of an object: one clearly, the rest faintly, as a trained network's do."""


def paper() -> list[Candidate]:
    """The peers of the paper's Table IV that we have: YOLACT-550 and -700, Mask R-CNN at 768."""
    return [
        yolact_candidate("YOLACT-550, R50", 550, RESNET50),
        yolact_candidate("YOLACT-700, R101", 700, RESNET101),
        mask_rcnn_candidate("Mask R-CNN 768, R50", 768, RESNET50),
        mask_rcnn_candidate("Mask R-CNN 768, R101", 768, RESNET101),
        shipped_mask_rcnn_candidate("Mask R-CNN 768, R50, torchvision's own", 768),
    ]


def few() -> list[Candidate]:
    """The three peers that are measured beside SAIS-R50-768 wherever time is short."""
    wanted = ("YOLACT-550, R50", "YOLACT-700, R101", "Mask R-CNN 768, R50")
    return [one for one in paper() if one.name in wanted]


def other_yolacts() -> list[Candidate]:
    """For memory: YOLACT as its paper trains it, all batch-norm and the whole backbone trained; and at SAIS' size."""
    return [
        yolact_candidate("YOLACT-550, R50, batch-norm trained", 550, RESNET50, frozen=False),
        yolact_candidate("YOLACT at 768, R50, batch-norm frozen", 768, RESNET50),
    ]


def lite() -> list[Candidate]:
    """The three of the comparison of accuracy: paper-lite0 and the peers of its backbone, width and input, 192x192."""
    experiment = changed(recipe("paper-lite0"), "input", size=(192, 192))
    return [
        recipe_candidate("SAIS, paper-lite0 at 192", experiment),
        yolact_of("YOLACT, the same", experiment, 192),
        mask_rcnn_of("Mask R-CNN, the same", experiment, 192),
    ]


def yolact_candidate(name: str, side: int, backbone: str, frozen: bool = True) -> Candidate:
    """YOLACT as wide as in its paper, at `side` x `side`, which need not be a multiple of 32."""
    model = ModelConfig(backbone=backbone, frozen_batch_norm=frozen, frozen_stages=1 if frozen else 0)
    return yolact_of(name, Experiment(name=name, model=model), side)


def yolact_of(name: str, experiment: Experiment, side: int) -> Candidate:
    """YOLACT with the backbone and width of an experiment."""

    def train(scene: Workload, device: str) -> TrainingSetup:
        return training_of(YOLACT, experiment, (side, side), scene, device)

    note = "masks assembled on the whole image, as in its paper"
    return Candidate(name, lambda scene, device: PreparedYolact(experiment, side, scene, device), train, note)


class PreparedYolact:
    """YOLACT with random weights; its masks are assembled as its paper does.

    Args:
        experiment: of which the model's settings are read.
        side: of the square input.
        scene: what it is to find.
        device: cpu, cuda, ...
    """

    def __init__(self, experiment: Experiment, side: int, scene: Workload, device: str) -> None:
        torch.manual_seed(0)
        self.side = side
        self.scene = scene
        self.device = torch.device(device)
        self.model = build_yolact(experiment.model, scene.classes).to(self.device).eval()
        fuse_frozen_bn(self.model.backbone.network)
        self.anchors: Tensor | None = None

    def fit(self, image: np.ndarray) -> Tensor:
        """(H, W, 3) uint8 -> (1, 3, side, side) uint8, the ratio not kept."""
        resized = Image.fromarray(image).resize((self.side, self.side), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(resized)).permute(2, 0, 1)[None].to(self.device)

    def network(self, canvas: Tensor) -> AnchorOutputs:
        """The forward pass."""
        return self.model(canvas)

    def plant(self, raw: AnchorOutputs) -> AnchorOutputs:
        """Each object at the free anchors that overlap it most."""
        anchors = self._anchors(raw).cpu()
        factors = torch.tensor([self.side / self.scene.size[1], self.side / self.scene.size[0]] * 2)
        boxes = torch.from_numpy(self.scene.boxes) * factors
        overlaps = pairwise_iou(boxes, anchors)  # (D, A)
        logits = torch.zeros(raw.class_logits.shape)
        logits[..., 0] = 12.0
        offsets = torch.zeros(raw.offsets.shape)
        for count, logit in ((1, 16.0), (AGREEING - 1, 11.0)):
            for i, label in enumerate(self.scene.labels.tolist()):
                chosen = overlaps[i].topk(count).indices
                overlaps[:, chosen] = -1.0
                logits[0, chosen, label + 1] = logit
                offsets[0, chosen] = encode(anchors[chosen], boxes[i].expand(count, 4))
        return replace(raw, class_logits=logits.to(self.device), offsets=offsets.to(self.device))

    def finish(self, raw: AnchorOutputs) -> Tensor:
        """Fast NMS, then every mask on the whole image: (D, H, W) bool."""
        content = (float(self.side), float(self.side))
        found = postprocess(raw, self._anchors(raw), [content])
        count = int((found.scores[0] > 0).sum())
        assert found.coefficients is not None
        assert found.prototypes is not None
        height, width = self.scene.size
        boxes = found.boxes[0, :count] * found.boxes.new_tensor([width / self.side, height / self.side] * 2)
        return full_masks(found.prototypes[0], found.coefficients[0, :count], boxes, self.scene.size).cpu()

    def dense(self, found: Tensor) -> Tensor:
        """They are whole already."""
        return found

    def _anchors(self, raw: AnchorOutputs) -> Tensor:
        if self.anchors is None:
            self.anchors = anchor_boxes(raw.level_sizes, raw.canvas_size, self.device)
        return self.anchors
