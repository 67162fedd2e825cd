"""Training: the course of a run stands here in `train`, the route of a batch in `step` and `system.sais_losses`.

A run's folder holds `experiment.json`, `log.jsonl`, `log.txt`, what its loggers write (`tensorboard/`),
`last.safetensors` (everything to resume from), `best.safetensors` (best mask AP on the validation split), as long as it
is not finished `previous.safetensors` (what `last` was one checkpoint earlier), and at the end `model.safetensors`, the
last weights. Everything random hangs on (seed, epoch, image), so a resumed run computes what the uninterrupted one
would have.
"""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sais.config import Experiment, to_dict
from sais.data.annotations import DatasetSplit, trainable
from sais.data.paths import DataPaths
from sais.distributed import SINGLE_PROCESS, World
from sais.engine.architecture import SAIS_ARCHITECTURE, Architecture
from sais.engine.auto_batch_size import is_out_of_memory, out_of_memory_error
from sais.engine.checkpointing import (
    LoopContext,
    build_loader,
    out_of_patience,
    replace_workers,
    save,
    stop_or_save,
    usable,
)
from sais.engine.logging.run_log import NullLog, RunLog, check_before_running
from sais.engine.optim import learning_rate
from sais.engine.resume import resume_run, start_run
from sais.engine.signals import StopRequest, defer_signals
from sais.engine.train_state import BEST, MODEL, PREVIOUS, TrainState, best_as_model, remove_unstarted_run, save_model
from sais.engine.train_step import MAX_CONSECUTIVE_SKIPS, BadLossError, train_step
from sais.errors import SaisError
from sais.evaluation.evaluate import Evaluation, evaluate
from sais.io.atomic import write_text
from sais.structures import Batch


@dataclass
class TrainResult:
    """What a run came to."""

    out: Path
    iterations: int
    metrics: dict[str, Any] | None
    """Of the last evaluation, as `Metrics.to_dict` gives them; None without a validation split."""
    seconds: float
    unreadable_images: set[str] = field(default_factory=set)
    """Images that could not be read and were left out."""
    evaluation: Evaluation | None = None
    """Of the weights that it left in `model.safetensors`, where they were evaluated."""


def train(
    experiment: Experiment,
    data: DataPaths,
    out: Path,
    resume: bool = False,
    steps: int | None = None,
    skip_broken: bool = False,
    random_init: bool = False,
    weights: Path | None = None,
    system: Architecture = SAIS_ARCHITECTURE,
    ranks: World = SINGLE_PROCESS,
    anew: tuple[str, ...] = ("run.device", "run.workers"),
) -> TrainResult:
    """Train a model.

    Ctrl-C and SIGTERM let the step at hand finish, save the run and end it as they would have (KeyboardInterrupt,
    SystemExit).

    Args:
        experiment: all settings; a recipe's, perhaps changed.
        data: where images and annotations lie.
        out: folder of the run.
        resume: go on from `out`/last.safetensors with the settings stored there.
        steps: stop after this many iterations of the whole run.
        skip_broken: leave unreadable images out, and count them. After the first epoch they always are: what was
            readable then is no mistake in the data set.
        random_init: start the backbone from random weights; it is then trained whole.
        weights: start from this checkpoint or run of the same network instead of ImageNet weights; where its classes
            are others, what speaks of classes is made anew.
        system: what is trained, SAIS unless a comparison with another is made.
        ranks: the processes that train together; of `engine.distributed.joined`.
        anew: of a resumed run, settings taken from `experiment`; of `engine.start.FREE`.

    Raises:
        SaisError: anything the user can mend, in one line.
    """
    if ranks.is_main:
        check_before_running(out, experiment.run.loggers)
    index = data.train_index()
    valid = data.valid_index(index.class_names)
    if not index.images:
        raise SaisError(f"{index.name}: no images to train on; check the data set with `sais check`")
    run, notes = (
        resume_run(experiment, out, index, valid, system, ranks, anew)
        if resume
        else start_run(experiment, out, index, valid, random_init, weights, system, ranks)
    )
    loader, batches = build_loader(run)
    per_epoch = len(batches)
    total = per_epoch * run.experiment.schedule.epochs
    last = total if steps is None else min(steps, total)
    log = RunLog(out, total, run.experiment, run.iteration, run.evaluated_epochs) if ranks.is_main else NullLog()
    if ranks.is_main and not resume:  # the log is locked by now: nobody else's settings are overwritten
        write_text(out / "experiment.json", json.dumps(to_dict(run.experiment), indent=2) + "\n")
    tidy = remove_unstarted_run(out) if ranks.is_main else contextlib.nullcontext()
    with tidy, log, StopRequest() as stop:
        log.start(data, notes, run.device)
        for note in [*notes, *_changed(index), *_empty(index), *_changed(valid)]:
            log.say(note)
        images = f"{len(index.images)} images, {per_epoch} iterations an epoch"
        log.say(f"{images}, {total} in all, on {_where(run)}; {out}")
        _epochs(run, LoopContext(log, stop, loader, batches, last, skip_broken))
        ended_with = _end(run, run.iteration == total or out_of_patience(run), log)
    return TrainResult(out, run.iteration, run.metrics, run.seconds, run.unreadable_images, log.judged(ended_with))


def _epochs(run: TrainState, course: LoopContext) -> None:
    """All that is left of the run: epochs, and what follows each."""
    deaths = 0
    while True:
        try:
            if not _next_epoch(run, course):
                break
        except RuntimeError as error:
            if "DataLoader worker (pid" not in str(error):
                raise
            deaths += 1
            replace_workers(run, course, deaths, error)
    if course.unsaved:
        raise SaisError(course.unsaved)


def _next_epoch(run: TrainState, course: LoopContext) -> bool:
    """Make up for an evaluation that is due, then train what is left of the epoch; False where nothing is left."""
    epoch, course.batches.first = divmod(run.iteration, len(course.batches))
    if course.batches.first == 0 and run.evaluated_epochs < epoch:
        try:
            with (
                defer_signals(),
                course.stop.at_once(),
            ):  # all was saved; an evaluation that is cut short is made up for
                _after_epoch(run, epoch - 1, course)
                run.evaluated_epochs = epoch
        except (KeyboardInterrupt, SystemExit):
            course.log.say(f"stopped in the evaluation after iteration {run.iteration}; go on with --resume")
            raise
        with defer_signals():
            save(run, course)
    if run.iteration >= course.last or out_of_patience(run):
        return False
    course.batches.epoch = epoch
    _epoch(run, course, epoch)
    with defer_signals():
        save(run, course)  # before the evaluation, so that nothing that goes wrong there costs an epoch
    return True


def _epoch(run: TrainState, course: LoopContext, epoch: int) -> None:
    """The rest of one epoch, or up to the last iteration."""
    settings, per_epoch = run.experiment, len(course.batches)
    run.network.train()
    then = time.monotonic()
    for loaded in course.loader:
        lr = learning_rate(run.iteration, per_epoch, settings.optim.lr, settings.schedule)
        batch = usable(run, loaded, course)
        with defer_signals():
            terms = _stepped(run, batch, epoch, lr, course)
            run.iteration += 1
            now = time.monotonic()
            run.seconds += now - then
            if terms is not None:
                images = settings.optim.batch_size / max(now - then, 1e-9)
                course.log.iteration(run.iteration, epoch, terms, lr, images)
            stop_or_save(run, course)
        then = time.monotonic()
        if run.iteration >= course.last:
            return


def _stepped(
    run: TrainState, batch: Batch | None, epoch: int, lr: float, course: LoopContext
) -> dict[str, float] | None:
    """A step; None where there was none, or where its loss was bad and may be skipped."""
    try:
        terms = train_step(run, batch, epoch, lr)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        at_once = run.experiment.optim.micro_batch or run.experiment.optim.batch_size // run.world.world_size
        raise out_of_memory_error(run.experiment, run.device, at_once) from error
    except BadLossError as error:
        if run.experiment.run.on_nonfinite_loss == "stop":
            raise SaisError(f"{error}; the last checkpoint is as it was before") from error
        run.skipped_batches, run.consecutive_skips = run.skipped_batches + 1, run.consecutive_skips + 1
        course.log.say(f"skipped: {error}")
        course.log.write("note", iteration=run.iteration + 1, skipped=str(error))
        if run.consecutive_skips == MAX_CONSECUTIVE_SKIPS:
            raise SaisError(
                f"{MAX_CONSECUTIVE_SKIPS} batches in a row skipped, so it is not the batches: {error}"
            ) from error
        return None
    run.consecutive_skips = 0
    course.unread = course.unread + 1 if terms is None else 0
    if course.unread == MAX_CONSECUTIVE_SKIPS:  # not a broken image or two: saving would make an untrained epoch of it
        raise SaisError(
            f"no image of {MAX_CONSECUTIVE_SKIPS} batches in a row can be read: {run.train_split.name} has gone; go on with --resume "
            "when it is back, the last checkpoint is as it was"
        )
    return terms


def _end(run: TrainState, whole: bool, log: RunLog | NullLog) -> int:
    """The weights of a run that is done, and what there is to say of it. Returns the iteration that they are of."""
    ended_with = run.iteration
    if whole and run.world.is_main:
        (run.out / PREVIOUS).unlink(missing_ok=True)  # of no use any more, and it makes room
        if out_of_patience(run) and (run.out / BEST).exists():
            ended_with = best_as_model(run.out)
            log.say(f"{MODEL} holds the best weights, those after iteration {ended_with}")
        else:
            save_model(run, run.out / MODEL)
    if run.unreadable_images:
        log.say(f"left out {len(run.unreadable_images)} unreadable images: see log.jsonl")
    if run.skipped_batches:
        log.say(f"skipped {run.skipped_batches} batches for their loss (--run.on-nonfinite-loss skip): see log.jsonl")
    log.write("end", iteration=run.iteration, seconds=round(run.seconds, 1), broken=sorted(run.unreadable_images))
    return ended_with


def _where(run: TrainState) -> str:
    """The device, and how many there are."""
    return f"{run.device}, {run.world.world_size} processes" if run.world.world_size > 1 else str(run.device)


def _changed(index: DatasetSplit | None) -> list[str]:
    """What was left out or changed while reading the annotations, for a person to read."""
    return [] if index is None else [f"{index.name}: {what}: {number}" for what, number in index.notes.items()]


def _empty(index: DatasetSplit) -> list[str]:
    """A word where there is nothing to find: such a run is allowed, and seldom meant."""
    some = any(trainable(record) for record in index.images)
    return [] if some else [f"{index.name}: not one object to train on (crowds aside): it learns to find nothing"]


def _after_epoch(run: TrainState, epoch: int, course: LoopContext) -> None:
    """Evaluate where it is due, and keep the weights if they are the best so far."""
    settings, log = run.experiment, course.log
    is_last = epoch + 1 == settings.schedule.epochs
    due = settings.run.evaluate_every and (epoch + 1) % settings.run.evaluate_every == 0
    if run.valid_split is None or not (due or is_last):
        return
    started = time.monotonic()
    ids = run.train_split.category_ids
    finder = run.architecture.finder(run.evaluation_model, settings, run.train_split.class_names, ids, str(run.device))
    skip_broken = course.skip_broken or run.metrics is not None  # what could be read before is no mistake in the data
    batch = settings.optim.micro_batch or max(1, settings.optim.batch_size // run.world.world_size)
    try:
        evaluation = evaluate(finder, run.valid_split, batch, settings.run.workers, skip_broken, ranks=run.world)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise out_of_memory_error(settings, run.device, batch) from error
    if evaluation.unreadable_images:
        log.say(f"{run.valid_split.name}: left out {len(evaluation.unreadable_images)} unreadable images")
        log.write("note", iteration=run.iteration, broken=evaluation.unreadable_images)
    if evaluation.metrics is None:
        log.say(f"{run.valid_split.name}: no annotations, nothing to score")
        return
    run.metrics = evaluation.metrics.to_dict()
    log.evaluation(run.iteration, epoch, evaluation, time.monotonic() - started)
    score = (run.metrics["mask"] or run.metrics["box"])["AP"] or 0.0
    run.evaluations_since_best += 1
    if score > run.best_score and _best_is_saved(run, log):
        run.best_score, run.evaluations_since_best = score, 0
        log.best(run.iteration)
    if out_of_patience(run):
        log.say(f"no better AP in {run.evaluations_since_best} evaluations (--schedule.patience): the run ends here")


def _best_is_saved(run: TrainState, log: RunLog | NullLog) -> bool:
    """Save the best weights. A disk that is full does not end the run: the next better ones try again."""
    saved = True
    try:
        save_model(run, run.out / BEST)
    except SaisError as error:
        saved = False
        log.say(f"NOT SAVED: {error}")
        log.write("note", iteration=run.iteration, unsaved=str(error))
    return run.world.broadcast(saved)
