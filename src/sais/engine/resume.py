"""How a run starts: from ImageNet weights, from the weights of another run, or from its own last checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sais.checkpoint import Checkpoint, load_checkpoint, load_weights
from sais.config import Experiment
from sais.converters.for_training import changes_buffers, for_training
from sais.data.annotations import DatasetSplit
from sais.device import choose_device
from sais.distributed import SINGLE_PROCESS, World
from sais.engine.optim import MovingAverage, build_optimizer, restore_optimizer
from sais.engine.run_folder import LAST, PREVIOUS
from sais.engine.train_state import TrainState
from sais.errors import CheckpointError, ConfigError
from sais.io.atomic import replace_file
from sais.modeling.architecture import Architecture, find_architecture
from sais.modeling.backbones import Backbone

CHANGEABLE_SETTINGS = (
    *("run.device", "run.workers", "run.loggers", "run.on_nonfinite_loss"),
    *("run.evaluate_every", "run.checkpoint_every", "run.checkpoint_minutes"),
    *("run.activation_checkpointing", "run.cpu_convolutions", "run.tf32", "run.deterministic", "run.compile"),
    *("optim.lr", "optim.micro_batch", "optim.grad_clip_norm", "schedule.patience"),
)
"""Settings that can be changed when resuming; changing any other one would make it a different run. In addition, a
stepped schedule can have more epochs."""

RESUMED_FIELDS = (
    *("iteration", "best_score", "evaluations_since_best", "seconds", "metrics", "evaluated_epochs"),
    *("recent_losses", "skipped_batches", "consecutive_skips"),
)
"""Fields of `TrainState` that a checkpoint stores under the same name."""


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**53


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


STATE_RULES: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("iteration", "evaluations_since_best", "evaluated_epochs", "skipped_batches"), _is_count),
    **dict.fromkeys(("consecutive_skips", "updates", "images"), _is_count),
    **dict.fromkeys(("best_score", "seconds"), _is_number),
    "metrics": lambda value: value is None or isinstance(value, dict),
    "recent_losses": lambda value: isinstance(value, list) and all(map(_is_number, value)),
    "unreadable_images": lambda value: isinstance(value, list) and all(isinstance(line, str) for line in value),
}
"""Entry of the state of a checkpoint -> whether a value is possible."""


@dataclass(frozen=True)
class RunInputs:
    """Inputs of a run that do not come from a checkpoint."""

    experiment: Experiment
    out: Path
    """Folder of the run."""
    train_split: DatasetSplit
    valid_split: DatasetSplit | None
    world: World = SINGLE_PROCESS
    trust: bool = False
    """Whether code outside of sais that a checkpoint names is imported and run; see `sais.trust`."""


def start_run(inputs: RunInputs, random_init: bool, weights: str | Path | None) -> tuple[TrainState, list[str]]:
    """Start a new run.

    Args:
        inputs: settings, folder and data.
        random_init: whether the backbone starts from random weights, all of them trainable.
        weights: checkpoint, run folder or ``torchvision:NAME`` to start from instead of ImageNet weights.

    Returns:
        The state of the run, and remarks for the user.
    """
    from sais.config_ranges import check_ranges

    experiment, class_names = inputs.experiment, inputs.train_split.class_names
    check_ranges(experiment)
    from_scratch = random_init or not experiment.model.pretrained
    experiment = replace(experiment, model=replace(experiment.model, pretrained=not from_scratch))
    from sais.engine.mask_supervision import match_masks

    experiment, remarks = match_masks(experiment, inputs.train_split, inputs.valid_split)
    initial = None
    if weights is not None:
        from sais.engine.fine_tuning import initialize_from, read_initial_weights

        initial, experiment, changes = read_initial_weights(weights, experiment, inputs.world, inputs.trust)
        remarks += changes
    device = choose_device(experiment.run.device)
    torch.manual_seed(experiment.run.seed)
    architecture = find_architecture(experiment.model.architecture)
    model = architecture.build(experiment, len(class_names))
    if initial is not None:
        notes = initialize_from(model, initial, class_names, architecture)
    elif from_scratch:
        notes = ["backbone initialized randomly: none of its layers are frozen"]
    else:
        backbone = getattr(model, "backbone", None)
        if not isinstance(backbone, Backbone):
            raise ConfigError(
                f"model.architecture {experiment.model.architecture!r}: its network has no Backbone to load ImageNet "
                "weights into. Set model.pretrained to False."
            )
        from sais.modeling.imagenet_weights import load_imagenet_weights

        notes = [load_imagenet_weights(backbone)]
    return new_state(replace(inputs, experiment=experiment), architecture, model, device), [*remarks, *notes]


def resume_run(
    inputs: RunInputs, changed_settings: tuple[str, ...] = ("run.device", "run.workers")
) -> tuple[TrainState, list[str]]:
    """Restore the run that stopped in `inputs.out`.

    Args:
        inputs: folder and data; of its settings only `changed_settings` are used.
        changed_settings: names of settings taken from `inputs.experiment`, of `CHANGEABLE_SETTINGS`.

    Returns:
        The state of the run, and remarks for the user.

    Raises:
        CheckpointError: there is no run to resume, it was trained with other data, or its state is damaged.
        ConfigError: a changed setting is not changeable, or the checkpoint names code that is not trusted.
        ResourceError: the checkpoint cannot be read at the moment.
    """
    from sais.inference.parameter_limit import limit_parameters
    from sais.trust import check_trusted, own_code

    train_split = inputs.train_split
    checkpoint, path, notes = _last_readable(inputs.out, inputs.world)
    experiment, changes = change_settings(checkpoint.experiment, inputs.experiment, changed_settings)
    experiment, removals = _drop_unrequested_loggers(experiment, inputs)
    given = own_code(inputs.experiment)
    check_trusted({k: v for k, v in own_code(experiment).items() if given.get(k) != v}, str(path), inputs.trust)
    _check_same_run(checkpoint, path, train_split)
    device = choose_device(experiment.run.device)
    architecture = find_architecture(experiment.model.architecture)
    weights, raw = checkpoint.part("model"), checkpoint.part("raw")
    with limit_parameters(weights, path):
        model = architecture.build(experiment, len(train_split.class_names))
    load_weights(model, raw or weights, path)
    run = new_state(replace(inputs, experiment=experiment), architecture, model, device)
    state = checkpoint.state
    if run.average:
        load_weights(run.average.model, weights, path)
        run.average.updates = state["updates"]
    try:
        restore_optimizer(run.optimizer, model, checkpoint.part("optimizer"))
        if state.get("scaler"):
            run.scaler.load_state_dict(state["scaler"])
    except (KeyError, ValueError, RuntimeError, TypeError) as error:
        raise CheckpointError(
            f"{path}: its optimizer state does not fit the network ({error}). Resume from another checkpoint of the "
            "run."
        ) from error
    for name in RESUMED_FIELDS:
        setattr(run, name, state[name])
    run.unreadable_images = set(state["unreadable_images"])
    run.thresholds = state.get("thresholds")
    return run, [*notes, *changes, *removals, f"resumed at iteration {run.iteration}"]


def change_settings(stored: Experiment, given: Experiment, names: tuple[str, ...]) -> tuple[Experiment, list[str]]:
    """Change settings of a stored experiment to those of another one.

    Args:
        stored: settings of the run.
        given: settings to take the new values from.
        names: names of the settings to change ("optim.lr").

    Returns:
        The new settings, and a line for each difference.

    Raises:
        ConfigError: a setting that differs is not changeable.
    """
    changes = []
    for name in names:
        group, _, field = name.partition(".")
        before, after = (getattr(getattr(experiment, group), field) for experiment in (stored, given))
        if before == after:
            continue
        if name == "schedule.epochs":
            _check_more_epochs(stored, after)
        elif name not in CHANGEABLE_SETTINGS:
            raise ConfigError(
                f"{name}: the run was started with {before}, which cannot be changed when resuming. Start a new run in "
                "another folder."
            )
        stored = replace(stored, **{group: replace(getattr(stored, group), **{field: after})})
        changes.append(f"{name} changed from {before} to {after}")
    from sais.config_ranges import check_ranges

    check_ranges(stored)
    return stored, changes


def _check_more_epochs(stored: Experiment, epochs: int) -> None:
    """Raise ConfigError unless a run with more epochs has had the learning rates of the run that is resumed."""
    before, kind = stored.schedule.epochs, stored.schedule.kind
    if epochs < before:
        raise ConfigError(
            f"schedule.epochs: the run was started with {before}, and a resumed run can only have more. Stop the run "
            "where you like, and use its best weights."
        )
    if kind != "steps":
        raise ConfigError(
            f"schedule.epochs: the learning rate of the {kind} schedule ends with the {before} epochs that the run was "
            "started with, so that it cannot have more. Start a new run in another folder, with this run as its "
            "weights."
        )


def _check_same_run(checkpoint: Checkpoint, path: Path, train_split: DatasetSplit) -> None:
    """Raise CheckpointError if a checkpoint is not of a run with this data."""
    same_data = "Resume with the data, and the choice of classes, that it was started with."
    if not checkpoint.part("optimizer"):
        raise CheckpointError(f"{path}: contains a model without training state. Resume from the {LAST} of a run.")
    for name, valid in STATE_RULES.items():
        if name not in checkpoint.state or not valid(checkpoint.state[name]):
            raise CheckpointError(
                f"{path}: the training state is damaged ({name} is {checkpoint.state.get(name)!r:.100}). Resume from "
                "another checkpoint of the run."
            )
    if checkpoint.class_names != train_split.class_names:
        stored, own = (", ".join(names) for names in (checkpoint.class_names, train_split.class_names))
        raise CheckpointError(
            f"{path}: trained on the classes {stored:.200}, but {train_split.name} has {own:.200}. {same_data}"
        )
    if checkpoint.state["images"] != len(train_split.images):
        raise CheckpointError(
            f"{path}: trained on {checkpoint.state['images']} images, but {train_split.name} has "
            f"{len(train_split.images)}. {same_data}"
        )


def _drop_unrequested_loggers(stored: Experiment, inputs: RunInputs) -> tuple[Experiment, list[str]]:
    """Remove loggers "module:function" that only the checkpoint names, unless they are trusted."""
    from sais.trust import is_trusted

    given = inputs.experiment.run.loggers
    loggers = tuple(n for n in stored.run.loggers if ":" not in n or n in given or inputs.trust or is_trusted(n))
    removed = [name for name in stored.run.loggers if name not in loggers]
    notes = [f"logger {name} of the checkpoint is not used; name it in run.loggers to use it" for name in removed]
    return replace(stored, run=replace(stored.run, loggers=loggers)), notes


def _last_readable(out: Path, world: World) -> tuple[Checkpoint, Path, list[str]]:
    """Return the last readable checkpoint of a run, its path and remarks.

    A corrupt `last.safetensors` is renamed, so that it never replaces an intact `previous.safetensors`. A file that
    cannot be read at the moment (ResourceError) or that another version of sais wrote (ConfigError) is not corrupt.
    """
    last, previous = out / LAST, out / PREVIOUS
    if not last.exists() and not previous.exists():
        raise CheckpointError(f"{last}: no run to resume. Start a new run instead.")
    try:
        return load_checkpoint(last), last, []
    except CheckpointError as error:
        if not previous.exists():
            raise
        reason = str(error)
    checkpoint = load_checkpoint(previous)
    if world.is_main and last.exists():
        replace_file(last, last.with_name(f"{last.name}.corrupt"))
    return checkpoint, previous, [f"{reason.rstrip('.')}. Resuming from {previous.name}."]


def new_state(inputs: RunInputs, architecture: Architecture, model: nn.Module, device: torch.device) -> TrainState:
    """Return the initial state of a run, with `model` on its device and rewritten for training."""
    from sais.engine.hardware import check_precision, training_settings

    experiment = inputs.experiment
    with training_settings(experiment, device):  # cuBLAS is deterministic from its first use or never
        check_precision(experiment.run.precision, device)
    model = for_training(model, experiment, device)
    average = MovingAverage(model, experiment.run.ema) if experiment.run.ema else None
    criterion = architecture.build_criterion(experiment)
    if experiment.run.compile:
        from sais.engine.compiled import compile_training

        criterion = compile_training(model, criterion, experiment, device)
    return TrainState(
        experiment,
        inputs.out,
        inputs.train_split,
        inputs.valid_split,
        model,
        network=inputs.world.wrap_model(model, device, changes_buffers(model)),
        optimizer=build_optimizer(model, experiment.optim),
        average=average,
        scaler=torch.amp.GradScaler(device.type, enabled=experiment.run.precision == "fp16"),
        device=device,
        architecture=architecture,
        criterion=criterion,
        world=inputs.world,
    )
