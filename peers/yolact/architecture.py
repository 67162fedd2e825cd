"""YOLACT as a `System` of our engine: how it is built, what it loses on a batch, how it predicts; and its recipes."""

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
from sais.structures import Batch, Instances


@dataclass(frozen=True)
class YolactCriterion:
    """The losses of YOLACT with the weights of its paper; not split over micro-batches or ranks."""

    mask_positives: int = 100
    """Maximum number of anchors per image that train masks."""
    mask_margin: float = 0.0
    """Margin around the box that the mask loss includes, as a fraction of the box's sides."""
    seed: int = 0
    """Seed of the sampled mask positives."""
    needs_predictions = True  # only the sizes of the levels

    def assign(self, batch: Batch, outputs: AnchorOutputs | None, epoch: int) -> Assignment:
        """Assign targets (B, A, .) to the anchors of outputs (B, A, .)."""
        assert outputs is not None
        anchors = anchor_boxes(outputs.level_sizes, outputs.canvas_size, batch.images.device)
        targets = build_targets(batch.ground_truths, anchors)
        samples = sample_mask_positives(
            targets, batch.ground_truths, batch.image_ids, self.mask_positives, self.seed, epoch
        )
        return Assignment(targets, {}, samples)

    def losses(self, outputs: AnchorOutputs, batch: Batch, assignment: Assignment) -> dict[str, Tensor]:
        """Compute the loss terms of outputs (B, A, .)."""
        samples = assignment.mask_positives
        return compute_losses(outputs, assignment.targets, batch.ground_truths, samples, self.mask_margin)


def postprocess_anchors(
    outputs: AnchorOutputs, content_sizes: list[tuple[float, float]], settings: PostprocessConfig
) -> Instances:
    """Turn outputs (B, A, .) into instances (B, D, .) by YOLACT's post-processing.

    Masks are assembled as those of SAIS, box-local and exact, so that accuracy does not depend on the assembly. Of the
    settings, score threshold, NMS threshold and number of detections are used.
    """
    anchors = anchor_boxes(outputs.level_sizes, outputs.canvas_size, outputs.class_logits.device)
    limits = settings.score_threshold, settings.nms_iou, settings.max_detections
    return postprocess(outputs, anchors, content_sizes, *limits)


def _build(experiment: Experiment, num_classes: int) -> nn.Module:
    return build_yolact(experiment.model, num_classes)


def _build_criterion(experiment: Experiment) -> YolactCriterion:
    settings = experiment.criterion
    return YolactCriterion(settings.mask_positives, settings.mask_margin, experiment.run.seed)


YOLACT_NAME = "peers.yolact.architecture:YOLACT"
"""Value of `model.architecture`."""
YOLACT = Architecture("yolact", _build, _build_criterion, postprocess_anchors)


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
        model=ModelConfig(architecture=YOLACT_NAME, backbone=backbone, frozen_stages=0, frozen_batch_norm=False),
        optim=OptimConfig(name="sgd", lr=1e-3, batch_size=8, momentum=0.9, weight_decay=5e-4, bias_lr_factor=1.0),
        schedule=ScheduleConfig(
            epochs=54, milestones=(19, 41, 47, 51), gamma=0.1, warmup=500, warmup_factor=0.1, warmup_kind="linear"
        ),
    )
