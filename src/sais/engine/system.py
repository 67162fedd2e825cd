"""What is trained: a network, what it loses on a batch, how its weights predict. SAIS is one; peers of ours are others.

The engine reads pictures, steps, saves, resumes and evaluates in one way, whatever the system, so that two systems
differ in nothing but themselves. The whole route of a SAIS batch from the network to the losses is `sais_losses`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sais.config import Experiment
from sais.detections import Detections
from sais.geometry.boxes import grid_sizes, locations
from sais.losses import Normalisers, compute_losses, count
from sais.model.sais import STRIDES, build_model, set_convolutions, set_recompute
from sais.predict import Predictor, choose_device
from sais.structures import Batch, DenseTargets, Objects, Placement
from sais.targets import build_targets, choose_mask_positives


class Finder(Protocol):
    """What finds objects on canvases; the evaluation needs no more. `sais.Predictor` is one, and
    so is `sais.runtimes.RuntimePredictor`."""

    experiment: Experiment
    class_names: tuple[str, ...]

    def detect(self, canvases: Tensor, placements: list[Placement]) -> list[Detections]:
        """From canvases (B, 3, height, width) uint8 and where the pictures lie on them to B detections."""
        ...


@dataclass(frozen=True)
class Matching:
    """What a batch's locations should say, and what its losses are divided by. It is found without the network, so that
    everything which makes one optimiser step (micro-batches, ranks) can be counted before the first loss."""

    targets: DenseTargets
    chosen: list[Tensor]
    """B tensors of the locations that train masks."""
    normalisers: Normalisers


@dataclass(frozen=True)
class System:
    """The functions that the engine calls."""

    name: str
    """Written into every checkpoint: a run of one system is not resumed as another."""
    build: Callable[[Experiment, int], nn.Module]
    """(experiment, number of classes) -> the network, randomly initialised, its frozen parts frozen. It has a
    `sais.model.backbones.Backbone` named `backbone`, which the engine fills with ImageNet weights."""
    losses: Callable[..., dict[str, Tensor]]
    """(network, batch, experiment, epoch) -> named scalar terms; their sum is minimised. Where there is `match`, also
    (network, batch, experiment, epoch, matching)."""
    finder: Callable[[Any, Experiment, tuple[str, ...], tuple[int, ...], str], Finder]
    """(network, experiment, class names, category ids, device) -> what predicts with these weights."""
    match: Callable[[Batch, Experiment, int], Matching] | None = None
    """(batch, experiment, epoch) -> its matching. None: a batch of this system cannot be split."""
    class_layers: tuple[str, ...] = ()
    """Modules whose first dimension is the classes: made anew where a checkpoint's classes are others."""


def sais_matching(batch: Batch, experiment: Experiment, epoch: int) -> Matching:
    """Targets, mask positives and normalisers of one batch that lies on the network's device."""
    sizes = grid_sizes((batch.pictures.shape[2], batch.pictures.shape[3]), STRIDES)
    points = locations(sizes, STRIDES, batch.pictures.device)
    targets = build_targets(batch.objects, sizes, STRIDES, points, experiment.targets.rule)
    limit, seed = experiment.losses.mask_positives, experiment.run.seed
    chosen = choose_mask_positives(targets, batch.objects, batch.image_ids, limit, seed, epoch)
    return Matching(targets, chosen, count(targets, chosen))


def summed(matchings: list[Matching], sum_over_ranks: Callable[[Tensor], Tensor]) -> list[Matching]:
    """The matchings of all that makes one step on this rank, each with the normalisers of the whole step."""
    total = matchings[0].normalisers
    for matching in matchings[1:]:
        total = total + matching.normalisers
    values = torch.stack([total.positives, total.centerness, total.mask_positives])
    whole = Normalisers(*sum_over_ranks(values).unbind())
    return [replace(matching, normalisers=whole) for matching in matchings]


def sais_losses(
    model: Any,
    batch: Batch,
    experiment: Experiment,
    epoch: int,
    matching: Matching | None = None,
    mask_objects: list[Objects] | None = None,
) -> dict[str, Tensor]:
    """Network, targets, losses: what SAIS loses on one batch that lies on the network's device.

    Args:
        matching: of this batch, with the normalisers of the whole step; None: the batch is the whole step.
        mask_objects: B entries that the mask loss is to look at instead of the batch's own (`reproduce.slip`).
    """
    if matching is None:
        matching = sais_matching(batch, experiment, epoch)
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[experiment.run.precision]
    with torch.autocast(batch.pictures.device.type, kind, enabled=kind != torch.float32):
        outputs = model(batch.pictures)
    weights = experiment.losses
    return compute_losses(
        outputs,
        matching.targets,
        batch.objects if mask_objects is None else mask_objects,
        matching.chosen,
        matching.normalisers,
        box=weights.box,
        weights=(weights.class_weight, weights.box_weight, weights.centerness_weight, weights.mask_weight),
        mask_margin=weights.mask_margin,
    ).named()


def _build(experiment: Experiment, num_classes: int) -> nn.Module:
    model = build_model(experiment.model, num_classes)
    set_recompute(model, experiment.run.recompute)
    if choose_device(experiment.run.device).type == "cpu" and experiment.run.precision == "fp32":
        set_convolutions(model, experiment.run.convolutions, experiment.input.size)
    return model


SAIS_SYSTEM = System(
    "sais", _build, sais_losses, Predictor.of, match=sais_matching, class_layers=("head.class_logits",)
)
