"""The runs that tables need: one for each row and seed, all with the same budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sais.config import Experiment
from sais.errors import ConfigError
from sais.paper.padding_bug import PADDING_BUG
from sais.paper.runs import RunPlan
from sais.paper.tables import find_row
from sais.recipes import recipe
from sais.recipes.adjust import check_experiment, replace_settings, scale_lr, set_epochs


@dataclass(frozen=True)
class Budget:
    """Settings that all rows share, so that they differ only in what their table compares."""

    base: str = "sais-r50-768"
    """Recipe that the rows change."""
    epochs: int | None = None
    max_iterations: int | None = None
    """Number of iterations after which a run stops; None: all."""
    batch_size: int | None = None
    """Batch size in images."""
    lr: float | None = None
    size: tuple[int, int] | None = None
    """(height, width) of the fixed input in pixels."""
    backbone: str | None = None
    workers: int | None = None
    device: str | None = None
    evaluate_every: int = 0
    """Number of epochs between evaluations; 0: only after the last epoch."""
    random_init: bool = False


CHECKPOINT_EVERY = 100
"""Iterations between checkpoints, in addition to those after each epoch."""


def base_experiment(budget: Budget) -> tuple[Experiment, list[str]]:
    """Apply a budget to its base recipe.

    Returns:
        The experiment, and notes for the user about adjusted settings.

    Raises:
        ConfigError: no such recipe, a recipe that keeps the ratio, or a setting that training cannot use.
    """
    start = recipe(budget.base)
    if start.input.mode != "fixed":
        raise ConfigError(
            f"base {budget.base}: keeps the ratio, which is what rows of the tables change. Choose a recipe with a "
            "fixed input."
        )
    experiment = start
    for group, name, value in (
        ("optim", "batch_size", budget.batch_size),
        ("optim", "lr", budget.lr),
        ("run", "workers", budget.workers),
        ("run", "device", budget.device),
        ("input", "size", budget.size),
        ("model", "backbone", budget.backbone),
    ):
        if value is not None:
            experiment = replace_settings(experiment, group, **{name: value})
    notes: list[str] = []
    if budget.epochs is not None:
        experiment, notes = set_epochs(experiment, budget.epochs)
    check_experiment(experiment)
    if budget.lr is None:
        experiment, lr_notes = scale_lr(start, experiment)
        notes += lr_notes
    intervals = {"evaluate_every": budget.evaluate_every, "checkpoint_every": CHECKPOINT_EVERY}
    return replace_settings(experiment, "run", **intervals), notes


def plan_runs(rows: Sequence[str], seeds: Sequence[int], budget: Budget) -> list[RunPlan]:
    """Plan a run for each row and seed, seed by seed, so that a table is complete early and gains seeds later.

    Args:
        rows: keys of rows; a key that occurs twice is planned once.
        seeds: seeds of the runs.
        budget: settings that all runs share.
    """
    base, _ = base_experiment(budget)
    return [plan_run(key, seed, base, budget) for seed in seeds for key in dict.fromkeys(rows)]


def plan_run(key: str, seed: int, base: Experiment, budget: Budget) -> RunPlan:
    """Plan the run of one row with one seed.

    Raises:
        InputError: no such row.
        ConfigError: the row reproduces the padding bug, and the base moves images on the canvas.
    """
    row = find_row(key)
    if row.padding_bug and base.augment.scale_jitter != (1.0, 1.0):
        raise ConfigError(
            f"row {key}: the padding bug is defined for images at the top left of the canvas, and {base.name} moves "
            "them (augment.scale_jitter). Choose a base without scale jitter, such as paper-lite0."
        )
    experiment = replace_settings(row.change(base), "run", seed=seed)
    if row.padding_bug:
        experiment = replace_settings(experiment, "model", architecture=PADDING_BUG)
    named = replace(experiment, name=f"{base.name}-{key}")
    return RunPlan(key, named, budget.max_iterations, budget.random_init)
