"""YOLACT as a `System` of our engine: how it is built, what it loses on a batch, how it predicts; and its recipes."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from peers.detector import PeerDetector
from peers.yolact.anchors import anchor_boxes
from peers.yolact.losses import compute_losses
from peers.yolact.model import Yolact, build_yolact
from peers.yolact.postprocess import postprocess
from peers.yolact.targets import build_targets, sample_mask_positives
from sais.config import (
    AugmentConfig,
    Experiment,
    InputConfig,
    ModelConfig,
    OptimConfig,
    PostprocessConfig,
    ScheduleConfig,
)
from sais.engine.architecture import Architecture
from sais.modeling.postprocess import assemble
from sais.results.detections import Detections
from sais.structures import Batch, CanvasMap


def yolact_losses(model: Yolact, batch: Batch, experiment: Experiment, epoch: int) -> dict[str, Tensor]:
    """Network, targets, losses. Of `experiment.losses` it reads `mask_positives` and `mask_margin`; the weights are
    the paper's own."""
    device = batch.images.device
    with torch.autocast(device.type, torch.bfloat16, enabled=experiment.run.precision == "bf16"):
        outputs = model(batch.images)
    anchors = anchor_boxes(outputs.level_sizes, outputs.canvas_size, device)
    targets = build_targets(batch.ground_truths, anchors)
    limit, seed = experiment.criterion.mask_positives, experiment.run.seed
    chosen = sample_mask_positives(targets, batch.ground_truths, batch.image_ids, limit, seed, epoch)
    return compute_losses(outputs, targets, batch.ground_truths, chosen, experiment.criterion.mask_margin)


def detect(
    model: Yolact,
    settings: PostprocessConfig,
    canvases: Tensor,
    canvas_maps: list[CanvasMap],
    class_names: tuple[str, ...],
) -> list[Detections]:
    """From canvases to detections. Of the settings it reads score, nms, detections and mask_margin.

    Masks are SAIS' own, box-local and exact, so that accuracy is compared without differences of assembly.
    """
    outputs = model(canvases)
    anchors = anchor_boxes(outputs.level_sizes, outputs.canvas_size, canvases.device)
    contents = [canvas_map.content_size for canvas_map in canvas_maps]
    instances = postprocess(
        outputs, anchors, contents, settings.score_threshold, settings.nms_iou, settings.max_detections
    )
    return assemble(instances, canvas_maps, class_names, settings.mask_margin)


def _build(experiment: Experiment, num_classes: int) -> nn.Module:
    return build_yolact(experiment.model, num_classes)


YOLACT = Architecture("yolact", _build, yolact_losses, partial(PeerDetector, detect))


def yolact_550_r50() -> Experiment:
    """YOLACT-550, ResNet-50, as Section 6 trains it on COCO: SGD, lr 1e-3 for 8 images, weight decay 5e-4, divided by
    10 after 280k, 600k, 700k and 750k of 800k iterations (14,786 of them make an epoch), batch-norm trained.

    What our settings cannot say:

    - inputs are multiples of 32: 544 instead of 550 (the network itself takes 550);
    - SSD's augmentation (crops chosen by their IoU with an object, expansion with the mean color, photometric
      distortion, flips): zoom, color and flips of ours stand in for it, in a strength that nobody measured;
    - decay of convolution biases: our optimizer spares them.

    Expected: mask AP 28.2 on COCO test-dev (paper, Table 1); not measured by us.
    """
    return _paper("yolact-550-r50", "resnet50.tv_in1k", 544)


def yolact_700_r101() -> Experiment:
    """YOLACT-700, ResNet-101: `yolact_550_r50` with another backbone and 704 instead of 700 pixels.

    Expected: mask AP 31.2 on COCO test-dev (paper, Table 1); not measured by us.
    """
    return _paper("yolact-700-r101", "resnet101.tv_in1k", 704)


def _paper(name: str, backbone: str, side: int) -> Experiment:
    return Experiment(
        name=name,
        input=InputConfig(mode="fixed", size=(side, side)),
        augment=AugmentConfig(scale_jitter=(0.5, 2.0), color_jitter=0.3),
        model=ModelConfig(backbone=backbone, frozen_stages=0, frozen_batch_norm=False),
        optim=OptimConfig(name="sgd", lr=1e-3, batch_size=8, momentum=0.9, weight_decay=5e-4, bias_lr_factor=1.0),
        schedule=ScheduleConfig(
            epochs=54, milestones=(19, 41, 47, 51), gamma=0.1, warmup=500, warmup_factor=0.1, warmup_kind="linear"
        ),
    )
