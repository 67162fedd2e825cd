"""A recipe under other circumstances: another batch, length, size or seed, and what follows from it."""

from __future__ import annotations

import dataclasses
from typing import Any

from sais.config import Experiment, check_ranges
from sais.errors import SaisError


def changed(experiment: Experiment, group: str, **values: Any) -> Experiment:
    """The experiment with fields of one group of settings replaced: changed(e, "input", size=(64, 64))."""
    return dataclasses.replace(experiment, **{group: dataclasses.replace(getattr(experiment, group), **values)})


def scaled_lr(start: Experiment, experiment: Experiment) -> tuple[Experiment, list[str]]:
    """`experiment` with its lr scaled for a batch other than that of `start`, and what to tell the user about it.

    Linearly for SGD (Goyal et al. 2017), by the square root for AdamW.
    """
    share = experiment.optim.batch_size / start.optim.batch_size
    if share == 1:
        return experiment, []
    linear = experiment.optim.name == "sgd"
    lr = float(f"{experiment.optim.lr * (share if linear else share**0.5):.4g}")
    how = "linearly" if linear else "by the square root"
    said = (
        f"batch {experiment.optim.batch_size} instead of {start.optim.batch_size}: lr {experiment.optim.lr:g} -> {lr:g}, "
        f"scaled {how} (--lr overrides)"
    )
    return changed(experiment, "optim", lr=lr), [said]


def of_length(experiment: Experiment, epochs: int) -> tuple[Experiment, list[str]]:
    """The experiment over another number of epochs, its lr dropping after the same shares of them."""
    schedule = experiment.schedule
    if epochs == schedule.epochs or schedule.kind != "steps":
        return changed(experiment, "schedule", epochs=epochs), []
    moved = {int(step * epochs / schedule.epochs) for step in schedule.milestones}
    steps = tuple(sorted(step for step in moved if 0 < step < epochs))
    was, now = (" and ".join(map(str, s)) or "none" for s in (schedule.milestones, steps))
    said = (
        f"{epochs} epochs instead of {schedule.epochs}: lr drops after {now} instead of {was} (--schedule.milestones)"
    )
    return changed(experiment, "schedule", epochs=epochs, milestones=steps), [said]


def check(experiment: Experiment) -> None:
    """Raise SaisError where a setting is not one that training can work with, naming its option."""
    if not experiment.optim.lr > 0:
        raise SaisError(f"--lr {experiment.optim.lr:g}: must be greater than 0")
    height, width = experiment.input.size
    if experiment.input.mode == "fixed" and (height % 32 or width % 32 or min(height, width) < 32):
        raise SaisError(f"--size {height} {width}: a fixed input is a multiple of 32 in both directions")
    check_ranges(experiment)
