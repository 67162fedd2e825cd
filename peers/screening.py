"""Screening: variants of a recipe, trained one after the other with a short budget and compared.

    python -m peers.screening --plan plan.yaml --minutes 60 --out runs/screening

A plan is a YAML or JSON file. Its settings have the names of a settings file (`sais.recipes.settings_file`):

    recipe: sais-lite
    data: animals
    settings: {size: 192, epochs: 6}
    seeds: [0, 1]
    variants:
      baseline: {}
      half the learning rate: {lr: 5e-4}
      wider boxes: {criterion.mask_margin: 0.1, postprocess.mask_margin: 0.1}

`settings` are those of all variants, and the other variants are compared with the first. A run is kept by a digest of
everything that determines its numbers (`sais.paper.runs`): the same command continues where it stopped, and a variant
that another plan has already measured in the same folder is not run again. AP is that of the last epoch's weights. With
one or two seeds and a short budget, differences are hints and not results.
"""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from peers.entry import run_main
from sais.commands.arguments import check_writable, parse, prepare_torch
from sais.config import Experiment, flatten, to_dict
from sais.data.paths import DataPaths
from sais.errors import ConfigError
from sais.io.atomic import write_text
from sais.paper.comparison import markdown_table
from sais.paper.runs import RunPlan, RunResult, describe_data, run_plans
from sais.paper.sweep import CHECKPOINT_EVERY
from sais.recipes import recipe
from sais.recipes.adjust import check_experiment, replace_settings
from sais.recipes.settings_file import apply_settings, read_document, settings_by_name

METRICS = {
    "mask AP": ("mask", "AP"),
    "mask AP50": ("mask", "AP50"),
    "mask AP75": ("mask", "AP75"),
    "box AP": ("box", "AP"),
}
"""Column -> type and name of a metric."""
ENTRIES = ("recipe", "data", "settings", "seeds", "variants")
"""Entries of a plan."""


@dataclass(frozen=True)
class Plan:
    """The runs of a screening."""

    data: DataPaths
    seeds: tuple[int, ...]
    variants: dict[str, Experiment]
    """Name of each variant -> its settings. The first is the one that the others are compared with."""

    def runs(self) -> list[tuple[str, RunPlan]]:
        """Return the variants and their runs, seed by seed, so that every variant has one seed before any has two."""
        return [
            (name, RunPlan(file_name(name), replace_settings(experiment, "run", seed=seed)))
            for seed in self.seeds
            for name, experiment in self.variants.items()
        ]


def file_name(variant: str) -> str:
    """Return the name of a variant as part of a file name."""
    return re.sub(r"[^A-Za-z0-9_.]+", "-", variant).strip("-.")[:60] or "variant"


def read_plan(path: Path) -> Plan:
    """Read a plan.

    Raises:
        ConfigError: the file is not a plan, or a setting is unknown or out of range.
        InputError: the file or the data set does not exist.
    """
    document = read_document(path)
    is_plan = isinstance(document, dict) and not set(document) - set(ENTRIES)
    if not is_plan or not document.get("variants") or not document.get("data"):
        raise ConfigError(f"{path}: not a plan. Give the entries {', '.join(ENTRIES)}; data and variants are required.")
    seeds = document.get("seeds", [0])
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int for seed in seeds):
        raise ConfigError(f"{path}: seeds {seeds!r:.100} is not a list of numbers. Write seeds: [0, 1].")
    start = recipe(str(document.get("recipe", "sais-lite")))
    shared = _group(path, "settings", document.get("settings"))
    variants = _group(path, "variants", document["variants"])
    experiments = {
        str(name): _experiment(start, shared, _group(path, f"variants: {name}", settings), f"{path}: {name}")
        for name, settings in variants.items()
    }
    return Plan(DataPaths(Path(str(document["data"]))), tuple(seeds), experiments)


def _group(path: Path, name: str, value: Any) -> Mapping[str, Any]:
    if value is not None and not isinstance(value, Mapping):
        raise ConfigError(f"{path}: {name} is not a group of settings. Write it as name: value.")
    return value or {}


def _experiment(start: Experiment, shared: Mapping[str, Any], own: Mapping[str, Any], where: str) -> Experiment:
    """Return the settings of a variant: those of the recipe, of all variants, and its own, in this order."""
    values = settings_by_name(shared, where) | settings_by_name(own, where)
    experiment, _ = apply_settings(start, values, where)
    experiment = replace_settings(experiment, "run", evaluate_every=0, checkpoint_every=CHECKPOINT_EVERY)
    check_experiment(experiment)
    return experiment


def screen(plan: Plan, out: Path, minutes: float, log: Callable[[str], None] = print) -> dict[str, list[RunResult]]:
    """Run what has no result yet, one run after the other.

    Args:
        plan: the runs.
        out: folder of runs and results.
        minutes: no run starts that would end later, judged by the longest run of this call.
        log: function that receives one line of progress.

    Returns:
        Name of each variant -> its results, in the order of the seeds; runs that are left have none.
    """
    train_split = plan.data.read_train()
    valid_split = plan.data.read_valid(train_split.class_names)
    description = {} if valid_split is None else describe_data(train_split, valid_split, plan.data.name)
    results: dict[str, list[RunResult]] = {name: [] for name in plan.variants}
    start, longest, left = time.monotonic(), 0.0, []
    for name, run in plan.runs():
        began = time.monotonic()
        label = f"{name}, seed {run.experiment.run.seed}"
        is_measured = (out / "results" / f"{run.name(description, out)}.json").is_file()
        if not is_measured and began - start + longest > 60 * minutes:
            left.append(label)
            continue
        (result,) = run_plans([run], plan.data, out, log=lambda line: None)
        results[name].append(result)
        if not is_measured:
            longest = max(longest, time.monotonic() - began)
            log(f"{label}: " + ", ".join(f"{metric} {100 * _metric(result, metric):.1f}" for metric in METRICS))
    if left:
        log(f"{len(left)} runs left: {'; '.join(left)}. The same command continues.")
    return results


def table_rows(results: Mapping[str, Sequence[RunResult]]) -> list[list[str]]:
    """Format the results as table rows, see `COLUMNS`.

    Args:
        results: name of each variant -> its results; the others are compared with the first, seed by seed.
    """
    baseline = {result.seed: result for result in next(iter(results.values()))}
    rows = []
    for name, runs in results.items():
        gains = [
            f"{100 * (_metric(run, 'mask AP') - _metric(baseline[run.seed], 'mask AP')):+.1f}"
            for run in runs
            if run.seed in baseline and baseline[run.seed] is not run
        ]
        minutes = [run.seconds / 60 for run in runs]
        rows.append(
            [
                name,
                " ".join(str(run.seed) for run in runs) or "-",
                *(mean_and_range([100 * _metric(run, metric) for run in runs]) for metric in METRICS),
                " ".join(gains) or "-",
                mean_and_range(minutes),
            ]
        )
    return rows


COLUMNS = ("variant", "seeds", *METRICS, "mask AP relative to the first, by seed", "minutes")


def write_results(plan: Plan, results: Mapping[str, Sequence[RunResult]], out: Path, command: str) -> str:
    """Write `screening.json` and `screening.md` to the folder `out`; returns the latter."""
    baseline = flatten(to_dict(next(iter(plan.variants.values()))))
    variants = []
    for name, runs in results.items():
        settings = flatten(to_dict(plan.variants[name]))
        changes = {key: value for key, value in settings.items() if value != baseline[key]}
        variants.append({"name": name, "changes": changes, "results": [asdict(run) for run in runs]})
    state = {"command": command, "data": plan.data.name, "columns": COLUMNS, "variants": variants}
    write_text(out / "screening.json", json.dumps(state, indent=1) + "\n")
    intro = f"`{command}`. AP in percent of the last epoch's weights: mean (minimum-maximum)."
    text = f"## Screening\n\n{intro}\n\n{markdown_table(COLUMNS, table_rows(results))}\n"
    write_text(out / "screening.md", text)
    return text


def _metric(result: RunResult, name: str) -> float:
    kind, metric = METRICS[name]
    return float((result.metrics[kind] or {}).get(metric) or 0.0)


def mean_and_range(values: Sequence[float]) -> str:
    if not values:
        return "-"
    mean = f"{sum(values) / len(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.1f}-{max(values):.1f})"


@dataclass(frozen=True)
class Arguments:
    """Train variants of a recipe with a short budget, one after the other, and compare them; see peers/README.md."""

    plan: Path
    """Plan of the screening, a YAML or JSON file."""
    out: Path = Path("runs/screening")
    """Folder of runs and results."""
    minutes: float = 60.0
    """Start no run that would end after this time, in minutes."""


def main(argv: Sequence[str]) -> int:
    """Run `python -m peers.screening`."""
    arguments = parse(Arguments, argv, "python -m peers.screening")
    prepare_torch("peers")
    check_writable(arguments.out)
    plan = read_plan(arguments.plan)
    results = screen(plan, arguments.out, arguments.minutes)
    print(write_results(plan, results, arguments.out, shlex.join(["python", "-m", "peers.screening", *argv])))
    return 0


if __name__ == "__main__":
    run_main(main)
