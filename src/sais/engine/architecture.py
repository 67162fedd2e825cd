"""What is trained: a network, what it loses on a batch, how its weights predict. SAIS is one; peers of ours are others.

The engine reads images, steps, saves, resumes and evaluates in one way, whatever the system, so that two systems
differ in nothing but themselves. The whole route of a SAIS batch from the network to the losses is `sais_losses`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sais.config import Experiment
from sais.device import choose_device
from sais.inference.predictor import Predictor
from sais.modeling.assigners import build_targets, sample_mask_positives
from sais.modeling.losses import Normalizers, compute_losses, count_normalizers
from sais.modeling.sais import STRIDES, build_model, set_activation_checkpointing, set_convolutions
from sais.ops.boxes import grid_sizes, locations
from sais.results.detections import Detections
from sais.structures import Batch, CanvasMap, DenseTargets, GroundTruth


class Detector(Protocol):
    """What finds objects on canvases; the evaluation needs no more. `sais.Predictor` is one, and
    so is `sais.inference.exported_predictor.ExportedPredictor`."""

    experiment: Experiment
    class_names: tuple[str, ...]

    def detect(self, canvases: Tensor, canvas_maps: list[CanvasMap]) -> list[Detections]:
        """From canvases (B, 3, height, width) uint8 and where the images lie on them to B detections."""
        ...


@dataclass(frozen=True)
class Assignment:
    """What a batch's locations should say, and what its losses are divided by. It is found without the network, so that
    everything which makes one optimizer step (micro-batches, ranks) can be counted before the first loss."""

    targets: DenseTargets
    chosen: list[Tensor]
    """B tensors of the locations that train masks."""
    normalizers: Normalizers


@dataclass(frozen=True)
class Architecture:
    """The functions that the engine calls."""

    name: str
    """Written into every checkpoint: a run of one system is not resumed as another."""
    build: Callable[[Experiment, int], nn.Module]
    """(experiment, number of classes) -> the network, randomly initialized, its frozen parts frozen. It has a
    `sais.modeling.backbones.Backbone` named `backbone`, which the engine fills with ImageNet weights."""
    losses: Callable[..., dict[str, Tensor]]
    """(network, batch, experiment, epoch) -> named scalar terms; their sum is minimized. Where there is `match`, also
    (network, batch, experiment, epoch, matching)."""
    finder: Callable[[Any, Experiment, tuple[str, ...], tuple[int, ...], str], Detector]
    """(network, experiment, class names, category ids, device) -> what predicts with these weights."""
    match: Callable[[Batch, Experiment, int], Assignment] | None = None
    """(batch, experiment, epoch) -> its matching. None: a batch of this system cannot be split."""
    class_layers: tuple[str, ...] = ()
    """Modules whose first dimension is the classes: made anew where a checkpoint's classes are others."""


def assign_sais(batch: Batch, experiment: Experiment, epoch: int) -> Assignment:
    """Targets, mask positives and normalizers of one batch that lies on the network's device."""
    sizes = grid_sizes((batch.images.shape[2], batch.images.shape[3]), STRIDES)
    points = locations(sizes, STRIDES, batch.images.device)
    targets = build_targets(batch.ground_truths, sizes, STRIDES, points, experiment.criterion.assigner)
    limit, seed = experiment.criterion.mask_positives, experiment.run.seed
    chosen = sample_mask_positives(targets, batch.ground_truths, batch.image_ids, limit, seed, epoch)
    return Assignment(targets, chosen, count_normalizers(targets, chosen))


def sum_normalizers(matchings: list[Assignment], sum_over_ranks: Callable[[Tensor], Tensor]) -> list[Assignment]:
    """The matchings of all that makes one step on this rank, each with the normalizers of the whole step."""
    total = matchings[0].normalizers
    for matching in matchings[1:]:
        total = total + matching.normalizers
    values = torch.stack([total.positives, total.centerness, total.mask_positives])
    whole = Normalizers(*sum_over_ranks(values).unbind())
    return [replace(matching, normalizers=whole) for matching in matchings]


def sais_losses(
    model: Any,
    batch: Batch,
    experiment: Experiment,
    epoch: int,
    matching: Assignment | None = None,
    mask_objects: list[GroundTruth] | None = None,
) -> dict[str, Tensor]:
    """Network, targets, losses: what SAIS loses on one batch that lies on the network's device.

    Args:
        matching: of this batch, with the normalizers of the whole step; None: the batch is the whole step.
        mask_objects: B entries that the mask loss is to look at instead of the batch's own (`reproduce.slip`).
    """
    if matching is None:
        matching = assign_sais(batch, experiment, epoch)
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[experiment.run.precision]
    with torch.autocast(batch.images.device.type, kind, enabled=kind != torch.float32):
        outputs = model(batch.images)
    weights = experiment.criterion
    return compute_losses(
        outputs,
        matching.targets,
        batch.ground_truths if mask_objects is None else mask_objects,
        matching.chosen,
        matching.normalizers,
        box=weights.box_loss,
        weights=(weights.class_weight, weights.box_weight, weights.centerness_weight, weights.mask_weight),
        mask_margin=weights.mask_margin,
    ).named()


def _build(experiment: Experiment, num_classes: int) -> nn.Module:
    model = build_model(experiment.model, num_classes)
    set_activation_checkpointing(model, experiment.run.activation_checkpointing)
    if choose_device(experiment.run.device).type == "cpu" and experiment.run.precision == "fp32":
        set_convolutions(model, experiment.run.cpu_convolutions, experiment.input.size)
    return model


SAIS_ARCHITECTURE = Architecture(
    "sais", _build, sais_losses, Predictor.of, match=assign_sais, class_layers=("head.class_logits",)
)
