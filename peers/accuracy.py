"""Accuracy of SAIS and its peers on one data set: same backbone, images, input, epochs, trainer and evaluator.

The learning rate of each peer comes from a search: one run of the whole budget for each rate, with seed 0; the rate
with the highest mask AP on the validation split is used. This favors the peers, since SAIS keeps the rate of its
recipe. Results are in the folder of `sais reproduce`, whose page includes them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from peers.torchvision_peers import MASK_RCNN_NAME
from peers.yolact import YOLACT_NAME
from sais.config import Experiment
from sais.data.paths import DataPaths
from sais.engine.train_step import DivergedLossError
from sais.errors import SaisError
from sais.io.atomic import write_text
from sais.paper.comparison import markdown_table
from sais.paper.experiments import write_index
from sais.paper.runs import RunPlan, RunResult, run_plans
from sais.paper.sweep import Budget, base_experiment, plan_run
from sais.paper.wording import describe_conditions
from sais.recipes.adjust import replace_settings


@dataclass(frozen=True)
class Peer:
    """A system that SAIS is compared with."""

    title: str
    architecture: str
    """Value of `model.architecture`."""
    grad_clip_norm: float | None = None
    """Maximum gradient norm, if the peer diverges without one (docs/log.md)."""


PEERS = {"yolact": Peer("YOLACT", YOLACT_NAME, grad_clip_norm=10.0), "mask-rcnn": Peer("Mask R-CNN", MASK_RCNN_NAME)}
LR_FACTORS = (0.5, 1.0, 2.0)
"""Learning rates of the search, relative to that of the base recipe."""
COLUMNS = ("system", "learning rate", "seeds", "box AP", "mask AP", "mask AP50", "mask AP75", "mask APm", "mask APl")


@dataclass(frozen=True)
class Comparison:
    """The systems, data and budget of a comparison."""

    data: DataPaths
    out: Path
    budget: Budget
    peers: tuple[str, ...] = tuple(PEERS)
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of SAIS."""
    peer_seeds: tuple[int, ...] = (0,)
    """Seeds of the peers, with the learning rate of their search."""
    lr_factors: tuple[float, ...] = LR_FACTORS
    sais_lr_factors: tuple[float, ...] = ()
    """Further learning rates of SAIS, reported with the peers' search; the comparison uses that of the recipe."""
    command: str = ""


def compare(comparison: Comparison) -> str:
    """Run everything that has no result yet, write the tables to the page, and return them as Markdown."""
    base, _ = base_experiment(comparison.budget)
    plans = [plan_run("sais", seed, base, comparison.budget) for seed in comparison.seeds]
    groups = [("SAIS", run_plans(plans, comparison.data, comparison.out))]
    search_rows = [
        _search_row("SAIS, search", factor, base, _try_plan(_sais_plan(comparison, factor), comparison))
        for factor in comparison.sais_lr_factors
    ]
    for key in comparison.peers:
        title = PEERS[key].title
        trials = {
            factor: _try_plan(_peer_plan(key, comparison, factor, 0), comparison) for factor in comparison.lr_factors
        }
        search_rows += [_search_row(f"{title}, search", factor, base, result) for factor, result in trials.items()]
        scores = {factor: _mask_ap(result) for factor, result in trials.items() if result is not None}
        if not scores:
            continue
        best = max(scores, key=lambda factor: scores[factor])
        plans = [_peer_plan(key, comparison, best, seed) for seed in comparison.peer_seeds]
        groups.append((title, run_plans(plans, comparison.data, comparison.out)))
    tables: list[tuple[Sequence[str], Sequence[Sequence[str]]]] = [
        (COLUMNS, [_result_row(title, results) for title, results in groups]),
        (COLUMNS, search_rows),
    ]
    return _write_tables(comparison, _intro(groups[0][1]), tables)


def _write_tables(
    comparison: Comparison, intro: str, tables: Sequence[tuple[Sequence[str], Sequence[Sequence[str]]]]
) -> str:
    title = "SAIS and its peers: accuracy"
    state = {"kind": "plain", "title": title, "intro": intro, "tables": tables, "command": comparison.command}
    write_text(comparison.out / "peers.json", json.dumps(state, indent=1) + "\n")
    text = "\n\n".join([f"## {title}", intro, *(markdown_table(*table) for table in tables)]) + "\n"
    write_text(comparison.out / "peers.md", text)
    write_index(comparison.out)
    return text


def _sais_plan(comparison: Comparison, lr_factor: float) -> RunPlan:
    base, _ = base_experiment(comparison.budget)
    experiment = replace_settings(base, "optim", lr=base.optim.lr * lr_factor)
    return plan_run("sais", 0, experiment, comparison.budget)


def _try_plan(plan: RunPlan, comparison: Comparison) -> RunResult | None:
    """Return the result of a run; None if it diverges, which must not end a search."""
    try:
        (result,) = run_plans([plan], comparison.data, comparison.out)
    except SaisError as error:
        if not isinstance(error.__cause__, DivergedLossError):
            raise
        print(f"{plan.row} at lr {plan.experiment.optim.lr:g}: {error}")
        return None
    return result


def _mask_ap(result: RunResult) -> float:
    return (result.metrics["mask"] or {}).get("AP") or 0.0


def _search_row(title: str, lr_factor: float, base: Experiment, result: RunResult | None) -> list[str]:
    if result is not None:
        return _result_row(title, [result])
    return [title, f"{base.optim.lr * lr_factor:g}", "diverged", *["-"] * (len(COLUMNS) - 3)]


def _peer_plan(key: str, comparison: Comparison, lr_factor: float, seed: int) -> RunPlan:
    peer = PEERS[key]
    base, _ = base_experiment(comparison.budget)
    grad_clip_norm = peer.grad_clip_norm if peer.grad_clip_norm is not None else base.optim.grad_clip_norm
    experiment = replace_settings(base, "optim", lr=base.optim.lr * lr_factor, grad_clip_norm=grad_clip_norm)
    experiment = replace(replace_settings(experiment, "run", seed=seed), name=f"{base.name}-{key}")
    budget = comparison.budget
    experiment = replace_settings(experiment, "model", architecture=peer.architecture)
    return RunPlan(key, experiment, budget.max_iterations, budget.random_init)


def _result_row(title: str, results: Sequence[RunResult]) -> list[str]:
    metrics = [("box", "AP"), *(("mask", name) for name in ("AP", "AP50", "AP75", "APm", "APl"))]
    seeds = " ".join(str(result.seed) for result in results)
    lr = f"{results[0].experiment['optim']['lr']:g}"
    return [title, lr, seeds, *(_mean_and_range(kind, name, results) for kind, name in metrics)]


def _mean_and_range(kind: str, name: str, results: Sequence[RunResult]) -> str:
    scores = [(result.metrics[kind] or {}).get(name) for result in results]
    values = [100 * score for score in scores if score is not None]
    if not values:
        return "-"
    mean = f"{sum(values) / len(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.1f}-{max(values):.1f})"


def _intro(results: Sequence[RunResult]) -> str:
    described = describe_conditions(results)
    parts = "; ".join(described[name] for name in ("data", "schedule", "input", "backbone", "machine"))
    return (
        f"Measured: {parts}. AP in percent of the final weights: mean and (minimum-maximum) over seeds. All systems "
        "share images, input, backbone, optimizer and schedule; the learning rate of a peer is the best of the search "
        "below, which uses the same validation images. YOLACT's gradient norm is clipped at 10. Below 256 channels, "
        "Mask R-CNN trains on 64 regions and 8 masks per image and tests 300 proposals; neither its anchors nor SAIS's "
        "levels are scaled with the input."
    )
