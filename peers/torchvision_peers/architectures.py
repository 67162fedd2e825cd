"""The peers as `System`s of our engine, and their recipes on COCO."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from peers.torchvision_peers.common import PendingOutputs, backbone_of
from peers.torchvision_peers.detectors import detect_boxes, detect_masks
from peers.torchvision_peers.fcos import build_fcos
from peers.torchvision_peers.losses import fcos_losses, mask_rcnn_losses
from peers.torchvision_peers.mask_rcnn import build_mask_rcnn
from sais.config import Experiment, InputConfig, ModelConfig, OptimConfig, ScheduleConfig
from sais.errors import SaisError
from sais.modeling.architecture import Architecture
from sais.modeling.criterion import Assignment
from sais.structures import Batch


def _mask_rcnn(experiment: Experiment, num_classes: int) -> nn.Module:
    """Of `experiment.model` it reads backbone, pretrained, frozen_stages, frozen_batch_norm, channels and masks."""
    if not experiment.model.masks:
        raise SaisError("--model.masks False: Mask R-CNN has masks; leave it True")
    config = experiment.model
    return build_mask_rcnn(backbone_of(config), num_classes, config.channels)


def _fcos(experiment: Experiment, num_classes: int) -> nn.Module:
    """Of `experiment.model` it reads backbone, pretrained, frozen_stages, frozen_batch_norm, channels and masks."""
    if experiment.model.masks:
        raise SaisError("--model.masks True: torchvision's FCOS has boxes only; set it to False")
    config = experiment.model
    return build_fcos(backbone_of(config), num_classes, config.channels)


@dataclass(frozen=True)
class TorchvisionCriterion:
    """The losses of a torchvision model, whose network samples its regions. A batch cannot be split."""

    compute: Callable[[Any, Batch, Experiment], dict[str, Tensor]]
    """(network, batch, experiment) -> loss terms."""
    experiment: Experiment
    """Settings, of which only the precision is used."""
    needs_predictions = True

    def assign(self, batch: Batch, outputs: PendingOutputs | None, epoch: int) -> Assignment:
        """Leave the assignment to the network."""
        return Assignment(None, {})

    def losses(self, outputs: PendingOutputs, batch: Batch, assignment: Assignment) -> dict[str, Tensor]:
        """Run the network on the images (B, 3, H, W) of a batch and compute the loss terms."""
        return self.compute(outputs.network, batch, self.experiment)


MASK_RCNN_NAME = "peers.torchvision_peers.architectures:MASK_RCNN"
"""Value of `model.architecture`."""
FCOS_NAME = "peers.torchvision_peers.architectures:FCOS"
"""Value of `model.architecture`."""
MASK_RCNN = Architecture(
    "mask-rcnn", _mask_rcnn, partial(TorchvisionCriterion, mask_rcnn_losses), None, detect=detect_masks
)
FCOS = Architecture("fcos-torchvision", _fcos, partial(TorchvisionCriterion, fcos_losses), None, detect=detect_boxes)

_SCHEDULE = ScheduleConfig(epochs=12, milestones=(8, 11), warmup=1000, warmup_factor=0.001, warmup_kind="linear")
"""The usual 12 epochs, with the warm-up of torchvision's reference training."""


def mask_rcnn_r50() -> Experiment:
    """Mask R-CNN, ResNet-50, at the paper's fixed 768 x 768: SAIS-768's rival under SAIS-768's conditions.

    torchvision trains 26 epochs at 800 x 1333 with the ratio kept, and decays biases, which our optimizer spares.

    Expected: not measured by us (torchvision: box AP 37.9, mask AP 34.6 on COCO val2017 with its own recipe).
    """
    return _mask_rcnn_recipe("mask-rcnn-r50", "resnet50.tv_in1k")


def mask_rcnn_r101() -> Experiment:
    """Mask R-CNN, ResNet-101: `mask_rcnn_r50` with another backbone. Expected: not measured by us."""
    return _mask_rcnn_recipe("mask-rcnn-r101", "resnet101.tv_in1k")


def fcos_torchvision_r50() -> Experiment:
    """FCOS of torchvision, ResNet-50, 1333 x 800 with kept ratio: the rival of our recipe fcos-r50-area.

    torchvision trains 26 epochs, and decays biases, which our optimizer spares.

    Expected: not measured by us (torchvision: box AP 39.2 on COCO val2017 with its own recipe).
    """
    return Experiment(
        name="fcos-torchvision-r50",
        input=InputConfig(mode="keep_ratio", size=(800, 1333)),
        model=ModelConfig(architecture=FCOS_NAME, backbone="resnet50.tv_in1k", masks=False),
        optim=OptimConfig(name="sgd", lr=0.01, batch_size=16, weight_decay=1e-4, bias_lr_factor=1.0),
        schedule=_SCHEDULE,
    )


def _mask_rcnn_recipe(name: str, backbone: str) -> Experiment:
    return Experiment(
        name=name,
        input=InputConfig(mode="fixed", size=(768, 768)),
        model=ModelConfig(architecture=MASK_RCNN_NAME, backbone=backbone),
        optim=OptimConfig(name="sgd", lr=0.02, batch_size=16, weight_decay=1e-4, bias_lr_factor=1.0),
        schedule=_SCHEDULE,
    )
