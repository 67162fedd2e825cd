"""From what the user asks for to the runs that it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sais.config import Experiment
from sais.engine.architecture import SAIS_ARCHITECTURE
from sais.errors import SaisError
from sais.paper.padding_bug import PADDING_BUG_ARCHITECTURE
from sais.paper.runs import RunPlan
from sais.paper.tables import find_row
from sais.recipes import recipe
from sais.recipes.adjust import changed, check, of_length, scaled_lr


@dataclass(frozen=True)
class Budget:
    """Circumstances that all rows share, so that they differ in what the table is about and in nothing else."""

    base: str = "sais-r50-768"
    """Recipe that the rows change."""
    epochs: int | None = None
    iterations: int | None = None
    batch: int | None = None
    lr: float | None = None
    size: tuple[int, int] | None = None
    backbone: str | None = None
    workers: int | None = None
    device: str | None = None
    evaluate_every: int = 0
    random_init: bool = False


CHECKPOINT_EVERY = 100
"""Iterations between checkpoints, beside those after each epoch."""


def base_experiment(budget: Budget) -> tuple[Experiment, list[str]]:
    """The base recipe under the budget, and what to tell the user about it.

    Raises:
        SaisError: no such recipe, or a setting that training cannot work with.
    """
    start = recipe(budget.base)
    if start.input.mode != "fixed":
        raise SaisError(
            f"--base {budget.base} keeps the ratio, which the rows see to themselves; take one that does not"
        )
    experiment = start
    for name, field in (("batch", "batch_size"), ("lr", "lr")):
        if getattr(budget, name) is not None:
            experiment = changed(experiment, "optim", **{field: getattr(budget, name)})
    for name in ("workers", "device"):
        if getattr(budget, name) is not None:
            experiment = changed(experiment, "run", **{name: getattr(budget, name)})
    if budget.size is not None:
        experiment = changed(experiment, "input", size=budget.size)
    if budget.backbone is not None:
        experiment = changed(experiment, "model", backbone=budget.backbone)
    said: list[str] = []
    if budget.epochs is not None:
        experiment, said = of_length(experiment, budget.epochs)
    check(experiment)
    if budget.lr is None:
        experiment, more = scaled_lr(start, experiment)
        said += more
    looks = {"evaluate_every": budget.evaluate_every, "checkpoint_every": CHECKPOINT_EVERY}
    return changed(experiment, "run", **looks), said


def plans_for(rows: Sequence[str], seeds: Sequence[int], budget: Budget) -> list[RunPlan]:
    """A run for each row and seed, seed by seed, so that a table is whole early and its spread grows later."""
    base, _ = base_experiment(budget)
    return [plan_of(key, seed, base, budget) for seed in seeds for key in dict.fromkeys(rows)]


def plan_of(key: str, seed: int, base: Experiment, budget: Budget) -> RunPlan:
    """The run of one row with one seed."""
    row = find_row(key)
    if row.slip and base.augment.scale_jitter != (1.0, 1.0):
        raise SaisError(
            f"row {key}: the padding slip is told of images that lie at the canvas's top left, and {base.name} zooms "
            "and moves them in training; take --base paper-lite0 or a recipe of the paper"
        )
    experiment = changed(row.change(base), "run", seed=seed)
    named = f"{base.name}-{key}"
    system = PADDING_BUG_ARCHITECTURE if row.slip else SAIS_ARCHITECTURE
    return RunPlan(key, replace(experiment, name=named), system, budget.iterations, budget.random_init)
