"""A run between its steps: what it carries, and how it is saved. How it starts and resumes stands in `engine.start`."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sais.checkpoint import Checkpoint, add_prefix, load_checkpoint, optimizer_tensors, save_checkpoint
from sais.config import Experiment
from sais.data.annotations import DatasetSplit
from sais.distributed import SINGLE_PROCESS, World
from sais.engine.architecture import Architecture
from sais.engine.optim import MovingAverage
from sais.errors import SaisError

LAST, PREVIOUS, BEST, MODEL = "last.safetensors", "previous.safetensors", "best.safetensors", "model.safetensors"
"""Everything to resume from, the same one checkpoint earlier, the best weights so far, the weights at the end."""


@dataclass
class TrainState:
    """Everything a run carries from step to step."""

    experiment: Experiment
    out: Path
    train_split: DatasetSplit
    valid_split: DatasetSplit | None
    model: nn.Module
    network: nn.Module
    """`model` as the losses call it: wrapped where several ranks add up their gradients."""
    optimizer: torch.optim.Optimizer
    average: MovingAverage[nn.Module] | None
    scaler: torch.amp.GradScaler
    """Keeps small gradients of fp16; idle with other precisions."""
    device: torch.device
    architecture: Architecture
    world: World = SINGLE_PROCESS
    iteration: int = 0
    best_score: float = -1.0
    evaluations_since_best: int = 0
    """Evaluations since the best one."""
    seconds: float = 0.0
    metrics: dict[str, Any] | None = None
    evaluated_epochs: int = 0
    """Epochs after which it was seen to whether an evaluation was due: a run killed in one makes up for it."""
    recent_losses: list[float] = field(default_factory=list)
    """The last losses, by which an exploding one is known."""
    skipped_batches: int = 0
    """Batches passed over for a bad loss, by option."""
    consecutive_skips: int = 0
    """Of these, the last ones one after the other."""
    unreadable_images: set[str] = field(default_factory=set)
    """A line for each image that could not be read."""

    @property
    def evaluation_model(self) -> nn.Module:
        """The weights that are evaluated and kept: the moving average where there is one."""
        return self.average.model if self.average else self.model


def save_train_state(run: TrainState) -> None:
    """Write `last.safetensors`, which holds everything that resuming needs; what it was before becomes `previous`.

    Where the disk is full, the previous one goes to make room. By the first rank alone.
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
        full = any(sign in str(error) for sign in (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT)))
        if not (full and previous.exists() and (run.out / LAST).exists()):
            raise
        previous.unlink()
        save_checkpoint(run.out / LAST, checkpoint)


def save_model(run: TrainState, path: Path) -> None:
    """Write the weights to predict with, and nothing else. By the first rank alone."""
    if run.world.is_main:
        save_checkpoint(path, _checkpoint(run, add_prefix("model", run.evaluation_model.state_dict())))


def best_as_model(out: Path) -> int:
    """Give the model of a run the best weights instead of the last. Returns the iteration that they are of."""
    checkpoint = load_checkpoint(out / BEST)
    save_checkpoint(out / MODEL, checkpoint)
    iteration: int = checkpoint.state["iteration"]
    return iteration


def _checkpoint(run: TrainState, tensors: dict[str, torch.Tensor]) -> Checkpoint:
    state = {
        "architecture": run.architecture.name,
        "iteration": run.iteration,
        "updates": run.average.updates if run.average else 0,
        "best_score": run.best_score,
        "evaluations_since_best": run.evaluations_since_best,
        "seconds": run.seconds,
        "metrics": run.metrics,
        "evaluated_epochs": run.evaluated_epochs,
        "images": len(run.train_split.images),
        "recent_losses": run.recent_losses,
        "skipped_batches": run.skipped_batches,
        "consecutive_skips": run.consecutive_skips,
        "scaler": run.scaler.state_dict(),
        "unreadable_images": sorted(run.unreadable_images),
    }
    return Checkpoint(run.experiment, run.train_split.class_names, run.train_split.category_ids, tensors, state)


@contextlib.contextmanager
def remove_unstarted_run(out: Path) -> Iterator[None]:
    """Where the run fails or is interrupted before its first checkpoint, what it wrote goes, so that the same --out can
    be used again."""
    try:
        yield
    except (SaisError, KeyboardInterrupt):
        if not any(out.glob("*.safetensors")):
            for name in ("experiment.json", "log.jsonl", "log.txt", "loggers.json"):
                (out / name).unlink(missing_ok=True)
            for name in ("tensorboard", "wandb"):
                shutil.rmtree(out / name, ignore_errors=True)
            with contextlib.suppress(OSError):  # something else lies there
                out.rmdir()
        raise
