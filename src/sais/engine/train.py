"""Training: the course of a run stands here in `train`, the route of a batch in `step` and `system.sais_losses`.

A run's folder holds `experiment.json`, `log.jsonl`, `log.txt`, what its loggers write (`tensorboard/`),
`last.safetensors` (everything to resume from), `best.safetensors` (best mask AP on the validation split), as long as it
is not finished `previous.safetensors` (what `last` was one checkpoint earlier), and at the end `model.safetensors`, the
last weights. Everything random hangs on (seed, epoch, picture), so a resumed run computes what the uninterrupted one
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
from sais.data.index import Index, trainable
from sais.data.paths import DataPaths
from sais.engine.course import Course, loader_of, out_of_patience, replace_workers, save, stop_or_save, usable
from sais.engine.distributed import ALONE, Ranks
from sais.engine.evaluate import Evaluation, evaluate
from sais.engine.fit import is_out_of_memory, out_of_memory
from sais.engine.interrupt import StopRequest, undisturbed
from sais.engine.optim import learning_rate
from sais.engine.run import BEST, MODEL, PREVIOUS, Run, best_as_model, nothing_half_written, save_model
from sais.engine.runlog import RunLog, Silence, check_before_running
from sais.engine.start import resume_run, start_run
from sais.engine.step import IN_A_ROW, BadLossError, step
from sais.engine.system import SAIS_SYSTEM, System
from sais.files import write_text
from sais.structures import Batch, SaisError


@dataclass
class TrainResult:
    """What a run came to."""

    out: Path
    iterations: int
    metrics: dict[str, Any] | None
    """Of the last evaluation, as `Metrics.to_dict` gives them; None without a validation split."""
    seconds: float
    broken: set[str] = field(default_factory=set)
    """Pictures that could not be read and were left out."""
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
    system: System = SAIS_SYSTEM,
    ranks: Ranks = ALONE,
    anew: tuple[str, ...] = ("run.device", "run.workers"),
) -> TrainResult:
    """Train a model.

    Ctrl-C and SIGTERM let the step at hand finish, save the run and end it as they would have (KeyboardInterrupt,
    SystemExit).

    Args:
        experiment: all settings; a recipe's, perhaps changed.
        data: where pictures and annotations lie.
        out: folder of the run.
        resume: go on from `out`/last.safetensors with the settings stored there.
        steps: stop after this many iterations of the whole run.
        skip_broken: leave unreadable pictures out, and count them. After the first epoch they always are: what was
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
    if ranks.first:
        check_before_running(out, experiment.run.loggers)
    index = data.train_index()
    valid = data.valid_index(index.class_names)
    if not index.images:
        raise SaisError(f"{index.name}: no pictures to train on; check the data set with `sais check`")
    run, notes = (
        resume_run(experiment, out, index, valid, system, ranks, anew)
        if resume
        else start_run(experiment, out, index, valid, random_init, weights, system, ranks)
    )
    loader, batches = loader_of(run)
    per_epoch = len(batches)
    total = per_epoch * run.experiment.schedule.epochs
    last = total if steps is None else min(steps, total)
    log = RunLog(out, total, run.experiment, run.iteration, run.measured) if ranks.first else Silence()
    if ranks.first and not resume:  # the log is locked by now: nobody else's settings are overwritten
        write_text(out / "experiment.json", json.dumps(to_dict(run.experiment), indent=2) + "\n")
    tidy = nothing_half_written(out) if ranks.first else contextlib.nullcontext()
    with tidy, log, StopRequest() as stop:
        log.start(data, notes, run.device)
        for note in [*notes, *_changed(index), *_empty(index), *_changed(valid)]:
            log.say(note)
        pictures = f"{len(index.images)} pictures, {per_epoch} iterations an epoch"
        log.say(f"{pictures}, {total} in all, on {_where(run)}; {out}")
        _epochs(run, Course(log, stop, loader, batches, last, skip_broken))
        ended_with = _end(run, run.iteration == total or out_of_patience(run), log)
    return TrainResult(out, run.iteration, run.metrics, run.seconds, run.broken, log.judged(ended_with))


def _epochs(run: Run, course: Course) -> None:
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


def _next_epoch(run: Run, course: Course) -> bool:
    """Make up for an evaluation that is due, then train what is left of the epoch; False where nothing is left."""
    epoch, course.batches.first = divmod(run.iteration, len(course.batches))
    if course.batches.first == 0 and run.measured < epoch:
        try:
            with undisturbed(), course.stop.at_once():  # all was saved; an evaluation that is cut short is made up for
                _after_epoch(run, epoch - 1, course)
                run.measured = epoch
        except (KeyboardInterrupt, SystemExit):
            course.log.say(f"stopped in the evaluation after iteration {run.iteration}; go on with --resume")
            raise
        with undisturbed():
            save(run, course)
    if run.iteration >= course.last or out_of_patience(run):
        return False
    course.batches.epoch = epoch
    _epoch(run, course, epoch)
    with undisturbed():
        save(run, course)  # before the evaluation, so that nothing that goes wrong there costs an epoch
    return True


def _epoch(run: Run, course: Course, epoch: int) -> None:
    """The rest of one epoch, or up to the last iteration."""
    settings, per_epoch = run.experiment, len(course.batches)
    run.network.train()
    then = time.monotonic()
    for loaded in course.loader:
        lr = learning_rate(run.iteration, per_epoch, settings.optim.lr, settings.schedule)
        batch = usable(run, loaded, course)
        with undisturbed():
            terms = _stepped(run, batch, epoch, lr, course)
            run.iteration += 1
            now = time.monotonic()
            run.seconds += now - then
            if terms is not None:
                pictures = settings.optim.batch / max(now - then, 1e-9)
                course.log.iteration(run.iteration, epoch, terms, lr, pictures)
            stop_or_save(run, course)
        then = time.monotonic()
        if run.iteration >= course.last:
            return


def _stepped(run: Run, batch: Batch | None, epoch: int, lr: float, course: Course) -> dict[str, float] | None:
    """A step; None where there was none, or where its loss was bad and may be skipped."""
    try:
        terms = step(run, batch, epoch, lr)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        at_once = run.experiment.optim.micro_batch or run.experiment.optim.batch // run.ranks.world
        raise out_of_memory(run.experiment, run.device, at_once) from error
    except BadLossError as error:
        if run.experiment.run.on_bad_loss == "stop":
            raise SaisError(f"{error}; the last checkpoint is as it was before") from error
        run.skipped, run.in_a_row = run.skipped + 1, run.in_a_row + 1
        course.log.say(f"skipped: {error}")
        course.log.write("note", iteration=run.iteration + 1, skipped=str(error))
        if run.in_a_row == IN_A_ROW:
            raise SaisError(f"{IN_A_ROW} batches in a row skipped, so it is not the batches: {error}") from error
        return None
    run.in_a_row = 0
    course.unread = course.unread + 1 if terms is None else 0
    if course.unread == IN_A_ROW:  # not a broken picture or two: saving would make an untrained epoch of it
        raise SaisError(
            f"no picture of {IN_A_ROW} batches in a row can be read: {run.index.name} has gone; go on with --resume "
            "when it is back, the last checkpoint is as it was"
        )
    return terms


def _end(run: Run, whole: bool, log: RunLog | Silence) -> int:
    """The weights of a run that is done, and what there is to say of it. Returns the iteration that they are of."""
    ended_with = run.iteration
    if whole and run.ranks.first:
        (run.out / PREVIOUS).unlink(missing_ok=True)  # of no use any more, and it makes room
        if out_of_patience(run) and (run.out / BEST).exists():
            ended_with = best_as_model(run.out)
            log.say(f"{MODEL} holds the best weights, those after iteration {ended_with}")
        else:
            save_model(run, run.out / MODEL)
    if run.broken:
        log.say(f"left out {len(run.broken)} unreadable pictures: see log.jsonl")
    if run.skipped:
        log.say(f"skipped {run.skipped} batches for their loss (--run.on-bad-loss skip): see log.jsonl")
    log.write("end", iteration=run.iteration, seconds=round(run.seconds, 1), broken=sorted(run.broken))
    return ended_with


def _where(run: Run) -> str:
    """The device, and how many there are."""
    return f"{run.device}, {run.ranks.world} processes" if run.ranks.world > 1 else str(run.device)


def _changed(index: Index | None) -> list[str]:
    """What was left out or changed while reading the annotations, for a person to read."""
    return [] if index is None else [f"{index.name}: {what}: {number}" for what, number in index.notes.items()]


def _empty(index: Index) -> list[str]:
    """A word where there is nothing to find: such a run is allowed, and seldom meant."""
    some = any(trainable(record) for record in index.images)
    return [] if some else [f"{index.name}: not one object to train on (crowds aside): it learns to find nothing"]


def _after_epoch(run: Run, epoch: int, course: Course) -> None:
    """Evaluate where it is due, and keep the weights if they are the best so far."""
    settings, log = run.experiment, course.log
    is_last = epoch + 1 == settings.schedule.epochs
    due = settings.run.evaluate_every and (epoch + 1) % settings.run.evaluate_every == 0
    if run.valid is None or not (due or is_last):
        return
    started = time.monotonic()
    ids = run.index.category_ids
    finder = run.system.finder(run.evaluated, settings, run.index.class_names, ids, str(run.device))
    skip_broken = course.skip_broken or run.metrics is not None  # what could be read before is no mistake in the data
    batch = settings.optim.micro_batch or max(1, settings.optim.batch // run.ranks.world)
    try:
        evaluation = evaluate(finder, run.valid, batch, settings.run.workers, skip_broken, ranks=run.ranks)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise out_of_memory(settings, run.device, batch) from error
    if evaluation.broken:
        log.say(f"{run.valid.name}: left out {len(evaluation.broken)} unreadable pictures")
        log.write("note", iteration=run.iteration, broken=evaluation.broken)
    if evaluation.metrics is None:
        log.say(f"{run.valid.name}: no annotations, nothing to score")
        return
    run.metrics = evaluation.metrics.to_dict()
    log.evaluation(run.iteration, epoch, evaluation, time.monotonic() - started)
    score = (run.metrics["mask"] or run.metrics["box"])["AP"] or 0.0
    run.stale += 1
    if score > run.best and _best_is_saved(run, log):
        run.best, run.stale = score, 0
        log.best(run.iteration)
    if out_of_patience(run):
        log.say(f"no better AP in {run.stale} evaluations (--schedule.patience): the run ends here")


def _best_is_saved(run: Run, log: RunLog | Silence) -> bool:
    """Save the best weights. A disk that is full does not end the run: the next better ones try again."""
    saved = True
    try:
        save_model(run, run.out / BEST)
    except SaisError as error:
        saved = False
        log.say(f"NOT SAVED: {error}")
        log.write("note", iteration=run.iteration, unsaved=str(error))
    return run.ranks.of_first(saved)
