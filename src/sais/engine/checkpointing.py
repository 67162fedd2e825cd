"""Between two steps: when a run is saved, when it stops, and how it survives dead workers and unreadable images."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from sais.data.loader import EpochBatches, LoadedBatch, training_loader
from sais.engine.callbacks import Callbacks, EventKind, TrainingEvent
from sais.engine.logging.run_log import NullLog, RunLog
from sais.engine.run_folder import is_missing
from sais.engine.signals import StopRequest, exit_by_signal, ignore_worker_deaths
from sais.engine.train_state import TrainState, save_train_state
from sais.errors import InputError, ResourceError, SaisError
from sais.structures import Batch

MAX_WORKER_DEATHS = 3
"""Number of times that killed image-reading processes are replaced."""


@dataclass
class LoopContext:
    """Everything that one call of `train` uses in addition to the state of the run."""

    log: RunLog | NullLog
    stop: StopRequest
    loader: Any
    """Loader of the training batches of this rank."""
    batches: EpochBatches
    """Sampler of `loader`."""
    last_iteration: int
    """Iteration to stop after."""
    skip_broken: bool
    """Whether unreadable images are skipped in the first epoch as well."""
    last_save_time: float = field(default_factory=time.monotonic)
    """Time of the last attempt to save."""
    saved_progress: tuple[int, int] = (-1, -1)
    """Iteration and number of evaluated epochs of the last checkpoint."""
    unreadable_batches: int = 0
    """Number of consecutive batches without a readable image."""
    save_error: str = ""
    """Error of the last attempt to save; empty if it succeeded."""
    callbacks: Callbacks = field(default_factory=Callbacks)
    """Callbacks of the user; rank 0 calls them."""


def build_loader(run: TrainState) -> tuple[Any, EpochBatches]:
    """Return the loader of this rank's share of every batch, and its sampler."""
    from sais.engine.hardware import choose_workers

    settings, share = run.experiment, (run.world.rank, run.world.world_size)
    workers = choose_workers(settings.run.workers, run.device)
    seed, margin = settings.run.seed, settings.criterion.mask_margin
    inputs, batch_size = (settings.input, settings.augment), settings.optim.batch_size
    return training_loader(
        run.train_split, *inputs, batch_size, seed, workers, margin, share, pin_memory=run.device.type == "cuda"
    )


def notify(run: TrainState, context: LoopContext, kind: EventKind, epoch: int, **details: Any) -> None:
    """Call the callbacks; if one of them asks for it, the run ends after this iteration.

    Args:
        run: state of the run.
        context: context of the training loop, which has the callbacks.
        kind: kind of the event.
        epoch: number of the epoch, from 0.
        details: further fields of the `TrainingEvent`.
    """
    if not context.callbacks:
        return
    stop = False
    if run.world.is_main:
        epochs = run.experiment.schedule.epochs
        total = len(context.batches) * epochs
        stop = context.callbacks.call(TrainingEvent(kind, run.iteration, total, epoch + 1, epochs, **details))
    if run.world.broadcast(stop):
        context.last_iteration = run.iteration


def next_batches(run: TrainState, context: LoopContext) -> Iterator[LoadedBatch]:
    """Yield the batches of the loader.

    A signal that is received while waiting for a batch ends the run at once: nothing is half done, and a loader that
    never answers, as on a lost network drive, must not keep the process alive.
    """
    batches = iter(context.loader)
    alone = run.world.world_size == 1  # ranks must agree on the step after which they stop
    while True:
        try:
            with context.stop.immediately() if alone else contextlib.nullcontext():
                loaded = next(batches)
        except StopIteration:
            return
        except (KeyboardInterrupt, SystemExit):
            with ignore_worker_deaths():
                stop_or_save(run, context)
            raise
        yield loaded


def stop_or_save(run: TrainState, context: LoopContext) -> None:
    """End the run if a signal requested it, and save it if a checkpoint is due."""
    number = context.stop.signal or 0
    minutes = run.experiment.run.checkpoint_minutes
    overdue = bool(minutes) and time.monotonic() - context.last_save_time > 60 * minutes
    if run.world.world_size > 1:  # a signal may reach the ranks at different steps, and clocks differ
        number, overdue = run.world.maximum(torch.tensor([number, overdue])).tolist()
    if number:
        save(run, context)
        outcome = (
            f"NOT SAVED ({context.save_error}); the previous checkpoint is intact" if context.save_error else "saved"
        )
        context.log.print(f"stopped and {outcome} at iteration {run.iteration}; resume the run to continue")
        exit_by_signal(number)
    interval = run.experiment.run.checkpoint_every
    if overdue or (interval and run.iteration % interval == 0 and run.iteration % len(context.batches)):
        save(run, context)


def save(run: TrainState, context: LoopContext) -> None:
    """Save the run. A full disk does not end the run before its last iteration: the next checkpoint tries again.

    Raises:
        ResourceError: the run's folder has been renamed or removed: it is not created again.
        SaisError: the run cannot be saved after its last iteration.
    """
    if run.world.is_main and is_missing(run.out):
        raise ResourceError(
            f"{run.out}: the folder of the run has been renamed or removed, so that the run cannot be saved after "
            f"iteration {run.iteration}. Resume it from the last checkpoint in the renamed folder."
        )
    if run.world.world_size > 1:
        run.unreadable_images = set().union(*run.world.all_gather(run.unreadable_images))
    if context.saved_progress == (run.iteration, run.evaluated_epochs):
        return  # an identical checkpoint would replace the previous one
    context.last_save_time, context.save_error = time.monotonic(), ""
    try:
        save_train_state(run)
        context.saved_progress = run.iteration, run.evaluated_epochs
    except SaisError as error:
        if run.iteration >= context.last_iteration:
            raise
        context.save_error = str(error)
        context.log.print(f"NOT SAVED: {error} Training continues; the next checkpoint tries again.")
        context.log.write("note", iteration=run.iteration, save_error=str(error))


def replace_workers(run: TrainState, context: LoopContext, deaths: int, error: RuntimeError) -> None:
    """Start new image-reading processes after the system killed one.

    Args:
        run: state of the run.
        context: context of the training loop, which receives the new loader.
        deaths: number of times that this has happened.
        error: torch's exception.

    Raises:
        ResourceError: it has happened too often.
    """
    cause = "a process that reads images was killed, usually because of too little memory"
    if deaths > MAX_WORKER_DEATHS:
        if run.world.world_size == 1:  # other ranks are in the middle of a step
            save(run, context)
        raise ResourceError(
            f"run.workers: {cause}, {deaths} times. Resume the run with fewer workers (run.workers)."
        ) from error
    context.log.print(f"{cause}; new ones continue from iteration {run.iteration}")
    context.log.write("note", iteration=run.iteration, workers_killed=str(error))
    context.loader, context.batches = build_loader(run)


def readable_batch(run: TrainState, loaded: LoadedBatch, context: LoopContext) -> Batch | None:
    """Return the batch without its unreadable images, and report them; None if no image can be read.

    After the first epoch unreadable images are always skipped: they were readable before, so the data set is right.

    Raises:
        InputError: an image cannot be read and must not be skipped, or no image of the data set can be read.
        OutOfMemoryError: memory ran out while an image was read; the run is saved.
    """
    if loaded.out_of_memory and run.world.world_size == 1:  # other ranks are in the middle of a step
        save(run, context)
    loaded.check_memory()
    skip = context.skip_broken or run.iteration >= len(context.batches)
    for message in loaded.unreadable_images:
        if not skip:
            raise InputError(f"{message.rstrip('.')}. Or skip unreadable images (skip_broken).")
        if message not in run.unreadable_images:
            run.unreadable_images.add(message)
            context.log.print(f"skipped: {message}")
            context.log.write("note", iteration=run.iteration, unreadable_image=message)
    if loaded.batch is None and len(run.unreadable_images) >= len(run.train_split.images):
        raise InputError(f"{run.train_split.name}: no image can be read. Check the data set with `sais doctor`.")
    return loaded.batch


def out_of_patience(run: TrainState) -> bool:
    """Return whether AP has not improved for `schedule.patience` evaluations, so that the run ends early."""
    patience = run.experiment.schedule.patience
    return patience > 0 and run.evaluations_since_best >= patience
