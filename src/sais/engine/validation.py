"""Evaluation during a run: after which epochs, what is logged, and how the best weights are saved."""

from __future__ import annotations

import time

from sais.engine.callbacks import evaluation_values
from sais.engine.checkpointing import LoopContext, notify, out_of_patience
from sais.engine.hardware import choose_workers
from sais.engine.logging.run_log import NullLog, RunLog
from sais.engine.run_folder import BEST
from sais.engine.train_state import TrainState, save_model
from sais.errors import SaisError
from sais.evaluation.evaluate import Evaluation, evaluate
from sais.evaluation.score_thresholds import best_thresholds
from sais.inference.predictor import Predictor
from sais.inference.trained_model import TrainedModel


def validate(run: TrainState, epoch: int, context: LoopContext) -> None:
    """Evaluate on the validation split if that is due, and save the weights if they are the best so far.

    Args:
        run: state of the run after the epoch.
        epoch: number of the epoch that has ended, from 0.
        context: log of the run and whether unreadable images are skipped.
    """
    settings, log = run.experiment, context.log
    is_last = epoch + 1 == settings.schedule.epochs
    due = settings.run.evaluate_every and (epoch + 1) % settings.run.evaluate_every == 0
    if run.valid_split is None or not (due or is_last):
        return
    start_time = time.monotonic()
    evaluation = _evaluate(run, context)
    name = run.valid_split.name
    if evaluation.unreadable_images:
        log.print(f"{name}: {len(evaluation.unreadable_images)} unreadable images skipped")
        log.write("note", iteration=run.iteration, unreadable_images=evaluation.unreadable_images)
    if evaluation.metrics is None:
        log.print(f"{name}: no annotations to evaluate on, so AP is undefined; the last weights are the result")
        return
    run.metrics = evaluation.metrics.to_dict()
    log.evaluation(run.iteration, epoch, evaluation, time.monotonic() - start_time)
    if context.callbacks:
        values = evaluation_values(run.metrics)
        notify(run, context, "evaluation", epoch, values=values, evaluation=evaluation)
    if evaluation.limit_note() and is_last:
        log.print(f"{name}: {evaluation.limit_note()}")
    score = (run.metrics["mask"] or run.metrics["box"])["AP"]
    if score is None:
        log.print(f"{name}: no objects to find, so AP is undefined and no weights are the best")
        return
    if run.world.is_main:
        thresholds = best_thresholds(evaluation)
        run.thresholds = None if thresholds is None else thresholds.to_dict()
        evaluation.score = evaluation.score if thresholds is None else thresholds.overall
    run.evaluations_since_best += 1
    if score > run.best_score and _save_best(run, log):
        run.best_score, run.evaluations_since_best = score, 0
        log.mark_best(run.iteration)
    if out_of_patience(run):
        log.print(f"no better AP in {run.evaluations_since_best} evaluations (schedule.patience): the run ends early")


def _evaluate(run: TrainState, context: LoopContext) -> Evaluation:
    assert run.valid_split is not None
    settings, split = run.experiment, run.train_split
    model = TrainedModel(run.evaluation_model, settings, split.class_names, split.category_ids)
    detector = Predictor(model, device=str(run.device))
    skip_broken = context.skip_broken or run.metrics is not None  # the images were readable before
    batch_size = settings.optim.micro_batch or max(1, settings.optim.batch_size // run.world.world_size)
    try:
        share = -(-len(run.valid_split.images) // run.world.world_size)
        with context.log.evaluating(share) as progress:
            workers = choose_workers(settings.run.workers, run.device)
            return evaluate(detector, run.valid_split, batch_size, workers, skip_broken, progress, world=run.world)
    except (RuntimeError, MemoryError) as error:
        from sais.engine.out_of_memory import is_out_of_memory, out_of_memory_error

        if not is_out_of_memory(error):
            raise
        raise out_of_memory_error(settings, run.device, batch_size) from error


def _save_best(run: TrainState, log: RunLog | NullLog) -> bool:
    """Save the best weights and return whether that succeeded. A full disk does not end the run."""
    saved = True
    try:
        save_model(run, run.out / BEST)
    except SaisError as error:
        saved = False
        log.print(f"NOT SAVED: {error}")
        log.write("note", iteration=run.iteration, save_error=str(error))
    return run.world.broadcast(saved)
