"""SAIS against its peers on one data set: same backbone, images, input, epochs, trainer and evaluator.

Each peer gets the learning rate of a small search: the whole budget once with each, seed 0; the best mask AP on the
validation split counts (which favors the peer, if anybody: SAIS keeps the rate of its recipe). Results lie in the
same folder as those of `sais reproduce`, whose page shows them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from peers.torchvision_peers import MASK_RCNN
from peers.yolact import YOLACT
from sais.config import Experiment
from sais.data.paths import DataPaths
from sais.engine.architecture import Architecture
from sais.errors import SaisError
from sais.io.atomic import write_text
from sais.paper.comparison import markdown_table
from sais.paper.experiments import page
from sais.paper.runs import RunPlan, RunResult, make_runs
from sais.paper.sweep import Budget, base_experiment, plan_of
from sais.paper.wording import conditions
from sais.recipes.adjust import changed


@dataclass(frozen=True)
class Peer:
    """One system that SAIS is compared with."""

    title: str
    system: Architecture
    clip: float | None = None
    """Greatest norm of the gradient, where it does not learn without (docs/log.md)."""


PEERS = {"yolact": Peer("YOLACT", YOLACT, clip=10.0), "mask-rcnn": Peer("Mask R-CNN", MASK_RCNN)}
FACTORS = (0.5, 1.0, 2.0)
"""Learning rates of the search, as multiples of the base recipe's."""
COLUMNS = ("system", "learning rate", "seeds", "box AP", "mask AP", "mask AP50", "mask AP75", "mask APm", "mask APl")


@dataclass(frozen=True)
class Comparison:
    """What is compared, under which budget."""

    data: DataPaths
    out: Path
    budget: Budget
    peers: tuple[str, ...] = tuple(PEERS)
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of SAIS."""
    peer_seeds: tuple[int, ...] = (0,)
    """Of the peers, once their rate is found."""
    factors: tuple[float, ...] = FACTORS
    own_factors: tuple[float, ...] = ()
    """Other learning rates to try for SAIS, for the second table; the first keeps the recipe's."""
    command: str = ""


def compare(comparison: Comparison) -> str:
    """Make every run that is not there yet and return the table as Markdown; the page shows it too."""
    base, _ = base_experiment(comparison.budget)
    ours = [plan_of("sais", seed, base, comparison.budget) for seed in comparison.seeds]
    groups = [("SAIS", make_runs(ours, comparison.data, comparison.out))]
    searches = [
        _found("SAIS, search", f, base, _tried(_ours(comparison, f), comparison)) for f in comparison.own_factors
    ]
    for key in comparison.peers:
        title = PEERS[key].title
        tried = {factor: _tried(_plan(key, comparison, factor, 0), comparison) for factor in comparison.factors}
        searches += [_found(f"{title}, search", factor, base, one) for factor, one in tried.items()]
        learnt = {factor: _mask_ap(one) for factor, one in tried.items() if one is not None}
        if not learnt:
            continue
        best = max(learnt, key=lambda factor: learnt[factor])
        seeds = [_plan(key, comparison, best, seed) for seed in comparison.peer_seeds]
        groups.append((title, make_runs(seeds, comparison.data, comparison.out)))
    tables: list[tuple[Sequence[str], Sequence[Sequence[str]]]] = [
        (COLUMNS, [_line(title, results) for title, results in groups]),
        (COLUMNS, searches),
    ]
    intro = _intro(groups[0][1])
    state = {"kind": "plain", "title": "SAIS and its peers: accuracy", "intro": intro, "tables": tables}
    write_text(comparison.out / "peers.json", json.dumps(state | {"command": comparison.command}, indent=1) + "\n")
    text = "\n\n".join(["## SAIS and its peers: accuracy", intro, *(markdown_table(*table) for table in tables)]) + "\n"
    write_text(comparison.out / "peers.md", text)
    page(comparison.out)
    return text


def _ours(comparison: Comparison, factor: float) -> RunPlan:
    base, _ = base_experiment(comparison.budget)
    return plan_of("sais", 0, changed(base, "optim", lr=base.optim.lr * factor), comparison.budget)


def _tried(plan: RunPlan, comparison: Comparison) -> RunResult | None:
    """The run's result; None where it diverges, which a search must survive."""
    try:
        (result,) = make_runs([plan], comparison.data, comparison.out)
    except SaisError as error:
        if "the loss is" not in str(error):
            raise
        print(f"{plan.row} at lr {plan.experiment.optim.lr:g}: {error}")
        return None
    return result


def _mask_ap(result: RunResult) -> float:
    return (result.metrics["mask"] or {}).get("AP") or 0.0


def _found(title: str, factor: float, base: Experiment, result: RunResult | None) -> list[str]:
    if result is not None:
        return _line(title, [result])
    return [title, f"{base.optim.lr * factor:g}", "diverged", *["-"] * (len(COLUMNS) - 3)]


def _plan(key: str, comparison: Comparison, factor: float, seed: int) -> RunPlan:
    peer = PEERS[key]
    base, _ = base_experiment(comparison.budget)
    clip = peer.clip if peer.clip is not None else base.optim.grad_clip_norm
    experiment = changed(changed(base, "optim", lr=base.optim.lr * factor, clip=clip), "run", seed=seed)
    named = replace(experiment, name=f"{base.name}-{key}")
    return RunPlan(key, named, peer.system, comparison.budget.iterations, comparison.budget.random_init)


def _line(title: str, results: Sequence[RunResult]) -> list[str]:
    figures = [("box", "AP"), *(("mask", name) for name in ("AP", "AP50", "AP75", "APm", "APl"))]
    seeds = " ".join(str(result.seed) for result in results)
    rate = f"{results[0].experiment['optim']['lr']:g}"
    return [title, rate, seeds, *(_spread(kind, name, results) for kind, name in figures)]


def _spread(kind: str, name: str, results: Sequence[RunResult]) -> str:
    scores = [(result.metrics[kind] or {}).get(name) for result in results]
    values = [100 * score for score in scores if score is not None]
    if not values:
        return "-"
    mean = f"{sum(values) / len(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.1f}-{max(values):.1f})"


def _intro(results: Sequence[RunResult]) -> str:
    said = conditions(results)
    parts = "; ".join(said[name] for name in ("data", "schedule", "input", "backbone", "machine"))
    return (
        f"Measured: {parts}. AP in percent, the mean and (least-greatest) over seeds, of the last weights. All share "
        "images, input, backbone, optimizer and schedule; a peer's learning rate is the best of the search below, "
        "which is judged on the same validation images. YOLACT's gradient is clipped at 10. Below 256 channels Mask "
        "R-CNN trains on 64 regions and 8 masks an image and looks at 300 proposals in the test; its anchors are not "
        "scaled with the input, nor are SAIS' levels."
    )
