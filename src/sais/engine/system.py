"""What is trained: a network, what it loses on a batch, how its weights predict. SAIS is one; peers of ours are others.

The engine reads pictures, steps, saves, resumes and evaluates in one way, whatever the system, so that two systems
differ in nothing but themselves. The whole route of a SAIS batch from the network to the losses is `sais_losses`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sais.config import Experiment
from sais.detections import Detections
from sais.geometry.boxes import locations
from sais.losses import compute_losses, count
from sais.model.sais import STRIDES, build_model, set_recompute
from sais.predict import Predictor
from sais.structures import Batch, Objects, Placement
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
class System:
    """Three functions that the engine calls."""

    name: str
    """Written into every checkpoint: a run of one system is not resumed as another."""
    build: Callable[[Experiment, int], nn.Module]
    """(experiment, number of classes) -> the network, randomly initialised, its frozen parts frozen. It has a
    `sais.model.backbones.Backbone` named `backbone`, which the engine fills with ImageNet weights."""
    losses: Callable[[Any, Batch, Experiment, int], dict[str, Tensor]]
    """(network, batch, experiment, epoch) -> named scalar terms; their sum is minimised."""
    finder: Callable[[Any, Experiment, tuple[str, ...], tuple[int, ...], str], Finder]
    """(network, experiment, class names, category ids, device) -> what predicts with these weights."""


def sais_losses(
    model: Any, batch: Batch, experiment: Experiment, epoch: int, mask_objects: list[Objects] | None = None
) -> dict[str, Tensor]:
    """Network, targets, losses: what SAIS loses on one batch that lies on the network's device.

    Args:
        mask_objects: B entries that the mask loss is to look at instead of the batch's own (`reproduce.slip`).
    """
    device = batch.pictures.device
    with torch.autocast(device.type, torch.bfloat16, enabled=experiment.run.precision == "bf16"):
        outputs = model(batch.pictures)
    points = locations(outputs.level_sizes, STRIDES, device)
    targets = build_targets(batch.objects, outputs.level_sizes, STRIDES, points, experiment.targets.rule)
    weights = experiment.losses
    limit, seed = weights.mask_positives, experiment.run.seed
    chosen = choose_mask_positives(targets, batch.objects, batch.image_ids, limit, seed, epoch)
    return compute_losses(
        outputs,
        targets,
        batch.objects if mask_objects is None else mask_objects,
        chosen,
        count(targets, chosen),
        box=weights.box,
        weights=(weights.class_weight, weights.box_weight, weights.centerness_weight, weights.mask_weight),
        mask_margin=weights.mask_margin,
    ).named()


def _build(experiment: Experiment, num_classes: int) -> nn.Module:
    model = build_model(experiment.model, num_classes)
    set_recompute(model, experiment.run.recompute)
    return model


SAIS_SYSTEM = System("sais", _build, sais_losses, Predictor.of)
