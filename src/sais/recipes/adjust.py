"""Changes to a recipe: replaced settings, and what follows from another batch size or number of epochs."""

from __future__ import annotations

import dataclasses
from typing import Any

from sais.config import Experiment
from sais.config_ranges import check_ranges
from sais.errors import ConfigError


def replace_settings(experiment: Experiment, group: str, **values: Any) -> Experiment:
    """Return `experiment` with fields of one group replaced: replace_settings(e, "input", size=(64, 64))."""
    return dataclasses.replace(experiment, **{group: dataclasses.replace(getattr(experiment, group), **values)})


def scale_lr(start: Experiment, experiment: Experiment) -> tuple[Experiment, list[str]]:
    """Scale the learning rate for a batch size other than that of `start`.

    The scaling is linear for SGD (Goyal et al. 2017) and by the square root for other optimizers.

    Returns:
        The experiment with its new learning rate, and notes for the log.
    """
    ratio = experiment.optim.batch_size / start.optim.batch_size
    if ratio == 1:
        return experiment, []
    linear = experiment.optim.name == "sgd"
    lr = float(f"{experiment.optim.lr * (ratio if linear else ratio**0.5):.4g}")
    note = (
        f"batch size {experiment.optim.batch_size} instead of {start.optim.batch_size}: learning rate scaled "
        f"{'linearly' if linear else 'by the square root'} from {experiment.optim.lr:g} to {lr:g}"
    )
    return replace_settings(experiment, "optim", lr=lr), [note]


def set_epochs(experiment: Experiment, epochs: int) -> tuple[Experiment, list[str]]:
    """Change the number of epochs; the milestones of a stepped schedule move in proportion.

    Returns:
        The experiment with its new schedule, and notes for the log.
    """
    schedule = experiment.schedule
    if epochs == schedule.epochs or schedule.kind != "steps":
        return replace_settings(experiment, "schedule", epochs=epochs), []
    moved = {int(milestone * epochs / schedule.epochs) for milestone in schedule.milestones}
    milestones = tuple(sorted(milestone for milestone in moved if 0 < milestone < epochs))
    before, after = (", ".join(map(str, numbers)) or "none" for numbers in (schedule.milestones, milestones))
    note = f"{epochs} epochs instead of {schedule.epochs}: milestones moved from {before} to {after}"
    return replace_settings(experiment, "schedule", epochs=epochs, milestones=milestones), [note]


def check_experiment(experiment: Experiment) -> None:
    """Raise ConfigError where training cannot use a setting."""
    if not experiment.optim.lr > 0:
        raise ConfigError(f"optim.lr {experiment.optim.lr:g}: not positive. Give a number greater than 0.")
    height, width = experiment.input.size
    if experiment.input.mode == "fixed" and (height % 32 or width % 32 or min(height, width) < 32):
        raise ConfigError(
            f"input.size {height} {width}: a fixed input needs multiples of 32. Give the nearest multiples."
        )
    check_ranges(experiment)
