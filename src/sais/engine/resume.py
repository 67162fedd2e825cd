"""How a run begins: fresh, from the weights of another, or where one of the same folder stopped."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from sais.checkpoint import Checkpoint, find_checkpoint, load_checkpoint, load_weights, restore_optimizer
from sais.config import Experiment, check_ranges
from sais.data.annotations import DatasetSplit
from sais.device import choose_device
from sais.distributed import World
from sais.engine.architecture import Architecture
from sais.engine.optim import MovingAverage, build_optimizer
from sais.engine.train_state import LAST, PREVIOUS, TrainState
from sais.errors import SaisError
from sais.modeling.backbones import Backbone, load_imagenet_weights

CHANGEABLE_SETTINGS = (
    *("run.device", "run.workers", "run.evaluate_every", "run.checkpoint_every", "run.checkpoint_minutes"),
    *(
        "run.on_nonfinite_loss",
        "run.activation_checkpointing",
        "run.cpu_convolutions",
        "run.loggers",
        "optim.micro_batch",
        "optim.lr",
        "optim.grad_clip_norm",
        "schedule.patience",
    ),
)
"""Settings that a resumed run may take anew; every other one would make it another run."""

RESUMED_FIELDS = (
    *("iteration", "best_score", "evaluations_since_best", "seconds", "metrics", "evaluated_epochs"),
    *("recent_losses", "skipped_batches", "consecutive_skips"),
)
"""Fields of `TrainState` that a checkpoint stores under the same name."""


def start_run(
    experiment: Experiment,
    out: Path,
    index: DatasetSplit,
    valid: DatasetSplit | None,
    random_init: bool,
    weights: Path | None,
    system: Architecture,
    ranks: World,
) -> tuple[TrainState, list[str]]:
    """A fresh run, and what there is to say about it."""
    if (out / LAST).exists():
        raise SaisError(f"{out}: a run is there already; go on with --resume, or choose another --out")
    check_ranges(experiment)
    from_scratch = random_init or not experiment.model.pretrained
    experiment = replace(experiment, model=replace(experiment.model, pretrained=not from_scratch))
    device = choose_device(experiment.run.device)
    torch.manual_seed(experiment.run.seed)
    model = system.build(experiment, len(index.class_names))
    if weights is not None:
        path = find_checkpoint(weights)
        notes = initialize_from(model, load_checkpoint(path), index.class_names, system, path)
    elif from_scratch:
        notes = ["backbone from random weights: nothing of it is frozen"]
    else:
        assert isinstance(model.backbone, Backbone)
        notes = [load_imagenet_weights(model.backbone)]
    return _run(experiment, out, index, valid, model.to(device), system, ranks), notes


def resume_run(
    experiment: Experiment,
    out: Path,
    index: DatasetSplit,
    valid: DatasetSplit | None,
    system: Architecture,
    ranks: World,
    anew: tuple[str, ...] = ("run.device", "run.workers"),
) -> tuple[TrainState, list[str]]:
    """The run that stopped in `out`, and what there is to say about it.

    Args:
        anew: settings taken from `experiment` instead of the stored ones; of `FREE`.
    """
    checkpoint, path, notes = _last_readable(out, ranks)
    stored, more = with_settings(checkpoint.experiment, experiment, anew)
    if not checkpoint.part("optimizer"):
        raise SaisError(f"{path}: a model, not a run; resume from the last.safetensors of a run")
    if (other := checkpoint.state["architecture"]) != system.name:
        raise SaisError(f"{path}: a run of {other}, not of {system.name}; resume it as what it is")
    if checkpoint.class_names != index.class_names:
        raise SaisError(f"{path}: trained on other classes than {index.name}; resume with the data it was started on")
    if checkpoint.state["images"] != len(index.images):
        was = f"{checkpoint.state['images']} images, {index.name} has {len(index.images)}"
        raise SaisError(f"{path}: trained on {was}; resume with the data it was started on")
    device = choose_device(stored.run.device)
    model = system.build(stored, len(index.class_names))
    weights, raw = checkpoint.part("model"), checkpoint.part("raw")
    load_weights(model, raw or weights, path)
    run = _run(stored, out, index, valid, model.to(device), system, ranks)
    state = checkpoint.state
    if run.average:
        load_weights(run.average.model, weights, path)
        run.average.updates = state["updates"]
    restore_optimizer(run.optimizer, model, checkpoint.part("optimizer"))
    if state.get("scaler"):
        run.scaler.load_state_dict(state["scaler"])
    for name in RESUMED_FIELDS:
        setattr(run, name, state[name])
    run.unreadable_images = set(state["unreadable_images"])
    return run, [*notes, *more, f"resumed at iteration {run.iteration}"]


def with_settings(stored: Experiment, given: Experiment, anew: tuple[str, ...]) -> tuple[Experiment, list[str]]:
    """`stored` with the settings named in `anew` as `given` has them, and a line for each that is another now.

    Raises:
        SaisError: a setting that decides what the run is.
    """
    said = []
    for name in anew:
        group, _, field = name.partition(".")
        was, now = (getattr(getattr(e, group), field) for e in (stored, given))
        if was == now:
            continue
        if name not in CHANGEABLE_SETTINGS:
            option = f"--{name}".replace("_", "-")
            raise SaisError(f"{option}: the run was started with {was}, and a resumed run keeps it; start another run")
        stored = replace(stored, **{group: replace(getattr(stored, group), **{field: now})})
        said.append(f"{name} is {now} from here on, it was {was}")
    check_ranges(stored)
    return stored, said


def initialize_from(
    model: nn.Module, checkpoint: Checkpoint, class_names: tuple[str, ...], system: Architecture, path: Path
) -> list[str]:
    """Fill a model with a checkpoint's weights. Where its classes are others, the layers that speak of classes stay as
    they were initialized, but for the classes that both know by the same name.

    Returns:
        What was kept and what is new, for a person to read.

    Raises:
        SaisError: another network, or a system that has no layers to make anew.
    """
    tensors = checkpoint.part("model")
    if checkpoint.class_names == class_names:
        load_weights(model, tensors, path)
        return [f"weights from {path}"]
    if not system.class_layers:
        raise SaisError(f"{path}: trained for other classes ({', '.join(checkpoint.class_names[:5])}, ...)")
    known = {name: place for place, name in enumerate(checkpoint.class_names)}
    pairs = [(i, known[name]) for i, name in enumerate(class_names) if name in known]
    mine = model.state_dict()
    for layer in system.class_layers:
        for name in (f"{layer}.weight", f"{layer}.bias"):
            if name in tensors and name in mine:
                tensors[name] = _with_rows(mine[name], tensors[name], pairs)
    load_weights(model, tensors, path)
    kept = [class_names[i] for i, _ in pairs]
    new = [name for name in class_names if name not in known]
    said = (
        f"weights from {path}, trained for {len(checkpoint.class_names)} classes: {', '.join(system.class_layers)} anew"
    )
    return [f"{said}; kept of it: {_listed(kept)}; new: {_listed(new)}"]


def _with_rows(fresh: Tensor, old: Tensor, pairs: list[tuple[int, int]]) -> Tensor:
    """`fresh` (classes, ...) with the rows of `old` where `pairs` (row of fresh, row of old) says so."""
    if fresh.shape[1:] != old.shape[1:]:
        return old  # another network, as `fill` will say
    both = fresh.detach().clone()
    for row, source in pairs:
        both[row] = old[source]
    return both


def _listed(names: list[str]) -> str:
    """At most five of them."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "") if names else "none"


def _last_readable(out: Path, ranks: World) -> tuple[Checkpoint, Path, list[str]]:
    """The last checkpoint of a run; where that cannot be read, the one before, which is said. The spoilt one is set
    aside, so that it never takes the place of a good one."""
    last, previous = out / LAST, out / PREVIOUS
    if not last.exists() and not previous.exists():
        raise SaisError(f"{last}: nothing to resume; start the run without --resume")
    try:
        return load_checkpoint(last), last, []
    except SaisError as error:
        if not previous.exists():
            raise
        reason = str(error)
    checkpoint = load_checkpoint(previous)
    if ranks.is_main and last.exists():
        os.replace(last, last.with_name(f"{last.name}.spoilt"))
    return checkpoint, previous, [f"{reason}. Going on from {previous.name}"]


def _run(
    experiment: Experiment,
    out: Path,
    index: DatasetSplit,
    valid: DatasetSplit | None,
    model: nn.Module,
    system: Architecture,
    ranks: World,
) -> TrainState:
    """A run at its beginning; `model` lies on its device."""
    device = next(model.parameters()).device
    average = MovingAverage(model, experiment.run.ema) if experiment.run.ema else None
    scaler = torch.amp.GradScaler(device.type, enabled=experiment.run.precision == "fp16")
    network = ranks.wrap_model(model, device)
    optimizer = build_optimizer(model, experiment.optim)
    return TrainState(experiment, out, index, valid, model, network, optimizer, average, scaler, device, system, ranks)
