"""What a training run would be, without running it: network, iterations, memory, and time from a few timed steps.

The first steps of the run are made, on its own data, with a network that is thrown away. Nothing is written.
"""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from sais.config import Experiment
from sais.data.annotations import DatasetSplit
from sais.device import choose_device
from sais.engine.auto_batch_size import MEMORY_FRACTION, memory_of_step
from sais.engine.checkpointing import build_loader
from sais.engine.free_memory import free_memory
from sais.engine.hardware import choose_workers, training_settings
from sais.engine.resume import RunInputs, new_state
from sais.engine.train_state import TrainState
from sais.engine.train_step import DivergedLossError, train_step
from sais.errors import ResourceError
from sais.modeling.architecture import find_architecture

WARM_UP_STEPS = 2
"""Number of steps before those that are timed: they allocate memory and choose algorithms."""
TIMED_STEPS = 10
TIMED_SECONDS = 20.0
"""Maximum number of timed steps, and the seconds after which no further one is started; one is timed in any case."""
TIMED_IMAGES = 16
"""Maximum number of validation images whose evaluation is timed."""


@dataclass(frozen=True)
class TrainingEstimate:
    """What a run would be. Memory in bytes, time in seconds."""

    device: str
    parameters: int
    trained_parameters: int
    """Number of parameters that are not frozen."""
    classes: int
    images: int
    """Number of training images."""
    valid_images: int | None
    """Number of validation images; None without a validation split."""
    input_size: tuple[int, int]
    """Height and width of the network's input in pixels."""
    batch_size: int
    iterations_per_epoch: int
    epochs: int
    iterations: int
    evaluations: int
    memory: int
    """Memory of a training step."""
    memory_per_image: int
    free_memory: int | None
    """Free memory of the device; None if the system does not report it."""
    step_seconds: float | None
    """Duration of a step with reading its images; None without timing."""
    evaluation_seconds: float | None
    """Duration of one evaluation of an untrained model, which finds little; None without timing or validation split."""

    @property
    def fits(self) -> bool:
        """Whether a step fits into the part of the free memory that `--batch-size auto` uses."""
        return self.free_memory is None or self.memory <= MEMORY_FRACTION * self.free_memory

    @property
    def seconds(self) -> float | None:
        """Duration of the run."""
        if self.step_seconds is None:
            return None
        return self.iterations * self.step_seconds + self.evaluations * (self.evaluation_seconds or 0.0)

    def to_dict(self) -> dict[str, Any]:
        """Return the estimate for JSON."""
        return asdict(self) | {"fits": self.fits, "seconds": self.seconds}


def estimate_training(
    experiment: Experiment,
    train_split: DatasetSplit,
    valid_split: DatasetSplit | None,
    *,
    weights: str | Path | None = None,
    random_init: bool = False,
    max_iterations: int | None = None,
    timing: bool = True,
    trust: bool = False,
) -> TrainingEstimate:
    """Build the network of a run, count its memory, and time its first steps. ImageNet weights are not loaded.

    Args:
        experiment: complete settings of the run.
        train_split: training split.
        valid_split: validation split, or None.
        weights, random_init, max_iterations, trust: see `sais.engine.trainer.train`.
        timing: whether steps and an evaluation are timed.

    Raises:
        SaisError: the run could not start with these settings, this data and these weights.
    """
    device = choose_device(experiment.run.device)
    run = _build(experiment, train_split, valid_split, device, weights, random_init, trust)
    experiment = run.experiment
    fixed, per_image = memory_of_step(experiment, len(train_split.class_names), device)
    batch_size = experiment.optim.batch_size
    loader, batches = build_loader(run)
    step_seconds = evaluation_seconds = None
    if timing:
        batches.epoch = experiment.schedule.epochs // 2  # in the middle of a growing input and of mosaics
        with training_settings(experiment, device):
            step_seconds = _time_steps(run, loader)
        evaluation_seconds = None if valid_split is None else _time_evaluation(run, valid_split)
    total = len(batches) * experiment.schedule.epochs
    iterations = total if max_iterations is None else min(total, max_iterations)
    parameters = [(parameter.numel(), parameter.requires_grad) for parameter in run.model.parameters()]
    return TrainingEstimate(
        device=str(device),
        parameters=sum(count for count, _ in parameters),
        trained_parameters=sum(count for count, is_trained in parameters if is_trained),
        classes=len(train_split.class_names),
        images=len(train_split.images),
        valid_images=None if valid_split is None else len(valid_split.images),
        input_size=experiment.input.size,
        batch_size=batch_size,
        iterations_per_epoch=len(batches),
        epochs=experiment.schedule.epochs,
        iterations=iterations,
        evaluations=0 if valid_split is None else _count_evaluations(experiment, iterations / len(batches)),
        memory=fixed + per_image * min(batch_size, experiment.optim.micro_batch or batch_size),
        memory_per_image=per_image,
        free_memory=_free_memory(device),
        step_seconds=step_seconds,
        evaluation_seconds=evaluation_seconds,
    )


def _build(
    experiment: Experiment,
    train_split: DatasetSplit,
    valid_split: DatasetSplit | None,
    device: torch.device,
    weights: str | Path | None,
    random_init: bool,
    trust: bool,
) -> TrainState:
    """Return the state in which the run would start, without ImageNet weights."""
    from sais.engine.mask_supervision import match_masks

    pretrained = experiment.model.pretrained and not random_init
    experiment = replace(experiment, model=replace(experiment.model, pretrained=pretrained))
    experiment, _ = match_masks(experiment, train_split, valid_split)
    inputs = RunInputs(experiment, Path(), train_split, valid_split, trust=trust)
    initial = None
    if weights is not None:
        from sais.engine.fine_tuning import read_initial_weights

        initial, experiment, _ = read_initial_weights(weights, experiment, inputs.world, trust)
        inputs = replace(inputs, experiment=experiment)
    torch.manual_seed(experiment.run.seed)
    architecture = find_architecture(experiment.model.architecture)
    model = architecture.build(experiment, len(train_split.class_names))
    if initial is not None:
        from sais.engine.fine_tuning import initialize_from

        initialize_from(model, initial, train_split.class_names, architecture)
    return new_state(inputs, architecture, model, device)


def _time_steps(run: TrainState, loader: Any) -> float:
    """Return the mean duration of a step in seconds, with waiting for its images."""
    run.network.train()
    durations: list[float] = []
    start = started = time.monotonic()
    for loaded in loader:
        loaded.check_memory()
        with contextlib.suppress(DivergedLossError):  # the backbone has no weights
            train_step(run, loaded.batch, 0, 0.0)
        now = time.monotonic()
        durations.append(now - start)
        start = now
        timed = len(durations) - WARM_UP_STEPS
        if timed >= TIMED_STEPS or (timed >= 1 and now - started > TIMED_SECONDS):
            break
    timed_durations = durations[WARM_UP_STEPS:] or durations[-1:]
    return sum(timed_durations) / max(1, len(timed_durations))


def _time_evaluation(run: TrainState, valid_split: DatasetSplit) -> float:
    """Return the duration of an evaluation in seconds, from that of some images."""
    from sais.evaluation.evaluate import evaluate
    from sais.inference.predictor import Predictor
    from sais.inference.trained_model import TrainedModel

    images = valid_split.images[:TIMED_IMAGES]
    split, settings = run.train_split, run.experiment
    model = TrainedModel(run.evaluation_model, settings, split.class_names, split.category_ids)
    predictor = Predictor(model, device=str(run.device))
    workers = choose_workers(settings.run.workers, run.device)
    batch_size = settings.optim.micro_batch or settings.optim.batch_size
    start = time.monotonic()
    evaluate(predictor, replace(valid_split, images=images), batch_size, workers, skip_broken=True)
    return (time.monotonic() - start) * len(valid_split.images) / max(1, len(images))


def _count_evaluations(experiment: Experiment, epochs: float) -> int:
    """Return the number of evaluations in a number of epochs: at intervals, and after the last epoch."""
    every, complete = experiment.run.evaluate_every, math.floor(epochs)
    regular = complete // every if every else 0
    ends_between = complete == experiment.schedule.epochs and (not every or complete % every != 0)
    return regular + ends_between


def _free_memory(device: torch.device) -> int | None:
    try:
        return free_memory(device)
    except ResourceError:
        return None
