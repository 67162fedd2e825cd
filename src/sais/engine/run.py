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

from sais.checkpoint import Checkpoint, load, optimizer_tensors, prefixed, save
from sais.config import Experiment
from sais.data.index import Index
from sais.engine.distributed import ALONE, Ranks
from sais.engine.optim import MovingAverage
from sais.engine.system import System
from sais.structures import SaisError

LAST, PREVIOUS, BEST, MODEL = "last.safetensors", "previous.safetensors", "best.safetensors", "model.safetensors"
"""Everything to resume from, the same one checkpoint earlier, the best weights so far, the weights at the end."""


@dataclass
class Run:
    """Everything a run carries from step to step."""

    experiment: Experiment
    out: Path
    index: Index
    valid: Index | None
    model: nn.Module
    network: nn.Module
    """`model` as the losses call it: wrapped where several ranks add up their gradients."""
    optimizer: torch.optim.Optimizer
    average: MovingAverage[nn.Module] | None
    scaler: torch.amp.GradScaler
    """Keeps small gradients of fp16; idle with other precisions."""
    device: torch.device
    system: System
    ranks: Ranks = ALONE
    iteration: int = 0
    best: float = -1.0
    stale: int = 0
    """Evaluations since the best one."""
    seconds: float = 0.0
    metrics: dict[str, Any] | None = None
    measured: int = 0
    """Epochs after which it was seen to whether an evaluation was due: a run killed in one makes up for it."""
    recent: list[float] = field(default_factory=list)
    """The last losses, by which an exploding one is known."""
    skipped: int = 0
    """Batches passed over for a bad loss, by option."""
    in_a_row: int = 0
    """Of these, the last ones one after the other."""
    broken: set[str] = field(default_factory=set)
    """A line for each picture that could not be read."""

    @property
    def evaluated(self) -> nn.Module:
        """The weights that are evaluated and kept: the moving average where there is one."""
        return self.average.model if self.average else self.model


def save_run(run: Run) -> None:
    """Write `last.safetensors`, which holds everything that resuming needs; what it was before becomes `previous`.

    Where the disk is full, the previous one goes to make room. By the first rank alone.
    """
    if not run.ranks.first:
        return
    tensors = prefixed("model", run.evaluated.state_dict())
    if run.average:
        tensors |= prefixed("raw", run.model.state_dict())
    tensors |= prefixed("optimizer", optimizer_tensors(run.optimizer, run.model))
    checkpoint = _checkpoint(run, tensors)
    previous = run.out / PREVIOUS
    try:
        save(run.out / LAST, checkpoint, previous)
    except SaisError as error:
        full = any(sign in str(error) for sign in (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT)))
        if not (full and previous.exists() and (run.out / LAST).exists()):
            raise
        previous.unlink()
        save(run.out / LAST, checkpoint)


def save_model(run: Run, path: Path) -> None:
    """Write the weights to predict with, and nothing else. By the first rank alone."""
    if run.ranks.first:
        save(path, _checkpoint(run, prefixed("model", run.evaluated.state_dict())))


def best_as_model(out: Path) -> int:
    """Give the model of a run the best weights instead of the last. Returns the iteration that they are of."""
    checkpoint = load(out / BEST)
    save(out / MODEL, checkpoint)
    iteration: int = checkpoint.state["iteration"]
    return iteration


def _checkpoint(run: Run, tensors: dict[str, torch.Tensor]) -> Checkpoint:
    state = {
        "system": run.system.name,
        "iteration": run.iteration,
        "updates": run.average.updates if run.average else 0,
        "best": run.best,
        "stale": run.stale,
        "seconds": run.seconds,
        "metrics": run.metrics,
        "measured": run.measured,
        "pictures": len(run.index.images),
        "recent": run.recent,
        "skipped": run.skipped,
        "in_a_row": run.in_a_row,
        "scaler": run.scaler.state_dict(),
        "broken": sorted(run.broken),
    }
    return Checkpoint(run.experiment, run.index.class_names, run.index.category_ids, tensors, state)


@contextlib.contextmanager
def nothing_half_written(out: Path) -> Iterator[None]:
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
