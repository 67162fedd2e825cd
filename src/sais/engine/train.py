"""Training: the route of a batch stands in `step` and `system.sais_losses`, the course of a run in `train`.

A run's folder holds `experiment.json`, `log.jsonl`, `log.txt`, what its loggers write (`tensorboard/`),
`last.safetensors` (everything to resume from), `best.safetensors` (best mask AP on the validation split) and, at the
end, `model.safetensors` (the last weights).
Everything random hangs on (seed, epoch, picture), so a resumed run computes what the uninterrupted one would have.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sais.config import Experiment
from sais.data.index import Index, trainable
from sais.data.loader import Loaded, training_loader
from sais.data.paths import DataPaths
from sais.engine.evaluate import Evaluation, evaluate
from sais.engine.optim import learning_rate, set_learning_rate
from sais.engine.run import Run, nothing_half_written, resume_run, save_model, save_run, start_run
from sais.engine.runlog import RunLog, check_before_running
from sais.engine.system import SAIS_SYSTEM, System
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
    """Of the weights it ended with, where they were evaluated."""


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
) -> TrainResult:
    """Train a model.

    Args:
        experiment: all settings; a recipe's, perhaps changed.
        data: where pictures and annotations lie.
        out: folder of the run.
        resume: go on from `out`/last.safetensors with the settings stored there.
        steps: stop after this many iterations of the whole run.
        skip_broken: leave unreadable pictures out, and count them.
        random_init: start the backbone from random weights; it is then trained whole.
        weights: start from this checkpoint of the same classes and network instead of ImageNet weights.
        system: what is trained, SAIS unless a comparison with another is made.

    Raises:
        SaisError: anything the user can mend, in one line.
    """
    check_before_running(out, experiment.run.loggers)
    index = data.train_index()
    valid = data.valid_index(index.class_names)
    if not index.images:
        raise SaisError(f"{index.name}: no pictures to train on; check the data set with `sais check`")
    run, notes = (
        resume_run(experiment, out, index, valid, system)
        if resume
        else start_run(experiment, out, index, valid, random_init, weights, system)
    )
    settings = run.experiment
    seed, workers, margin = settings.run.seed, settings.run.workers, settings.losses.mask_margin
    loader, batches = training_loader(index, settings.input, settings.optim.batch, seed, workers, margin)
    per_epoch = len(batches)
    total = per_epoch * settings.schedule.epochs
    last = total if steps is None else min(steps, total)
    with nothing_half_written(out), RunLog(out, total, settings, run.iteration, run.measured) as log:
        log.start(data, notes, run.device)
        for note in [*notes, *_changed(index), *_empty(index), *_changed(valid)]:
            log.say(note)
        pictures = f"{len(index.images)} pictures, {per_epoch} iterations an epoch"
        log.say(f"{pictures}, {total} in all, on {run.device}; {out}")
        while True:
            epoch, batches.first = divmod(run.iteration, per_epoch)
            if batches.first == 0 and run.measured < epoch:
                _after_epoch(run, epoch - 1, skip_broken, log)
                run.measured = epoch
                save_run(run)
            if run.iteration >= last:
                break
            batches.epoch = epoch
            _epoch(run, loader, epoch, per_epoch, last, skip_broken, log)
            save_run(run)  # before the evaluation, so that nothing that goes wrong there costs an epoch
        if run.iteration == total:
            save_model(run, out / "model.safetensors")
        if run.broken:
            log.say(f"left out {len(run.broken)} unreadable pictures (--skip-broken): see log.jsonl")
        log.write("end", iteration=run.iteration, seconds=round(run.seconds, 1), broken=sorted(run.broken))
    return TrainResult(out, run.iteration, run.metrics, run.seconds, run.broken, log.judged(run.iteration))


def step(run: Run, batch: Batch, epoch: int, lr: float) -> dict[str, Tensor]:
    """One optimiser step on one batch: the system's losses, backward, update. Returns the terms and their "total"."""
    settings = run.experiment
    torch.manual_seed(settings.run.seed * 1_000_003 + run.iteration)  # dropout too resumes where it was
    terms = run.system.losses(run.model, batch.to(run.device), settings, epoch)
    total = torch.stack(list(terms.values())).sum()
    if not torch.isfinite(total.detach()):
        raise SaisError(
            f"the loss is {total.item()} at iteration {run.iteration + 1}, pictures {batch.image_ids}: look at their "
            "boxes with `sais check`, or lower --optim.lr or set --optim.clip 35"
        )
    set_learning_rate(run.optimizer, lr)
    run.optimizer.zero_grad(set_to_none=True)
    total.backward()
    if settings.optim.clip is not None:
        nn.utils.clip_grad_norm_(run.model.parameters(), settings.optim.clip)
    run.optimizer.step()
    if run.average:
        run.average.update(run.model)
    return {"total": total.detach()} | terms


def _epoch(run: Run, loader: Any, epoch: int, per_epoch: int, last: int, skip_broken: bool, log: RunLog) -> None:
    """The rest of one epoch, or up to iteration `last`."""
    settings = run.experiment
    run.model.train()
    then = time.monotonic()
    for loaded in loader:
        lr = learning_rate(run.iteration, per_epoch, settings.optim.lr, settings.schedule)
        batch = _usable(run, loaded, skip_broken, log)
        terms = step(run, batch, epoch, lr) if batch is not None else None
        run.iteration += 1
        now = time.monotonic()
        run.seconds += now - then
        if terms is not None and batch is not None:
            losses = {name: term.item() for name, term in terms.items()}
            log.iteration(run.iteration, epoch, losses, lr, len(batch.image_ids) / max(now - then, 1e-9))
        every = settings.run.checkpoint_every
        if every and run.iteration % every == 0 and run.iteration % per_epoch:
            save_run(run)
        then = time.monotonic()
        if run.iteration >= last:
            return


def _usable(run: Run, loaded: Loaded, skip_broken: bool, log: RunLog) -> Batch | None:
    """The batch without its broken pictures; raises unless they may be left out."""
    for line in loaded.broken:
        if not skip_broken:
            raise SaisError(f"{line} (or leave such pictures out with --skip-broken)")
        if line not in run.broken:
            run.broken.add(line)
            log.write("note", iteration=run.iteration, broken=line)
    if loaded.batch is None and len(run.broken) >= len(run.index.images):
        raise SaisError(f"{run.index.name}: not one picture can be read; check the data set with `sais check`")
    return loaded.batch


def _changed(index: Index | None) -> list[str]:
    """What was left out or changed while reading the annotations, for a person to read."""
    return [] if index is None else [f"{index.name}: {what}: {number}" for what, number in index.notes.items()]


def _empty(index: Index) -> list[str]:
    """A word where there is nothing to find: such a run is allowed, and seldom meant."""
    some = any(trainable(record) for record in index.images)
    return [] if some else [f"{index.name}: not one object to train on (crowds aside): it learns to find nothing"]


def _after_epoch(run: Run, epoch: int, skip_broken: bool, log: RunLog) -> None:
    """Evaluate where it is due, and keep the weights if they are the best so far."""
    settings = run.experiment
    is_last = epoch + 1 == settings.schedule.epochs
    due = settings.run.evaluate_every and (epoch + 1) % settings.run.evaluate_every == 0
    if run.valid is None or not (due or is_last):
        return
    started = time.monotonic()
    ids = run.index.category_ids
    finder = run.system.finder(run.evaluated, settings, run.index.class_names, ids, str(run.device))
    evaluation = evaluate(finder, run.valid, settings.optim.batch, settings.run.workers, skip_broken)
    if evaluation.broken:
        log.say(f"{run.valid.name}: left out {len(evaluation.broken)} unreadable pictures")
        log.write("note", iteration=run.iteration, broken=evaluation.broken)
    if evaluation.metrics is None:
        log.say(f"{run.valid.name}: no annotations, nothing to score")
        return
    run.metrics = evaluation.metrics.to_dict()
    log.evaluation(run.iteration, epoch, evaluation, time.monotonic() - started)
    score = (run.metrics["mask"] or run.metrics["box"])["AP"] or 0.0
    if score > run.best:
        run.best = score
        save_model(run, run.out / "best.safetensors")
