"""Training: `train` runs the training loop; `engine.train_step` and the architecture's losses process a batch.

A run's folder contains `experiment.json`, `log.jsonl`, `log.txt`, the files of its loggers (`tensorboard/`),
`last.safetensors` (full training state, for resuming), `best.safetensors` (weights with the best mask AP on the
validation split), `previous.safetensors` (the training state one checkpoint earlier, until the run is finished), and at
the end `model.safetensors` (the final weights). All randomness is a function of seed, epoch and image. So on a CPU a
resumed run computes the same weights as an uninterrupted one; on a GPU some kernels of torch add in varying order.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sais.checkpoint import find_checkpoint
from sais.config import Experiment, to_dict
from sais.data.annotations import DatasetSplit
from sais.data.paths import DataPaths
from sais.distributed import SINGLE_PROCESS, World
from sais.engine.callbacks import Callback, Callbacks
from sais.engine.checkpointing import (
    LoopContext,
    build_loader,
    next_batches,
    notify,
    out_of_patience,
    readable_batch,
    replace_workers,
    save,
    stop_or_save,
)
from sais.engine.logging.run_log import NullLog, RunLog
from sais.engine.optim import learning_rate
from sais.engine.resume import RunInputs, resume_run, start_run
from sais.engine.run_data import RunData, read_data
from sais.engine.run_folder import BEST, MODEL, PREVIOUS, SETTINGS, claim_run_folder
from sais.engine.signals import StopRequest, ignore_worker_deaths, is_worker_death
from sais.engine.train_state import TrainState, copy_best_to_model, save_model
from sais.engine.train_step import MAX_CONSECUTIVE_SKIPS, DivergedLossError, train_step
from sais.errors import InputError, SaisError
from sais.io.atomic import write_text
from sais.structures import Batch

if TYPE_CHECKING:
    from sais.data.loader import EpochBatches
    from sais.evaluation.evaluate import Evaluation
    from sais.inference.predictor import Predictor
    from sais.inference.trained_model import TrainedModel


@dataclass(frozen=True)
class TrainResult:
    """The result of a run.

    result = sais.train("sais-lite", data="my_data")
    detections = result.predictor(score=0.3)("image.jpg")
    """

    out: Path
    """Folder of the run."""
    iterations: int
    """Number of completed iterations."""
    metrics: dict[str, Any] | None
    """Metrics of the last evaluation as `Metrics.to_dict` returns them; None without a validation split."""
    seconds: float
    """Training time in seconds."""
    unreadable_images: set[str] = field(default_factory=set)
    """One line for each image that could not be read and was skipped."""
    evaluation: Evaluation | None = None
    """Evaluation of the weights in `model.safetensors`; None if these were not evaluated."""

    @property
    def model(self) -> Path:
        """Path of the model: the final weights, or the last checkpoint of a run that was stopped before its end."""
        return find_checkpoint(self.out)

    @property
    def best_model(self) -> Path | None:
        """Path of the weights with the best validation AP; None if the run had no evaluation."""
        path = self.out / BEST
        return path if path.is_file() else None

    def load_model(self) -> TrainedModel:
        """Load the network of `model` with its settings and class names."""
        from sais.inference.trained_model import load_model

        return load_model(self.model, trust=True)  # trained by this process

    def predictor(self, **options: Any) -> Predictor:
        """Open `model` as a predictor; `options` are those of `sais.Predictor`."""
        from sais.inference.predictor import Predictor

        return Predictor(self.model, **{"trust": True, **options})


@dataclass(frozen=True)
class _Options:
    """Arguments of `train` that concern the training loop."""

    max_iterations: int | None
    skip_broken: bool
    callbacks: Callbacks
    verbose: bool


def train(
    experiment: Experiment,
    data: DataPaths | str | Path | None = None,
    out: str | Path | None = None,
    *,
    dataset: DatasetSplit | None = None,
    valid_dataset: DatasetSplit | None = None,
    resume: bool = False,
    max_iterations: int | None = None,
    skip_broken: bool = False,
    random_init: bool = False,
    weights: str | Path | None = None,
    world: World = SINGLE_PROCESS,
    changed_settings: tuple[str, ...] = ("run.device", "run.workers"),
    callbacks: Sequence[Callback] = (),
    verbose: bool = True,
    notes: Sequence[str] = (),
    trust: bool = False,
) -> TrainResult:
    """Train a model.

    Ctrl-C and SIGTERM let the current step finish, save the run, and then raise KeyboardInterrupt or SystemExit.

    Args:
        experiment: settings, usually of a recipe.
        data: folder of a data set, or paths of its splits.
        out: folder of the run; by default `runs/` and the name of the experiment.
        dataset: training split in memory, instead of `data`.
        valid_dataset: validation split in memory, with the classes of the training split.
        resume: whether to resume from `last.safetensors` in `out`, with the settings stored there.
        max_iterations: iteration of the whole run to stop after.
        skip_broken: whether to skip and count unreadable images. After the first epoch they are always skipped.
        random_init: whether to initialize the backbone randomly; all of its layers are then trained.
        weights: checkpoint or run folder to fine-tune from, or a detector ``torchvision:fcos_resnet50_fpn``. If its
            classes differ, the classification layers are re-initialized, except for classes with the same name.
        world: processes that train together, as `sais.distributed.process_group` yields them.
        changed_settings: names of settings of a resumed run that are taken from `experiment`, of `CHANGEABLE_SETTINGS`.
        callbacks: functions called with the events of the run, see `sais.engine.callbacks`; the same on all ranks.
        verbose: whether rank 0 prints lines and progress; the log files are written in any case.
        notes: lines for the log about the origin of the settings.
        trust: whether code outside of sais that only the checkpoint names is imported and run, see `sais.trust`.

    Raises:
        SaisError: a problem that the user can fix, with a subclass for its kind.
    """
    out = Path("runs", experiment.name) if out is None else Path(out)
    called = Callbacks(callbacks)
    _check_arguments(experiment, None if resume else weights, world)
    with claim_run_folder(out, resume) if world.is_main else contextlib.nullcontext():
        splits = read_data(data, dataset, valid_dataset)
        if not resume:
            experiment, chosen = _choose_from_data(experiment, splits.train_split)
            notes = [*notes, *chosen]
        inputs = RunInputs(experiment, out, splits.train_split, splits.valid_split, world, trust)
        run, remarks = resume_run(inputs, changed_settings) if resume else start_run(inputs, random_init, weights)
        if world.is_main and (changed_settings or not resume):
            write_text(out / SETTINGS, json.dumps(to_dict(run.experiment), indent=2) + "\n")
        return _run(run, splits, [*notes, *remarks], _Options(max_iterations, skip_broken, called, verbose))


def _choose_from_data(experiment: Experiment, split: DatasetSplit) -> tuple[Experiment, list[str]]:
    """Return the experiment with the white level and the flipped classes of the training images, and notes on them."""
    from sais.data.flip_pairs import choose_flip_pairs
    from sais.data.white_level import choose_white_level

    experiment, notes = choose_white_level(experiment, split)
    experiment, more = choose_flip_pairs(experiment, split.class_names)
    return experiment, [*notes, *more]


def _check_arguments(experiment: Experiment, weights: str | Path | None, world: World) -> None:
    """Raise an error for loggers that cannot start or weights that cannot be loaded, before anything slow is done."""
    if world.is_main:
        from sais.engine.logging.loggers import check_loggers

        check_loggers(experiment.run.loggers)
    if weights is not None:
        from sais.engine.fine_tuning import check_initial_weights

        check_initial_weights(weights, experiment)


def _run(run: TrainState, data: RunData, notes: list[str], options: _Options) -> TrainResult:
    """Train from the current state of a run to its end."""
    loader, batches = build_loader(run)
    per_epoch = len(batches)
    total = per_epoch * run.experiment.schedule.epochs
    last_iteration = total if options.max_iterations is None else min(options.max_iterations, total)
    log: RunLog | NullLog = NullLog()
    if run.world.is_main:
        log = RunLog(run.out, total, run.experiment, run.iteration, run.evaluated_epochs, options.verbose)
    from sais.engine.environment import describe_convolutions
    from sais.engine.hardware import training_settings

    with log, training_settings(run.experiment, run.device), StopRequest() as stop:
        log.start(data.name, data.paths, notes, run.device, describe_convolutions(run.model))
        remarks = data.remarks() if run.world.is_main else []
        remarks += _small_batch_note(run, batches)
        if run.iteration >= total or out_of_patience(run):
            remarks.append("the run is complete: there is nothing left to train")
        for note in [*notes, *remarks]:
            log.print(note)
        images = f"{len(data.train_split.images)} images, {per_epoch} iterations per epoch"
        log.print(f"{images}, {total} in total, on {_device_text(run)}; {run.out}")
        context = LoopContext(log, stop, loader, batches, last_iteration, options.skip_broken)
        context.callbacks = options.callbacks
        _train_epochs(run, context)
        model_iteration = _finish(run, run.iteration == total or out_of_patience(run), log)
        notify(run, context, "end", (run.iteration - 1) // per_epoch)
    evaluation = log.evaluation_at(model_iteration)
    return TrainResult(run.out, run.iteration, run.metrics, run.seconds, run.unreadable_images, evaluation)


def _train_epochs(run: TrainState, context: LoopContext) -> None:
    """Train the remaining epochs of a run, with an evaluation after each if that is due."""
    deaths = 0
    while True:
        try:
            if not _train_epoch(run, context):
                break
        except RuntimeError as error:
            if not is_worker_death(error):
                raise
            deaths += 1
            replace_workers(run, context, deaths, error)
    if context.save_error:
        raise SaisError(context.save_error)


def _train_epoch(run: TrainState, context: LoopContext) -> bool:
    """Do an evaluation that is due, then train the remaining iterations of an epoch; return False if none remain."""
    from sais.engine.validation import validate

    epoch, context.batches.first = divmod(run.iteration, len(context.batches))
    if context.batches.first == 0 and run.evaluated_epochs < epoch:
        try:
            # The run is saved; resuming repeats the evaluation.
            with ignore_worker_deaths(), context.stop.immediately():
                validate(run, epoch - 1, context)
                run.evaluated_epochs = epoch
        except (KeyboardInterrupt, SystemExit):
            context.log.print(f"stopped in the evaluation after iteration {run.iteration}; resume the run to continue")
            raise
        with ignore_worker_deaths():
            save(run, context)
    if run.iteration >= context.last_iteration or out_of_patience(run):
        return False
    context.batches.epoch = epoch
    _train_iterations(run, context, epoch)
    with ignore_worker_deaths():
        save(run, context)  # before the evaluation, so that no error there costs an epoch
    if run.iteration % len(context.batches) == 0:
        notify(run, context, "epoch", epoch)
    return True


def _train_iterations(run: TrainState, context: LoopContext, epoch: int) -> None:
    """Train to the end of the epoch, or to the last iteration."""
    settings, per_epoch = run.experiment, len(context.batches)
    run.network.train()
    start_time = time.monotonic()
    batches = next_batches(run, context)
    if run.device.type == "cuda":
        from sais.engine.prefetch import copied_ahead

        batches = copied_ahead(batches, run.device)
    for loaded in batches:
        lr = learning_rate(run.iteration, per_epoch, settings.optim.lr, settings.schedule)
        batch = readable_batch(run, loaded, context)
        with ignore_worker_deaths():
            terms = _step(run, batch, epoch, lr, context)
            run.iteration += 1
            seconds = time.monotonic() - start_time
            run.seconds += seconds
            if terms is not None:
                speed = settings.optim.batch_size / max(seconds, 1e-9)
                context.log.iteration(run.iteration, epoch, terms, lr, speed)
                if context.callbacks:
                    losses = {name if name == "gradient" else f"loss/{name}": value for name, value in terms.items()}
                    notify(run, context, "step", epoch, values=losses | {"lr": lr, "images_per_second": speed})
            stop_or_save(run, context)
        start_time = time.monotonic()
        if run.iteration >= context.last_iteration:
            return


def _step(run: TrainState, batch: Batch | None, epoch: int, lr: float, context: LoopContext) -> dict[str, float] | None:
    """Do one step; return None if no image was readable, or if the loss diverged and may be skipped."""
    try:
        terms = train_step(run, batch, epoch, lr)
    except (RuntimeError, MemoryError) as error:
        from sais.engine.out_of_memory import is_out_of_memory, out_of_memory_error

        if not is_out_of_memory(error):
            raise
        images = run.experiment.optim.micro_batch or run.experiment.optim.batch_size // run.world.world_size
        raise out_of_memory_error(run.experiment, run.device, images) from error
    except DivergedLossError as error:
        _skip_batch(run, error, context)
        return None
    run.consecutive_skips = 0
    context.unreadable_batches = context.unreadable_batches + 1 if terms is None else 0
    if context.unreadable_batches == MAX_CONSECUTIVE_SKIPS:  # saving would record an epoch without training
        raise InputError(
            f"{run.train_split.name}: no image of {MAX_CONSECUTIVE_SKIPS} consecutive batches can be read. Resume the "
            "run when the data set is available again; the last checkpoint is intact."
        )
    return terms


def _skip_batch(run: TrainState, error: DivergedLossError, context: LoopContext) -> None:
    """Count and log a batch whose loss diverged; raise if `run.on_nonfinite_loss` is "stop", or after too many."""
    if run.experiment.run.on_nonfinite_loss == "stop":
        raise DivergedLossError(f"{str(error).rstrip('.')}. The last checkpoint is intact.") from error
    run.skipped_batches, run.consecutive_skips = run.skipped_batches + 1, run.consecutive_skips + 1
    context.log.print(f"batch skipped: {error}")
    context.log.write("note", iteration=run.iteration + 1, skipped=str(error))
    if run.consecutive_skips == MAX_CONSECUTIVE_SKIPS:
        raise DivergedLossError(
            f"{MAX_CONSECUTIVE_SKIPS} consecutive batches skipped, so single batches are not the cause. {error}"
        ) from error


def _finish(run: TrainState, finished: bool, log: RunLog | NullLog) -> int:
    """Write the model of a finished run and log the end; return the iteration that the model's weights are from."""
    model_iteration = run.iteration
    if finished and run.world.is_main:
        (run.out / PREVIOUS).unlink(missing_ok=True)  # not needed any more, and it makes room
        if out_of_patience(run) and (run.out / BEST).exists():
            model_iteration = copy_best_to_model(run.out)
            log.print(f"{MODEL} contains the best weights, from iteration {model_iteration}")
        else:
            save_model(run, run.out / MODEL)
    if run.unreadable_images:
        log.print(f"{len(run.unreadable_images)} unreadable images skipped: see log.jsonl")
    if run.skipped_batches:
        log.print(f"{run.skipped_batches} batches skipped because of their loss (run.on_nonfinite_loss): see log.jsonl")
    unreadable = sorted(run.unreadable_images)
    log.write("end", iteration=run.iteration, seconds=round(run.seconds, 1), unreadable_images=unreadable)
    return model_iteration


def _device_text(run: TrainState) -> str:
    return f"{run.device}, {run.world.world_size} processes" if run.world.world_size > 1 else str(run.device)


def _small_batch_note(run: TrainState, batches: EpochBatches) -> list[str]:
    """Return a note if there are fewer images than `optim.batch_size`, so that batches are smaller."""
    wanted = run.experiment.optim.batch_size
    if batches.batch_size == wanted:
        return []
    size = f"each batch has {batches.batch_size} instead of optim.batch_size {wanted}"
    return [f"{run.train_split.name}: {len(run.train_split.images)} images, fewer than one batch: {size}"]
