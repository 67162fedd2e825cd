"""Small models that train and run on a CPU: the lightweight framework that the paper names as future work.

`paper_lite0` is frozen: experiments are compared with it, so that its values never change. The `sais-lite` family
follows the experiments in `docs/log.md`. The ImageNet weights of the backbones come with the pip extra `imagenet-lite`
and need no download.
"""

from __future__ import annotations

from dataclasses import replace

from sais.config import (
    AugmentConfig,
    CriterionConfig,
    Experiment,
    InputConfig,
    ModelConfig,
    OptimConfig,
    PostprocessConfig,
    RunConfig,
    ScheduleConfig,
)
from sais.recipes import paper

LITE0 = "tf_efficientnet_lite0.in1k"
LITE1 = "tf_efficientnet_lite1.in1k"
LITE2 = "tf_efficientnet_lite2.in1k"

GROWING_EPOCHS = 0.8
"""Fraction of the epochs in which the input grows; the last ones have the size of the predictions."""


def paper_lite0() -> Experiment:
    """The paper's structure on EfficientNet-Lite0 with 96 channels, 256x256: the frozen baseline of experiments.

    Command:  sais train paper-lite0 --data animals
    Cost:     not yet measured
    Expected: not yet measured
    """
    return Experiment(
        name="paper-lite0",
        input=InputConfig(mode="fixed", size=(256, 256)),
        model=ModelConfig(backbone=LITE0, channels=96, prototype_channels=96),
        criterion=CriterionConfig(box_loss="giou"),
        optim=OptimConfig(
            name="adamw", lr=1e-3, batch_size=8, weight_decay=0.05, bias_lr_factor=1.0, backbone_lr_factor=0.3
        ),
        schedule=ScheduleConfig(epochs=15, kind="cosine", warmup=100, warmup_factor=0.1, warmup_kind="linear"),
        run=RunConfig(ema=0.998),
    )


def sais_r50_640_slim() -> Experiment:
    """SAIS-R50 at 640x640 with 128 instead of 256 channels in FPN, head and ProtoNet: half the multiply-adds.

    Command:  sais train sais-r50-640-slim --data DIR
    Cost:     not yet measured
    Expected: not yet measured
    """
    return replace(
        paper.sais_r50_640(),
        name="sais-r50-640-slim",
        model=replace(paper.sais_r50_640().model, channels=128, prototype_channels=128),
    )


def sais_r50_plus() -> Experiment:
    """SAIS-R50 at 768x768 with what `sais-lite` gained over the paper's recipe; needs a GPU.

    Command:  sais train sais-r50-plus --data coco
    Cost:     not yet measured
    Expected: not yet measured
    """
    return _plus("sais-r50-plus", paper.sais_r50_768())


def sais_r50_plus_slim() -> Experiment:
    """The same at 640x640 with 128 instead of 256 channels in FPN, head and ProtoNet; needs a GPU.

    Command:  sais train sais-r50-plus-slim --data coco
    Cost:     not yet measured
    Expected: not yet measured
    """
    return _plus("sais-r50-plus-slim", sais_r50_640_slim())


def sais_r50_finetune() -> Experiment:
    """SAIS-R50 at 640x640 with the head of torchvision's FCOS, to fine-tune its COCO weights; needs a GPU.

    Command:  sais train sais-r50-finetune --data DIR --weights torchvision:fcos_resnet50_fpn
    Cost:     not yet measured
    Expected: not yet measured
    """
    base = paper.sais_r50_640()
    return replace(
        base,
        name="sais-r50-finetune",
        augment=AugmentConfig(scale_jitter=(0.6, 1.5)),
        model=replace(
            base.model,
            distance_unit="stride",
            distance_activation="relu",
            distance_origin="corner",
            quality_from="regression",
            tower_bias=True,
        ),
        criterion=CriterionConfig(box_loss="giou"),  # torchvision's; -log IoU has no gradient at a distance of 0
        optim=OptimConfig(lr=0.005, batch_size=8, grad_clip_norm=35.0),
        schedule=ScheduleConfig(warmup_factor=0.1, warmup_kind="linear"),
    )


def sais_lite() -> Experiment:
    """SAIS-Lite on EfficientNet-Lite0, 320x320 or larger: the recipe to start with, also without a GPU.

    Command:  sais train sais-lite --data animals
    Cost:     13 core-minutes on one thread (700 images, 14 epochs, one evaluation)
    Expected: box AP 0.577, mask AP 0.581 on valid (mean of 3 seeds)
    """
    return _lite("sais-lite", LITE0, 320)


def sais_lite_small_data() -> Experiment:
    """SAIS-Lite for dozens to thousands of images: one and a half times as many epochs.

    Command:  sais train sais-lite-small-data --data animals
    Cost:     19 core-minutes on one thread (700 images, 21 epochs, one evaluation)
    Expected: box AP 0.604, mask AP 0.601 on valid (mean of 3 seeds)
    """
    return _lite("sais-lite-small-data", LITE0, 320, epochs=21)


def sais_lite1() -> Experiment:
    """SAIS-Lite on EfficientNet-Lite1, 320x320.

    Command:  sais train sais-lite1 --data animals
    Cost:     not yet measured
    Expected: not yet measured
    """
    return _lite("sais-lite1", LITE1, 320)


def sais_lite2() -> Experiment:
    """SAIS-Lite on EfficientNet-Lite2, 384x384.

    Command:  sais train sais-lite2 --data animals
    Cost:     not yet measured
    Expected: not yet measured
    """
    return _lite("sais-lite2", LITE2, 384)


def _lite(name: str, backbone: str, side: int, epochs: int = 14) -> Experiment:
    return Experiment(
        name=name,
        input=InputConfig(mode="fixed", size=(side, side)),
        augment=_augment(epochs),
        model=ModelConfig(
            backbone=backbone,
            frozen_stages=2,
            channels=64,
            tower_depth=2,
            prototype_channels=64,
            prototype_norm="group",
            distance_unit="stride",
        ),
        criterion=CriterionConfig(box_loss="giou", mask_weight=2.0),
        postprocess=PostprocessConfig(maskness=True),
        optim=OptimConfig(
            name="muon", lr=1e-3, batch_size=4, weight_decay=0.05, bias_lr_factor=1.0, backbone_lr_factor=0.3
        ),
        schedule=ScheduleConfig(epochs=epochs, kind="cosine", warmup=100, warmup_factor=0.1, warmup_kind="linear"),
        run=RunConfig(ema=0.998),
    )


def _augment(epochs: int) -> AugmentConfig:
    growing = round(GROWING_EPOCHS * epochs)
    return AugmentConfig(scale_jitter=(0.6, 1.5), initial_size=0.5, size_growth_epochs=growing)


def _plus(name: str, base: Experiment) -> Experiment:
    return replace(
        base,
        name=name,
        augment=_augment(12),
        model=replace(base.model, prototype_norm="group", distance_unit="stride"),
        criterion=CriterionConfig(box_loss="giou", mask_weight=2.0),
        postprocess=PostprocessConfig(maskness=True),
        optim=OptimConfig(
            name="muon", lr=1e-3, batch_size=16, weight_decay=0.05, bias_lr_factor=1.0, backbone_lr_factor=0.1
        ),
        schedule=ScheduleConfig(epochs=12, kind="cosine", warmup=1000, warmup_factor=0.1, warmup_kind="linear"),
        run=RunConfig(ema=0.999),
    )
