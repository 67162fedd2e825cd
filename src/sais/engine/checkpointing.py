"""What one call of `train` works with besides the run: where images come from, when to save, when to stop."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import torch

from sais.data.loader import EpochBatches, LoadedBatch, training_loader
from sais.engine.logging.run_log import NullLog, RunLog
from sais.engine.signals import StopRequest, exit_by_signal
from sais.engine.train_state import TrainState, save_train_state
from sais.errors import SaisError
from sais.structures import Batch

WORKER_DEATHS = 3
"""So many times reading processes that died are replaced."""


@dataclass
class LoopContext:
    """What one call of `train` works with, besides the run itself."""

    log: RunLog | NullLog
    stop: StopRequest
    loader: Any
    batches: EpochBatches
    last: int
    """The iteration to stop after."""
    skip_broken: bool
    saved: float = field(default_factory=time.monotonic)
    """When the run was last saved."""
    saved_at: tuple[int, int] = (-1, -1)
    """Iteration and measured epochs of the run as it was last saved."""
    unread: int = 0
    """Batches, the last ones in a row, of which no image could be read."""
    unsaved: str = ""
    """Why the last attempt to save failed; "" where it did not."""


def build_loader(run: TrainState) -> tuple[Any, EpochBatches]:
    """The loader of a run, for the rank's share of every batch, and the sampler that tells it what to read."""
    settings, share = run.experiment, (run.world.rank, run.world.world_size)
    seed, workers, margin = settings.run.seed, settings.run.workers, settings.criterion.mask_margin
    inputs, batch = (settings.input, settings.augment), settings.optim.batch_size
    return training_loader(run.train_split, *inputs, batch, seed, workers, margin, share)


def stop_or_save(run: TrainState, course: LoopContext) -> None:
    """Between two steps: end the run where a signal asked for it, save it where that is due."""
    number = course.stop.signal or 0
    minutes = run.experiment.run.checkpoint_minutes
    late = bool(minutes) and time.monotonic() - course.saved > 60 * minutes
    if run.world.world_size > 1:  # a signal may reach one rank before another, and clocks differ
        number, late = run.world.maximum(torch.tensor([number, late])).tolist()
    if number:
        save(run, course)
        how = f"NOT SAVED ({course.unsaved}); the checkpoint before stands" if course.unsaved else "saved"
        course.log.say(f"stopped and {how} at iteration {run.iteration}; go on with --resume")
        exit_by_signal(number)
    every = run.experiment.run.checkpoint_every
    if late or (every and run.iteration % every == 0 and run.iteration % len(course.batches)):
        save(run, course)


def save(run: TrainState, course: LoopContext) -> None:
    """Save the run. A disk that is full for a while does not end it: the next checkpoint tries again."""
    run.unreadable_images = (
        set().union(*run.world.all_gather(run.unreadable_images)) if run.world.world_size > 1 else run.unreadable_images
    )
    if course.saved_at == (run.iteration, run.evaluated_epochs):
        return  # it would only take the place of the checkpoint before
    course.saved, course.unsaved = time.monotonic(), ""
    try:
        save_train_state(run)
        course.saved_at = run.iteration, run.evaluated_epochs
    except SaisError as error:
        if run.iteration >= course.last:
            raise
        course.unsaved = str(error)
        course.log.say(f"NOT SAVED: {error}. Training goes on, the next checkpoint tries again")
        course.log.write("note", iteration=run.iteration, unsaved=str(error))


def replace_workers(run: TrainState, course: LoopContext, deaths: int, error: RuntimeError) -> None:
    """New reading processes for those of which the system killed one; a SaisError where that happens too often."""
    said = "a process that reads images was killed, most often for want of memory"
    if deaths > WORKER_DEATHS:
        if run.world.world_size == 1:  # the others are in the middle of their step
            save(run, course)
        raise SaisError(f"{said}, for the {deaths}th time; go on with --resume and fewer --workers") from error
    course.log.say(f"{said}; new ones go on from iteration {run.iteration}")
    course.log.write("note", iteration=run.iteration, workers_killed=str(error))
    course.loader, course.batches = build_loader(run)


def usable(run: TrainState, loaded: LoadedBatch, course: LoopContext) -> Batch | None:
    """The batch without its broken images; raises unless they may be left out."""
    may_be_left_out = course.skip_broken or run.iteration >= len(course.batches)
    for line in loaded.unreadable_images:
        if not may_be_left_out:
            raise SaisError(f"{line} (or leave such images out with --skip-broken)")
        if line not in run.unreadable_images:
            run.unreadable_images.add(line)
            course.log.say(f"left out: {line}")
            course.log.write("note", iteration=run.iteration, broken=line)
    if loaded.batch is None and len(run.unreadable_images) >= len(run.train_split.images):
        raise SaisError(f"{run.train_split.name}: not one image can be read; check the data set with `sais check`")
    return loaded.batch


def out_of_patience(run: TrainState) -> bool:
    """Whether AP has not risen for so long that the run ends (`schedule.patience`)."""
    patience = run.experiment.schedule.patience
    return patience > 0 and run.evaluations_since_best >= patience
