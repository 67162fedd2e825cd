"""The architectures of the torchvision peers, and their recipes on COCO."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from peers.torchvision_peers.common import PendingOutputs, backbone_of
from peers.torchvision_peers.detectors import detect_boxes, detect_masks
from peers.torchvision_peers.fcos import build_fcos
from peers.torchvision_peers.losses import fcos_losses, mask_rcnn_losses
from peers.torchvision_peers.mask_rcnn import build_mask_rcnn
from sais.config import Experiment, InputConfig, ModelConfig, OptimConfig, ScheduleConfig
from sais.errors import ConfigError
from sais.modeling.architecture import Architecture
from sais.modeling.criterion import Assignment
from sais.structures import Batch


def _build_mask_rcnn(experiment: Experiment, num_classes: int) -> nn.Module:
    """Build the network; of `experiment.model`, backbone, frozen parts, channels and masks are used."""
    config = experiment.model
    if not config.masks:
        raise ConfigError("model.masks False: Mask R-CNN always has masks. Set it to True.")
    return build_mask_rcnn(backbone_of(config), num_classes, config.channels)


def _build_fcos(experiment: Experiment, num_classes: int) -> nn.Module:
    """Build the network; of `experiment.model`, backbone, frozen parts, channels and masks are used."""
    config = experiment.model
    if config.masks:
        raise ConfigError("model.masks True: torchvision's FCOS predicts boxes only. Set it to False.")
    return build_fcos(backbone_of(config), num_classes, config.channels)


@dataclass(frozen=True)
class TorchvisionCriterion:
    """The losses of a torchvision model, which samples its own regions. A batch cannot be split."""

    compute: Callable[[Any, Batch, str], dict[str, Tensor]]
    """(network, batch, precision) -> loss terms."""
    precision: str
    needs_predictions = True

    def assign(self, batch: Batch, outputs: PendingOutputs | None, epoch: int) -> Assignment:
        """Return an empty assignment: the network assigns its regions in `losses`."""
        return Assignment(None, {})

    def losses(self, outputs: PendingOutputs, batch: Batch, assignment: Assignment) -> dict[str, Tensor]:
        """Run the network on the images (B, 3, H, W) of a batch and compute the loss terms, scalars by name."""
        return self.compute(outputs.network, batch, self.precision)


def _mask_rcnn_criterion(experiment: Experiment) -> TorchvisionCriterion:
    return TorchvisionCriterion(mask_rcnn_losses, experiment.run.precision)


def _fcos_criterion(experiment: Experiment) -> TorchvisionCriterion:
    return TorchvisionCriterion(fcos_losses, experiment.run.precision)


MASK_RCNN_NAME = "peers.torchvision_peers.architectures:MASK_RCNN"
"""Value of `model.architecture`."""
FCOS_NAME = "peers.torchvision_peers.architectures:FCOS"
"""Value of `model.architecture`."""
MASK_RCNN = Architecture("mask-rcnn", _build_mask_rcnn, _mask_rcnn_criterion, None, detect=detect_masks)
FCOS = Architecture("fcos-torchvision", _build_fcos, _fcos_criterion, None, detect=detect_boxes)

_SCHEDULE = ScheduleConfig(epochs=12, milestones=(8, 11), warmup=1000, warmup_factor=0.001, warmup_kind="linear")
"""The standard schedule of 12 epochs with the warm-up of torchvision's reference training."""


def mask_rcnn_r50() -> Experiment:
    """Mask R-CNN, ResNet-50, at the paper's fixed 768 x 768, under the conditions of SAIS-768.

    torchvision trains 26 epochs at 800 x 1333 with kept aspect ratio and weight decay of biases.

    Expected: not measured (torchvision: box AP 37.9, mask AP 34.6 on COCO val2017 with its own recipe).
    """
    return _mask_rcnn_recipe("mask-rcnn-r50", "resnet50.tv_in1k")


def mask_rcnn_r101() -> Experiment:
    """Mask R-CNN, ResNet-101: `mask_rcnn_r50` with another backbone. Expected: not measured."""
    return _mask_rcnn_recipe("mask-rcnn-r101", "resnet101.tv_in1k")


def fcos_torchvision_r50() -> Experiment:
    """torchvision's FCOS, ResNet-50, 1333 x 800 with kept aspect ratio: the counterpart of the recipe fcos-r50-area.

    torchvision trains 26 epochs with weight decay of biases.

    Expected: not measured (torchvision: box AP 39.2 on COCO val2017 with its own recipe).
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
