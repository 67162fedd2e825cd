"""The architecture of YOLACT: network, criterion and post-processing; and its recipes on COCO."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from peers.yolact.anchors import anchor_boxes
from peers.yolact.losses import compute_losses
from peers.yolact.model import AnchorOutputs, build_yolact
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
from sais.modeling.architecture import Architecture
from sais.modeling.criterion import Assignment
from sais.ops.boxes import grid_sizes
from sais.structures import STRIDES, Batch, Instances


@dataclass(frozen=True)
class YolactCriterion:
    """The losses of YOLACT with the weights of its paper."""

    mask_positives: int = 100
    """Maximum number of anchors per image that train masks."""
    mask_margin: float = 0.0
    """Margin around the box that the mask loss includes, as a fraction of the box's sides."""
    seed: int = 0
    """Seed of the sampled mask positives."""
    needs_predictions = False

    def assign(self, batch: Batch, outputs: AnchorOutputs | None, epoch: int) -> Assignment:
        """Assign targets (B, A, .) and mask positives; see `sais.modeling.criterion.Criterion.assign`."""
        canvas = (batch.images.shape[2], batch.images.shape[3])
        anchors = anchor_boxes(grid_sizes(canvas, STRIDES), canvas, batch.images.device)
        targets = build_targets(batch.ground_truths, anchors)
        samples = sample_mask_positives(
            targets, batch.ground_truths, batch.image_ids, self.mask_positives, self.seed, epoch
        )
        images = sum(image_id >= 0 for image_id in batch.image_ids)  # without the padding of `empty_batch`
        positives = (targets.object_index >= 0).sum().float()
        return Assignment(targets, {"positives": positives, "images": positives.new_tensor(float(images))}, samples)

    def losses(self, outputs: AnchorOutputs, batch: Batch, assignment: Assignment) -> dict[str, Tensor]:
        """Compute the loss terms of outputs (B, A, .), scalars by name."""
        return compute_losses(outputs, batch.ground_truths, assignment, self.mask_margin)


def postprocess_anchors(
    outputs: AnchorOutputs, content_sizes: list[tuple[float, float]], settings: PostprocessConfig
) -> Instances:
    """Select the instances (B, D, .) of outputs (B, A, .).

    The predictor assembles masks as those of SAIS, box-local and exact, so that accuracy does not depend on the
    assembly. Score threshold, NMS IoU and maximum number of detections are used of the settings.
    """
    anchors = anchor_boxes(outputs.level_sizes, outputs.canvas_size, outputs.class_logits.device)
    return postprocess(
        outputs, anchors, content_sizes, settings.score_threshold, settings.nms_iou, settings.max_detections
    )


def _build(experiment: Experiment, num_classes: int) -> nn.Module:
    return build_yolact(experiment.model, num_classes)


def _build_criterion(experiment: Experiment) -> YolactCriterion:
    settings = experiment.criterion
    return YolactCriterion(settings.mask_positives, settings.mask_margin, experiment.run.seed)


YOLACT_NAME = "peers.yolact.architecture:YOLACT"
"""Value of `model.architecture`."""
YOLACT = Architecture("yolact", _build, _build_criterion, postprocess_anchors)


def yolact_550_r50() -> Experiment:
    """YOLACT-550, ResNet-50, trained on COCO as in Section 6 of its paper.

    SGD, learning rate 1e-3 for 8 images, divided by 10 after 280k, 600k, 700k and 750k of 800k iterations (14,786 per
    epoch), weight decay 5e-4, batch-norm trained. Differences:

    - inputs are multiples of 32: 544 instead of 550 (the network accepts 550);
    - SSD's augmentation (crops by IoU, expansion, photometric distortion, flips) is approximated by zoom, color jitter
      and flips of unverified strength;
    - convolution biases have no weight decay.

    Expected: mask AP 28.2 on COCO test-dev (paper, Table 1); not measured.
    """
    return _paper("yolact-550-r50", "resnet50.tv_in1k", 544)


def yolact_700_r101() -> Experiment:
    """YOLACT-700, ResNet-101: `yolact_550_r50` with another backbone and 704 instead of 700 pixels.

    Expected: mask AP 31.2 on COCO test-dev (paper, Table 1); not measured.
    """
    return _paper("yolact-700-r101", "resnet101.tv_in1k", 704)


def _paper(name: str, backbone: str, side: int) -> Experiment:
    return Experiment(
        name=name,
        input=InputConfig(mode="fixed", size=(side, side)),
        augment=AugmentConfig(scale_jitter=(0.5, 2.0), color_jitter=0.3),
        model=ModelConfig(architecture=YOLACT_NAME, backbone=backbone, frozen_stages=0, frozen_batch_norm=False),
        optim=OptimConfig(name="sgd", lr=1e-3, batch_size=8, momentum=0.9, weight_decay=5e-4, bias_lr_factor=1.0),
        schedule=ScheduleConfig(
            epochs=54, milestones=(19, 41, 47, 51), gamma=0.1, warmup=500, warmup_factor=0.1, warmup_kind="linear"
        ),
    )
