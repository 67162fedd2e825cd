"""The criterion: from a batch and dense outputs to named loss terms whose sum is minimized.

A step calls `assign`, sums the normalizers over everything that makes one optimizer step, then calls `losses`:

- `needs_predictions = False` (center, area): all micro-batches are assigned before the first loss, and their
  normalizers are summed over micro-batches and ranks. Both then equal one large batch up to rounding. This is done in
  host memory, so that the host never waits for an accelerator, which computes the first forward pass meanwhile.
- `needs_predictions = True` (SimOTA, TAL): each micro-batch is assigned after its forward pass, and its normalizers are
  summed over ranks only. Ranks still equal one process; micro-batches do not equal one batch, because each is
  normalized by its own normalizers and weighted by its share of the images of the step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from sais.config import Experiment
from sais.errors import ConfigError
from sais.modeling.assigners import ASSIGNERS, Assigner, build_targets, location_grid, sample_mask_positives
from sais.modeling.losses import (
    BOX_LOSSES,
    CLASSIFICATION_LOSSES,
    FOCAL_ALPHA,
    FOCAL_GAMMA,
    QUALITY_TARGETS,
    BoxLoss,
    ClassificationLoss,
    QualityTarget,
    centerness_quality,
    focal_loss,
    iou_loss,
)
from sais.modeling.mask_loss import mask_losses
from sais.ops.transfers import copy_together
from sais.resolve import resolve
from sais.structures import STRIDES, Batch, DenseOutputs, DenseTargets

ExtraLoss = Callable[[DenseOutputs, Batch, "Assignment"], Tensor]
"""(outputs, batch, assignment) -> weighted scalar term."""


@dataclass(frozen=True)
class Assignment:
    """The training targets of a batch and the normalizers of its losses."""

    targets: Any
    """Targets of the criterion; `DenseTargets` of `SaisCriterion`."""
    normalizers: dict[str, Tensor]
    """Divisors of the losses, scalar tensors by name. Empty: the losses cannot be split over micro-batches or ranks."""
    mask_positives: list[Tensor] = field(default_factory=list)
    """B tensors (M,) int64, the locations that train masks."""
    mask_objects: list[Tensor] | None = None
    """B tensors (M,) int64 in host memory, the objects of these locations. None: to be found in the targets."""

    def to(self, device: torch.device) -> Assignment:
        """Return a copy of an assignment with `DenseTargets` (B, L, .), all but `mask_objects` on a device."""
        targets: DenseTargets = self.targets
        names = [name for name, value in vars(targets).items() if isinstance(value, Tensor)]
        positives = targets.positives or ()
        tensors = [*(getattr(targets, name) for name in names), *positives, *self.normalizers.values()]
        copies = iter(copy_together([*tensors, *self.mask_positives], device))
        moved: Any = {name: next(copies) for name in names}
        moved["positives"] = (next(copies), next(copies)) if positives else None
        normalizers = {name: next(copies) for name in self.normalizers}
        return Assignment(replace(targets, **moved), normalizers, list(copies), self.mask_objects)


class Criterion(Protocol):
    """The training objective of an architecture."""

    @property
    def needs_predictions(self) -> bool:
        """Whether `assign` needs the outputs of the network."""
        ...

    def assign(self, batch: Batch, outputs: Any | None, epoch: int) -> Assignment:
        """Assign targets to one batch on the network's device.

        Args:
            batch: B images and their ground truth.
            outputs: outputs of the network for the batch if `needs_predictions`, else None.
            epoch: epoch, counted from 0.
        """
        ...

    def losses(self, outputs: Any, batch: Batch, assignment: Assignment) -> dict[str, Tensor]:
        """Compute the weighted loss terms, float32 scalars by name, whose sum is minimized.

        Args:
            outputs: outputs of the network for the batch.
            batch: B images and their ground truth.
            assignment: result of `assign`, with the normalizers of the whole step.
        """
        ...


@dataclass(frozen=True)
class SaisCriterion:
    """The criterion of SAIS: classification, box, quality and mask loss.

    Every normalizer comes from the assignment alone and is at least 1.
    """

    strides: tuple[int, ...] = STRIDES
    """Canvas pixels per location of the levels."""
    level_ranges: tuple[float, ...] = (64.0, 128.0, 256.0, 512.0)
    """Upper bounds of a location's largest distance for all levels but the last, canvas pixels."""
    assigner: Assigner = ASSIGNERS["center"]
    """Assigner, see `sais.modeling.assigners.Assigner`."""
    assign_all_objects: bool = False
    """Whether objects without a location are given one, see `sais.modeling.unassigned_objects`."""
    classification_loss: ClassificationLoss = focal_loss
    """Classification loss, see `sais.modeling.losses.ClassificationLoss`."""
    focal_alpha: float = FOCAL_ALPHA
    """Alpha of the classification loss."""
    focal_gamma: float = FOCAL_GAMMA
    """Gamma of the classification loss."""
    box_loss: BoxLoss = iou_loss
    """Box loss, see `sais.modeling.losses.BoxLoss`."""
    quality: QualityTarget | None = centerness_quality
    """Target of the quality branch, see `sais.modeling.losses.QualityTarget`; None without a quality branch."""
    quality_name: str = "centerness"
    """Name of the quality term."""
    weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    """Weights of classification, box, quality and mask loss."""
    mask_positives: int = 100
    """Maximum number of locations per image that train masks."""
    mask_margin: float = 0.0
    """Margin around the box that the mask loss includes, as a fraction of the box's sides."""
    dice_weight: float = 0.0
    """Weight of the Dice loss in the mask loss, relative to its cross-entropy."""
    extra_losses: tuple[tuple[str, ExtraLoss], ...] = ()
    """Additional terms by name."""
    seed: int = 0
    """Seed of the sampled mask positives."""

    @property
    def needs_predictions(self) -> bool:
        """Whether the assigner needs the outputs of the network."""
        return _needs_predictions(self.assigner)

    def assign(self, batch: Batch, outputs: DenseOutputs | None, epoch: int) -> Assignment:
        """Assign targets (B, L, .), mask positives and normalizers; see `Criterion.assign`.

        This is done in host memory while the device computes, and copied to it in one transfer. An assigner that needs
        predictions runs on the device, so the host waits for its result, in one transfer as well.
        """
        device = batch.images.device
        ground_truths = [objects.on_host() for objects in batch.ground_truths]
        canvas = (batch.images.shape[2], batch.images.shape[3])
        grid = location_grid(canvas, self.strides, self.level_ranges)
        if self.needs_predictions and outputs is not None:
            on_device = replace(grid, points=copy_together([grid.points], device)[0])
            assigned = self.assigner(batch.ground_truths, on_device, _detached(outputs)).to(torch.device("cpu"))
        else:
            assigned = self.assigner(ground_truths, grid)
            if self.assign_all_objects:
                from sais.modeling.unassigned_objects import assign_all_objects

                assigned = assign_all_objects(assigned, ground_truths, grid)
        quality = None if _needs_predictions(self.quality) else self.quality
        targets = build_targets(assigned, ground_truths, grid.points, quality)
        samples = sample_mask_positives(targets, ground_truths, batch.image_ids, self.mask_positives, self.seed, epoch)
        objects = [index[rows] for index, rows in zip(targets.object_index, samples, strict=True)]
        return Assignment(targets, count_normalizers(targets, samples), samples, objects).to(device)

    def losses(self, outputs: DenseOutputs, batch: Batch, assignment: Assignment) -> dict[str, Tensor]:
        """Compute the terms of outputs (B, L, .), scalars by name; see `Criterion.losses`."""
        targets: DenseTargets = assignment.targets
        classification_weight, box_weight, quality_weight, mask_weight = self.weights
        divisors = {name: value.clamp(min=1) for name, value in assignment.normalizers.items()}
        positive = targets.positives  # image (P,) and location (P,)
        if positive is None:
            image, place = (targets.object_index >= 0).nonzero().unbind(1)  # waits for the device
            positive = (image, place)
        wanted, predicted = targets.distances[positive], outputs.distances[positive]  # (P, 4) both
        weights = None if targets.weights is None else targets.weights[positive]  # (P,)
        classification = self.classification_loss(
            outputs.class_logits,
            targets.labels,
            targets.score_targets,
            targets.weights,
            self.focal_alpha,
            self.focal_gamma,
        )
        box = self.box_loss(predicted, wanted)
        if targets.quality is not None:
            box = box * targets.quality[positive]
        box = box if weights is None else box * weights
        terms = {
            "classification": classification_weight * classification / divisors["positives"],
            "box": box_weight * box.sum() / divisors["box"],
        }
        if self.quality is not None and outputs.quality_logits is not None:
            stored = targets.quality
            quality = self.quality(wanted, predicted) if stored is None else stored[positive]
            sums = functional.binary_cross_entropy_with_logits(
                outputs.quality_logits[positive], quality, weight=weights, reduction="sum"
            )
            terms[self.quality_name] = quality_weight * sums / divisors["positives"]
        if outputs.prototypes is not None and outputs.coefficients is not None:
            mask_loss = self._mask_loss(outputs.prototypes, outputs.coefficients, batch, assignment)
            terms["mask"] = mask_weight * (outputs.class_logits.new_zeros(()) + mask_loss) / divisors["mask"]
        return terms | {name: function(outputs, batch, assignment) for name, function in self.extra_losses}

    def _mask_loss(self, prototypes: Tensor, coefficients: Tensor, batch: Batch, assignment: Assignment) -> Tensor:
        """Sum the mask loss of prototypes (B, K, h, w) and coefficients (B, L, K) over the sampled locations."""
        # Unbound, because the gradient of an indexed batch is as large as the batch, for every image of it.
        samples = assignment.mask_positives
        sampled = [values[rows] for values, rows in zip(coefficients.unbind(), samples, strict=True)]
        index = assignment.mask_objects
        if index is None:
            index = [objects[rows] for objects, rows in zip(assignment.targets.object_index, samples, strict=True)]
        return mask_losses(prototypes.unbind(), sampled, index, batch.ground_truths, self.mask_margin, self.dice_weight)


def count_normalizers(targets: DenseTargets, mask_positives: list[Tensor]) -> dict[str, Tensor]:
    """Count the normalizers of one batch.

    Args:
        targets: targets (B, L, .).
        mask_positives: B tensors (M,) of the locations that train masks.

    Returns:
        float32 scalars: "positives", the sum of the score targets of positive locations; "box", the sum of the weights
        of the box loss; "mask", the number of locations that train masks.
    """
    positive = targets.object_index >= 0
    count = positive.sum().float()
    box = count if targets.quality is None else targets.quality.sum()
    if targets.weights is not None:
        factors = positive.float() if targets.quality is None else targets.quality * positive
        box = (targets.weights * factors).sum()
    return {
        "positives": count if targets.score_targets is None else (targets.score_targets * positive).sum(),
        "box": box,
        "mask": torch.full_like(count, float(sum(len(rows) for rows in mask_positives))),
    }


def sum_normalizers(
    assignments: Sequence[Assignment], sum_over_ranks: Callable[[Tensor], Tensor] = lambda values: values
) -> list[Assignment]:
    """Return the assignments with the normalizers, scalars, of all of them together.

    Args:
        assignments: assignments of the micro-batches of this rank.
        sum_over_ranks: function of a tensor (number of normalizers,) that sums it over all ranks.
    """
    names = list(assignments[0].normalizers)
    if not names:
        return list(assignments)
    total = torch.stack([assignments[0].normalizers[name] for name in names])
    for assignment in assignments[1:]:
        total = total + torch.stack([assignment.normalizers[name] for name in names])
    normalizers = dict(zip(names, sum_over_ranks(total).unbind(), strict=True))
    return [replace(assignment, normalizers=normalizers) for assignment in assignments]


def build_criterion(experiment: Experiment) -> SaisCriterion:
    """Build the criterion that the settings describe.

    Raises:
        ConfigError: a name that is neither a row of its table nor importable, or a wrong number of level ranges.
    """
    config = experiment.criterion
    if len(config.level_ranges) != len(STRIDES) - 1 or sorted(set(config.level_ranges)) != list(config.level_ranges):
        raise ConfigError(
            f"criterion.level_ranges {config.level_ranges}: not {len(STRIDES) - 1} ascending numbers. Give the upper "
            "bound of each level but the last."
        )
    names = [name.partition(":")[2] for name in config.extra_losses]
    quality = experiment.model.quality
    quality_name = quality.rpartition(":")[2]
    reserved = {"classification", "box", "mask", quality_name, "total", "gradient"}
    if len(set(names)) != len(names) or reserved & set(names):
        raise ConfigError(
            f"criterion.extra_losses {config.extra_losses}: two terms of one name. Rename one of the functions."
        )
    assigner = resolve(config.assigner, ASSIGNERS, "assigner")
    if config.assign_all_objects and _needs_predictions(assigner):
        raise ConfigError(
            f"criterion.assign_all_objects: not with the assigner {config.assigner!r}, which needs predictions. Set it "
            "to False."
        )
    return SaisCriterion(
        level_ranges=config.level_ranges,
        assigner=assigner,
        assign_all_objects=config.assign_all_objects,
        classification_loss=resolve(config.classification_loss, CLASSIFICATION_LOSSES, "classification loss"),
        focal_alpha=config.focal_alpha,
        focal_gamma=config.focal_gamma,
        box_loss=resolve(config.box_loss, BOX_LOSSES, "box loss"),
        quality=resolve(quality, QUALITY_TARGETS, "quality"),
        quality_name=quality_name,
        weights=(config.class_weight, config.box_weight, config.quality_weight, config.mask_weight),
        mask_positives=config.mask_positives,
        mask_margin=config.mask_margin,
        dice_weight=config.dice_weight,
        extra_losses=tuple(
            (name, resolve(path, {}, "extra loss")) for name, path in zip(names, config.extra_losses, strict=True)
        ),
        seed=experiment.run.seed,
    )


def _needs_predictions(function: Any) -> bool:
    return bool(getattr(function, "needs_predictions", False))


def _detached(outputs: DenseOutputs) -> DenseOutputs:
    """Return the outputs (B, L, .) without gradients: an assignment is a constant of the loss."""
    tensors: dict[str, Any] = {n: value.detach() for n, value in vars(outputs).items() if isinstance(value, Tensor)}
    return replace(outputs, **tensors)
