"""What one call of `train` works with besides the run: where pictures come from, when to save, when to stop."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import torch

from sais.data.loader import EpochBatches, Loaded, training_loader
from sais.engine.interrupt import StopRequest, end_by
from sais.engine.run import Run, save_run
from sais.engine.runlog import RunLog, Silence
from sais.structures import Batch, SaisError

WORKER_DEATHS = 3
"""So many times reading processes that died are replaced."""


@dataclass
class Course:
    """What one call of `train` works with, besides the run itself."""

    log: RunLog | Silence
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
    """Batches, the last ones in a row, of which no picture could be read."""
    unsaved: str = ""
    """Why the last attempt to save failed; "" where it did not."""


def loader_of(run: Run) -> tuple[Any, EpochBatches]:
    """The loader of a run, for the rank's share of every batch, and the sampler that tells it what to read."""
    settings, share = run.experiment, (run.ranks.rank, run.ranks.world)
    seed, workers, margin = settings.run.seed, settings.run.workers, settings.losses.mask_margin
    inputs, batch = (settings.input, settings.augment), settings.optim.batch
    return training_loader(run.index, *inputs, batch, seed, workers, margin, share)


def stop_or_save(run: Run, course: Course) -> None:
    """Between two steps: end the run where a signal asked for it, save it where that is due."""
    number = course.stop.signal or 0
    minutes = run.experiment.run.checkpoint_minutes
    late = bool(minutes) and time.monotonic() - course.saved > 60 * minutes
    if run.ranks.world > 1:  # a signal may reach one rank before another, and clocks differ
        number, late = run.ranks.greatest(torch.tensor([number, late])).tolist()
    if number:
        save(run, course)
        how = f"NOT SAVED ({course.unsaved}); the checkpoint before stands" if course.unsaved else "saved"
        course.log.say(f"stopped and {how} at iteration {run.iteration}; go on with --resume")
        end_by(number)
    every = run.experiment.run.checkpoint_every
    if late or (every and run.iteration % every == 0 and run.iteration % len(course.batches)):
        save(run, course)


def save(run: Run, course: Course) -> None:
    """Save the run. A disk that is full for a while does not end it: the next checkpoint tries again."""
    run.broken = set().union(*run.ranks.gathered(run.broken)) if run.ranks.world > 1 else run.broken
    if course.saved_at == (run.iteration, run.measured):
        return  # it would only take the place of the checkpoint before
    course.saved, course.unsaved = time.monotonic(), ""
    try:
        save_run(run)
        course.saved_at = run.iteration, run.measured
    except SaisError as error:
        if run.iteration >= course.last:
            raise
        course.unsaved = str(error)
        course.log.say(f"NOT SAVED: {error}. Training goes on, the next checkpoint tries again")
        course.log.write("note", iteration=run.iteration, unsaved=str(error))


def replace_workers(run: Run, course: Course, deaths: int, error: RuntimeError) -> None:
    """New reading processes for those of which the system killed one; a SaisError where that happens too often."""
    said = "a process that reads pictures was killed, most often for want of memory"
    if deaths > WORKER_DEATHS:
        if run.ranks.world == 1:  # the others are in the middle of their step
            save(run, course)
        raise SaisError(f"{said}, for the {deaths}th time; go on with --resume and fewer --workers") from error
    course.log.say(f"{said}; new ones go on from iteration {run.iteration}")
    course.log.write("note", iteration=run.iteration, workers_killed=str(error))
    course.loader, course.batches = loader_of(run)


def usable(run: Run, loaded: Loaded, course: Course) -> Batch | None:
    """The batch without its broken pictures; raises unless they may be left out."""
    may_be_left_out = course.skip_broken or run.iteration >= len(course.batches)
    for line in loaded.broken:
        if not may_be_left_out:
            raise SaisError(f"{line} (or leave such pictures out with --skip-broken)")
        if line not in run.broken:
            run.broken.add(line)
            course.log.say(f"left out: {line}")
            course.log.write("note", iteration=run.iteration, broken=line)
    if loaded.batch is None and len(run.broken) >= len(run.index.images):
        raise SaisError(f"{run.index.name}: not one picture can be read; check the data set with `sais check`")
    return loaded.batch


def out_of_patience(run: Run) -> bool:
    """Whether AP has not risen for so long that the run ends (`schedule.patience`)."""
    patience = run.experiment.schedule.patience
    return patience > 0 and run.stale >= patience
