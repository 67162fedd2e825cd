"""Benchmark candidates of the peers; `sais reproduce table4 --peers peers.candidates:paper` measures them next to SAIS.

All have SAIS's backbones, frozen batch-norm fused into convolutions, and channels-last memory format. Masks are created
as each system's own paper or library creates them: on the whole image.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from peers.torchvision_peers.candidates import mask_rcnn_candidate, mask_rcnn_of, shipped_mask_rcnn_candidate
from peers.yolact import YOLACT_NAME
from peers.yolact.anchors import anchor_boxes, encode, pairwise_iou
from peers.yolact.model import AnchorOutputs, build_yolact
from peers.yolact.postprocess import full_masks, postprocess
from sais.benchmark.candidates import Candidate, TrainingSetup
from sais.benchmark.recipe_candidates import recipe_candidate, set_up_training
from sais.benchmark.workload import Workload
from sais.config import Experiment, ModelConfig
from sais.converters.fuse import fuse_batch_norms
from sais.recipes import recipe
from sais.recipes.adjust import replace_settings
from sais.recipes.paper import RESNET50, RESNET101

ANCHORS_PER_OBJECT = 9
"""Anchors that predict each injected object: one with a high score, the others with a low one."""


def paper() -> list[Candidate]:
    """Return the peers of the paper's Table IV that are available: YOLACT-550 and -700, Mask R-CNN at 768."""
    return [
        yolact_candidate("YOLACT-550, R50", 550, RESNET50),
        yolact_candidate("YOLACT-700, R101", 700, RESNET101),
        mask_rcnn_candidate("Mask R-CNN 768, R50", 768, RESNET50),
        mask_rcnn_candidate("Mask R-CNN 768, R101", 768, RESNET101),
        shipped_mask_rcnn_candidate("Mask R-CNN 768, R50, torchvision's own", 768),
    ]


def few() -> list[Candidate]:
    """Return the three peers that short comparisons measure next to SAIS-R50-768."""
    names = ("YOLACT-550, R50", "YOLACT-700, R101", "Mask R-CNN 768, R50")
    return [candidate for candidate in paper() if candidate.name in names]


def other_yolacts() -> list[Candidate]:
    """Return YOLACT as its paper trains it (batch-norm and the whole backbone trained), and at SAIS's input size."""
    return [
        yolact_candidate("YOLACT-550, R50, batch-norm trained", 550, RESNET50, frozen=False),
        yolact_candidate("YOLACT at 768, R50, batch-norm frozen", 768, RESNET50),
    ]


def lite() -> list[Candidate]:
    """Return paper-lite0 and the peers with its backbone, width and input, at 192 x 192, as the accuracy comparison."""
    experiment = replace_settings(recipe("paper-lite0"), "input", size=(192, 192))
    return [
        recipe_candidate("SAIS, paper-lite0 at 192", experiment),
        yolact_of("YOLACT, the same", experiment, 192),
        mask_rcnn_of("Mask R-CNN, the same", experiment, 192),
    ]


def yolact_candidate(name: str, side: int, backbone: str, frozen: bool = True) -> Candidate:
    """Create a YOLACT candidate of its paper's width.

    Args:
        name: the name of the candidate.
        side: the side of the square input in pixels; any number.
        backbone: the name of the backbone.
        frozen: whether stem, first stage and batch-norm are frozen.
    """
    model = ModelConfig(backbone=backbone, frozen_batch_norm=frozen, frozen_stages=1 if frozen else 0)
    return yolact_of(name, Experiment(name=name, model=model), side)


def yolact_of(name: str, experiment: Experiment, side: int) -> Candidate:
    """Create a YOLACT candidate with the backbone and width of an experiment and a square input of `side` pixels."""

    def train(workload: Workload, device: str) -> TrainingSetup:
        yolact = replace_settings(experiment, "model", architecture=YOLACT_NAME)
        return set_up_training(yolact, (side, side), workload, device)

    note = "masks assembled on the whole image, as in its paper"
    return Candidate(name, lambda workload, device: PreparedYolact(experiment, side, workload, device), train, note)


class PreparedYolact:
    """YOLACT with random weights and the mask assembly of its paper, in inference mode.

    Args:
        experiment: the experiment whose model settings are used.
        side: the side of the square input in pixels.
        workload: the image and its objects.
        device: the device of the network: cpu, cuda, ...
        batch_size: the number B of copies of the image in one forward pass.
    """

    def __init__(self, experiment: Experiment, side: int, workload: Workload, device: str, batch_size: int = 1) -> None:
        torch.manual_seed(0)
        self.side = side
        self.workload = workload
        self.device = torch.device(device)
        self.batch_size = batch_size
        self.model = build_yolact(experiment.model, workload.num_classes).to(self.device).eval()
        fuse_batch_norms(self.model.backbone.network)
        self.anchors: Tensor | None = None
        self._injected: tuple[Tensor, Tensor] | None = None

    def preprocess(self, image: np.ndarray) -> Tensor:
        """Resize the image (H, W, 3) uint8 to (B, 3, side, side) uint8 without keeping the aspect ratio."""
        size, method = (self.side, self.side), Image.Resampling.BILINEAR
        resized = [np.array(Image.fromarray(image).resize(size, method)) for _ in range(self.batch_size)]
        return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).to(self.device)

    def network(self, canvases: Tensor) -> AnchorOutputs:
        """Run the forward pass on canvases (B, 3, side, side)."""
        return self.model(canvases)

    def inject(self, outputs: AnchorOutputs) -> AnchorOutputs:
        """Replace logits and offsets (B, A, .): each object is predicted by the free anchors of highest IoU."""
        if self._injected is None:
            logits, offsets = (tensor.to(self.device) for tensor in self._encode(outputs))
            copies = (self.batch_size, -1, -1)
            self._injected = logits.expand(*copies).contiguous(), offsets.expand(*copies).contiguous()
        return replace(outputs, class_logits=self._injected[0], offsets=self._injected[1])

    def _encode(self, outputs: AnchorOutputs) -> tuple[Tensor, Tensor]:
        """Return logits (1, A, 1 + C) and offsets (1, A, 4) that encode the objects, in host memory."""
        anchors = self._anchors(outputs).cpu()
        height, width = self.workload.size
        boxes = torch.from_numpy(self.workload.boxes) * torch.tensor([self.side / width, self.side / height] * 2)
        overlaps = pairwise_iou(boxes, anchors)  # (D, A)
        logits = torch.zeros(1, *outputs.class_logits.shape[1:])
        logits[..., 0] = 12.0
        offsets = torch.zeros(1, *outputs.offsets.shape[1:])
        for count, logit in ((1, 16.0), (ANCHORS_PER_OBJECT - 1, 11.0)):
            for i, label in enumerate(self.workload.labels.tolist()):
                chosen = overlaps[i].topk(count).indices
                overlaps[:, chosen] = -1.0
                logits[0, chosen, label + 1] = logit
                offsets[0, chosen] = encode(anchors[chosen], boxes[i].expand(count, 4))
        return logits, offsets

    def postprocess(self, outputs: AnchorOutputs) -> list[Tensor]:
        """Run Fast NMS and assemble all masks on the whole image: B times (D, H, W) bool, on the device."""
        sizes = [(float(self.side), float(self.side))] * self.batch_size
        instances = postprocess(outputs, self._anchors(outputs), sizes)
        assert instances.coefficients is not None
        assert instances.prototypes is not None
        height, width = self.workload.size
        scale = instances.boxes.new_tensor([width / self.side, height / self.side] * 2)
        counts = (instances.scores > 0).sum(1).tolist()
        return [
            full_masks(prototypes, coefficients[:count], boxes[:count] * scale, self.workload.size)
            for prototypes, coefficients, boxes, count in zip(
                instances.prototypes, instances.coefficients, instances.boxes, counts, strict=True
            )
        ]

    def dense_masks(self, results: list[Tensor]) -> Tensor:
        """Return the masks (D, H, W) of the last image, which are full-frame already, in host memory."""
        return results[-1].cpu()

    def _anchors(self, outputs: AnchorOutputs) -> Tensor:
        if self.anchors is None:
            self.anchors = anchor_boxes(outputs.level_sizes, outputs.canvas_size, self.device)
        return self.anchors
