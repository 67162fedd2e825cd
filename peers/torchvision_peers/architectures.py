"""The peers as `System`s of our engine, and their recipes on COCO."""

from __future__ import annotations

from functools import partial

from torch import nn

from peers.detector import PeerDetector
from peers.torchvision_peers.common import backbone_of
from peers.torchvision_peers.detectors import detect_boxes, detect_masks
from peers.torchvision_peers.fcos import build_fcos
from peers.torchvision_peers.losses import fcos_losses, mask_rcnn_losses
from peers.torchvision_peers.mask_rcnn import build_mask_rcnn
from sais.config import Experiment, InputConfig, ModelConfig, OptimConfig, ScheduleConfig
from sais.engine.architecture import Architecture
from sais.errors import SaisError


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


MASK_RCNN = Architecture("mask-rcnn", _mask_rcnn, mask_rcnn_losses, partial(PeerDetector, detect_masks))
FCOS = Architecture("fcos-torchvision", _fcos, fcos_losses, partial(PeerDetector, detect_boxes))

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
        model=ModelConfig(backbone="resnet50.tv_in1k", masks=False),
        optim=OptimConfig(name="sgd", lr=0.01, batch_size=16, weight_decay=1e-4, bias_lr_factor=1.0),
        schedule=_SCHEDULE,
    )


def _mask_rcnn_recipe(name: str, backbone: str) -> Experiment:
    return Experiment(
        name=name,
        input=InputConfig(mode="fixed", size=(768, 768)),
        model=ModelConfig(backbone=backbone),
        optim=OptimConfig(name="sgd", lr=0.02, batch_size=16, weight_decay=1e-4, bias_lr_factor=1.0),
        schedule=_SCHEDULE,
    )
