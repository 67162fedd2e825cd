"""The state of a run between its steps, and how it is saved. `engine.resume` creates and restores it."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sais._version import __version__
from sais.checkpoint import Checkpoint, add_prefix, load_checkpoint, save_checkpoint
from sais.config import Experiment
from sais.data.annotations import DatasetSplit
from sais.distributed import SINGLE_PROCESS, World
from sais.engine.optim import MovingAverage, optimizer_tensors
from sais.engine.run_folder import BEST, LAST, MODEL, PREVIOUS
from sais.errors import SaisError
from sais.modeling.architecture import Architecture
from sais.modeling.criterion import Criterion


@dataclass
class TrainState:
    """Everything that changes during a run, and its settings."""

    experiment: Experiment
    out: Path
    """Folder of the run."""
    train_split: DatasetSplit
    valid_split: DatasetSplit | None
    model: nn.Module
    network: nn.Module
    """`model` as the losses call it: wrapped if several ranks add up their gradients."""
    optimizer: torch.optim.Optimizer
    average: MovingAverage[nn.Module] | None
    scaler: torch.amp.GradScaler
    """Loss scaling for fp16, so that small gradients do not underflow; disabled for other precisions."""
    device: torch.device
    architecture: Architecture
    criterion: Criterion
    world: World = SINGLE_PROCESS
    iteration: int = 0
    """Number of completed iterations."""
    best_score: float = -1.0
    """Best AP so far, mask AP if there are masks."""
    evaluations_since_best: int = 0
    """Number of evaluations after the best one."""
    seconds: float = 0.0
    """Training time in seconds."""
    metrics: dict[str, Any] | None = None
    """Metrics of the last evaluation."""
    thresholds: dict[str, Any] | None = None
    """Score thresholds with the best F1 of the last evaluation, `ScoreThresholds.to_dict`; rank 0 only."""
    data: dict[str, Any] | None = None
    """Description of the training split by `sais.data.digest`; None before a model has been saved."""
    evaluated_epochs: int = 0
    """Number of epochs whose evaluation is done or was not due: a run killed in an evaluation repeats it."""
    recent_losses: list[float] = field(default_factory=list)
    """Last total losses, by which a diverged loss is recognized."""
    skipped_batches: int = 0
    """Number of batches skipped because of a diverged loss (`run.on_nonfinite_loss`)."""
    consecutive_skips: int = 0
    """Number of skipped batches since the last step."""
    unreadable_images: set[str] = field(default_factory=set)
    """One line for each image that could not be read."""

    @property
    def evaluation_model(self) -> nn.Module:
        """Weights that are evaluated and saved as the model: the moving average if there is one."""
        return self.average.model if self.average else self.model


def save_train_state(run: TrainState) -> None:
    """Write the training state to `last.safetensors` and keep the old file as `previous.safetensors`; rank 0 only.

    If the disk is full, the previous file is deleted to make room.
    """
    if not run.world.is_main:
        return
    tensors = add_prefix("model", run.evaluation_model.state_dict())
    if run.average:
        tensors |= add_prefix("raw", run.model.state_dict())
    tensors |= add_prefix("optimizer", optimizer_tensors(run.optimizer, run.model))
    checkpoint = _checkpoint(run, tensors)
    previous = run.out / PREVIOUS
    try:
        save_checkpoint(run.out / LAST, checkpoint, previous)
    except SaisError as error:
        full = any(text in str(error) for text in (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT)))
        if not (full and previous.exists() and (run.out / LAST).exists()):
            raise
        previous.unlink()
        save_checkpoint(run.out / LAST, checkpoint)


def save_model(run: TrainState, path: Path) -> None:
    """Write the weights for prediction, without the training state; rank 0 only."""
    if run.world.is_main:
        if run.data is None:  # not in `last`, which is also saved when a signal ends the process
            from sais.data.digest import describe_data

            run.data = describe_data(run.train_split)
        checkpoint = _checkpoint(run, add_prefix("model", run.evaluation_model.state_dict()))
        checkpoint.state["data"] = run.data
        save_checkpoint(path, checkpoint)


def copy_best_to_model(out: Path) -> int:
    """Write the best weights of a run as its model, and return the iteration of these weights."""
    checkpoint = load_checkpoint(out / BEST)
    save_checkpoint(out / MODEL, checkpoint)
    iteration: int = checkpoint.state["iteration"]
    return iteration


def _checkpoint(run: TrainState, tensors: dict[str, torch.Tensor]) -> Checkpoint:
    state = {
        "iteration": run.iteration,
        "updates": run.average.updates if run.average else 0,
        "best_score": run.best_score,
        "evaluations_since_best": run.evaluations_since_best,
        "seconds": run.seconds,
        "metrics": run.metrics,
        "thresholds": run.thresholds,
        "evaluated_epochs": run.evaluated_epochs,
        "images": len(run.train_split.images),
        "recent_losses": run.recent_losses,
        "skipped_batches": run.skipped_batches,
        "consecutive_skips": run.consecutive_skips,
        "scaler": run.scaler.state_dict(),
        "unreadable_images": sorted(run.unreadable_images),
        "versions": {"sais": __version__, "torch": torch.__version__},
    }
    return Checkpoint(run.experiment, run.train_split.class_names, run.train_split.category_ids, tensors, state)
