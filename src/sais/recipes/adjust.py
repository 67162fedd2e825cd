"""Changes to a recipe: replaced settings, and what follows from another batch size or number of epochs."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any

from sais.config import Experiment
from sais.config_ranges import check_ranges
from sais.errors import ConfigError

FIRST_EPOCHS = {"size_growth_epochs": "growth of the input", "mosaic_copy_paste_epochs": "mosaic and copy-paste"}
"""Augmentation settings that are a number of first epochs, with words for the log."""
COUNTED_IN_EPOCHS = ("schedule.milestones", *(f"augment.{name}" for name in FIRST_EPOCHS))
"""Settings that change in proportion to the number of epochs."""


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


def set_epochs(experiment: Experiment, epochs: int, keep: Collection[str] = ()) -> tuple[Experiment, list[str]]:
    """Change the number of epochs; settings counted in epochs change in proportion, see `COUNTED_IN_EPOCHS`.

    Args:
        experiment: the settings.
        epochs: the new number.
        keep: dotted names of the settings that stay as they are, because the user gave them.

    Returns:
        The experiment with its new schedule, and notes for the log.
    """
    before = experiment.schedule.epochs
    changed = replace_settings(experiment, "schedule", epochs=epochs)
    if epochs == before:
        return changed, []
    moves = []
    if experiment.schedule.kind == "steps" and "schedule.milestones" not in keep:
        milestones = experiment.schedule.milestones
        moved = {int(milestone * epochs / before) for milestone in milestones}
        inside = tuple(sorted(milestone for milestone in moved if 0 < milestone < epochs))
        changed = replace_settings(changed, "schedule", milestones=inside)
        texts = (", ".join(map(str, numbers)) or "none" for numbers in (milestones, inside))
        moves.append("milestones moved from {} to {}".format(*texts))
    for name, label in FIRST_EPOCHS.items():
        number = getattr(experiment.augment, name)
        if number and f"augment.{name}" not in keep:
            scaled = max(1, round(number * epochs / before))
            changed = replace_settings(changed, "augment", **{name: scaled})
            moves.append(f"{label} ends after {scaled} instead of {number}")
    return changed, [f"{epochs} epochs instead of {before}: {'; '.join(moves)}"] if moves else []


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
