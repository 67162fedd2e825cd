"""Speedrun: the core-minutes in which recipes learn to find masks with a given AP, compared on one machine.

    python -m peers speedrun --data animals --target 0.53 --recipes sais-lite sais-lite-small-data --seeds 0 1 2

The learning rate of a schedule falls until its last epoch, so that the weights in the middle of a long schedule say
nothing about a short one. Therefore each of `--epochs` is a run of its own with a complete schedule, the smallest
number first, and a recipe reaches the target at the smallest number whose last epoch's weights (the moving average, if
the recipe has one) have the target's mask AP or more on the validation split. Settings counted in epochs, such as the
growth of the input, change in proportion, as with `sais train RECIPE --epochs N`. What counts is the processor time of
that run: of the process and of those that read images, without evaluations. All recipes run in turns, so that a change
of the machine's load concerns each of them. The same command continues where it stopped (`peers.measured_runs`).
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from peers.entry import run_main
from peers.measured_runs import MeasuredData, MeasuredRun, measure_run, read_measured_data, train_settings
from peers.screening import file_name, mean_and_range
from sais.commands.arguments import Count, Seed, Workers, check_writable, parse, prepare_torch
from sais.commands.options import Maximum, Minimum
from sais.config import Experiment
from sais.data.paths import DataPaths
from sais.engine.environment import format_environment
from sais.errors import ConfigError
from sais.io.atomic import write_text
from sais.paper.comparison import markdown_table
from sais.paper.runs import RunPlan
from sais.recipes.adjust import replace_settings

COLUMNS = (
    *("recipe", "reached", "epochs", "core-minutes", "core-minutes relative to the first, by seed"),
    *("mask AP", "minutes", "core-minutes of evaluations"),
)
"""Columns of the recipes; all but "reached" are of the runs that reached the target, in the order of the seeds."""
RUN_COLUMNS = ("recipe", "seed", "epochs", "steps", "input", "mask AP", "box AP", "core-minutes", "minutes", "reached")


@dataclass(frozen=True)
class Arguments:
    """Measure the core-minutes in which recipes reach a mask AP on one data set; see peers/README.md."""

    data: Path = Path("animals")
    """Folder of the data set, or its name in $SAIS_DATA."""
    target: Annotated[float, Minimum(0), Maximum(1)] = 0.53
    """Mask AP to reach on the validation split, as a fraction of 1."""
    recipes: tuple[str, ...] = ("sais-lite", "sais-lite-small-data")
    """Recipes, settings files, or module:function of your own. The others are compared with the first."""
    epochs: tuple[Count, ...] = (6, 8, 10, 12, 15, 20)
    """Numbers of epochs, each a complete schedule; the smallest that ends at the target counts."""
    seeds: tuple[Seed, ...] = (0, 1, 2)
    """Seeds."""
    workers: Workers | None = None
    """Number of processes that read images. Default: that of the recipe."""
    device: str = "auto"
    """Device: auto, cpu or cuda. On a GPU, compare minutes: its time is not processor time."""
    out: Path = Path("runs/speedrun")
    """Folder of runs and results."""


@dataclass(frozen=True)
class Attempt:
    """A run of the speedrun."""

    recipe: str
    epochs: int
    reached: bool
    """Whether the last epoch's weights have the target AP."""
    run: MeasuredRun

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return self.run.result.seed


def speedrun(
    arguments: Arguments, command: str = "python -m peers speedrun", log: Callable[[str], None] = print
) -> list[Attempt]:
    """Run every schedule that is needed and has no result yet; write the results after each run.

    Args:
        arguments: recipes, data and target.
        command: command line, for the results.
        log: function that receives one line of progress.

    Raises:
        ConfigError: no recipe, number of epochs or seed; or a setting is out of range. Raised before training.
        InputError: the data set has no validation split with masks.
    """
    paths = DataPaths(arguments.data)
    data = read_measured_data(paths)
    settings = _settings(arguments, paths, data)
    attempts: list[Attempt] = []
    for seed in dict.fromkeys(arguments.seeds):
        for epochs in sorted(set(arguments.epochs)):
            for recipe in dict.fromkeys(arguments.recipes):
                if any(a.reached and (a.recipe, a.seed) == (recipe, seed) for a in attempts):
                    continue
                experiment = replace_settings(settings[recipe, epochs], "run", seed=seed)
                label = f"{recipe}, {epochs} epoch{'s' if epochs > 1 else ''}, seed {seed}"
                log(label)
                run = measure_run(RunPlan(file_name(recipe), experiment), data, arguments.out, each_epoch=True)
                attempts.append(Attempt(recipe, epochs, run.mask_ap >= arguments.target, run))
                log(f"{label}: mask AP {run.mask_ap:.3f} in {run.core_seconds / 60:.1f} core-minutes")
                write_results(arguments, attempts, command)
    return attempts


def _settings(arguments: Arguments, paths: DataPaths, data: MeasuredData) -> dict[tuple[str, int], Experiment]:
    """Return the settings of each recipe and number of epochs."""
    for name in ("recipes", "epochs", "seeds"):
        if not getattr(arguments, name):
            raise ConfigError(f"speedrun: no {name}. Give one or more.")
    options = ["--device", arguments.device]
    options += [] if arguments.workers is None else ["--workers", str(arguments.workers)]
    return {
        (recipe, epochs): train_settings(recipe, paths, data.train, [*options, "--epochs", str(epochs)])
        for recipe in arguments.recipes
        for epochs in arguments.epochs
    }


def table_rows(attempts: Sequence[Attempt]) -> list[list[str]]:
    """Format a row for each recipe, see `COLUMNS`.

    Core-minutes are given where every seed reached the target: those of the quick seeds alone would mislead.

    Args:
        attempts: all runs; the first one is of the recipe that the others are compared with.
    """
    recipes = list(dict.fromkeys(attempt.recipe for attempt in attempts))
    reached = {name: {a.seed: a for a in attempts if a.recipe == name and a.reached} for name in recipes}
    rows = []
    for name in recipes:
        seeds = list(dict.fromkeys(attempt.seed for attempt in attempts if attempt.recipe == name))
        best = [reached[name][seed] for seed in seeds if seed in reached[name]]
        complete = best if len(best) == len(seeds) else []
        first = reached[recipes[0]]
        ratios = [f"{a.run.core_seconds / first[a.seed].run.core_seconds:.2f}" for a in best if a.seed in first]
        rows.append(
            [
                name,
                f"{len(best)} of {len(seeds)} seeds",
                " ".join(str(attempt.epochs) for attempt in best) or "-",
                mean_and_range([attempt.run.core_seconds / 60 for attempt in complete]),
                "1" if name == recipes[0] else " ".join(ratios) or "-",
                mean_and_range([100 * attempt.run.mask_ap for attempt in best]),
                mean_and_range([attempt.run.result.seconds / 60 for attempt in complete]),
                mean_and_range([attempt.run.evaluation_core_seconds / 60 for attempt in complete]),
            ]
        )
    return rows


def _run_row(attempt: Attempt) -> list[str]:
    """Format the row of a run, see `RUN_COLUMNS`."""
    run, result = attempt.run, attempt.run.result
    height, width = result.experiment["input"]["size"]
    return [
        attempt.recipe,
        str(attempt.seed),
        str(attempt.epochs),
        str(result.iterations),
        f"{height}x{width}",
        f"{100 * run.mask_ap:.1f}",
        f"{100 * run.metric('box', 'AP'):.1f}",
        f"{run.core_seconds / 60:.1f}",
        f"{result.seconds / 60:.1f}",
        "yes" if attempt.reached else "no",
    ]


def write_results(arguments: Arguments, attempts: Sequence[Attempt], command: str) -> str:
    """Write `speedrun.json` and `speedrun.md` to the output folder; returns the latter.

    Args:
        arguments: recipes, data and target.
        attempts: one or more runs.
        command: command line.
    """
    rows, result = table_rows(attempts), attempts[0].run.result
    state = {"command": command, "data": result.data["name"], "target": arguments.target, "machine": result.machine}
    state |= {"columns": COLUMNS, "rows": rows, "runs": [asdict(attempt) for attempt in attempts]}
    write_text(arguments.out / "speedrun.json", json.dumps(state, indent=1) + "\n")
    intro = (
        f"`{command}`: {format_environment(result.machine)}. Core-minutes of training, without evaluations, until the "
        f"last epoch's weights have mask AP {100 * arguments.target:.1f} on {result.data['name']}, "
        f"{result.data['valid']['images']} validation images: those of the smallest number of epochs whose complete "
        "schedule ends there. Mean (minimum-maximum) over seeds; AP in percent."
    )
    tables = [markdown_table(COLUMNS, rows), markdown_table(RUN_COLUMNS, [_run_row(a) for a in attempts])]
    text = "\n\n".join(["## Speedrun", intro, *tables]) + "\n"
    write_text(arguments.out / "speedrun.md", text)
    return text


def main(argv: Sequence[str]) -> int:
    """Run `python -m peers speedrun`."""
    arguments = parse(Arguments, argv, "python -m peers speedrun")
    prepare_torch("peers")
    check_writable(arguments.out)
    command = shlex.join(["python", "-m", "peers", "speedrun", *argv])
    print(write_results(arguments, speedrun(arguments, command), command))
    return 0


if __name__ == "__main__":
    run_main(main)
