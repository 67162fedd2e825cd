"""Few images: mask AP over the number of training images, with the settings that `sais train` chooses for each.

    python -m peers few-images --data animals --images 20 80 200 700 --recipes sais-lite --seeds 0 1 2

The training images are the first N of one random order, so that a smaller list is a part of a larger one. The order is
written to the output folder when it is first needed, and read from there afterwards. For each list, a recipe is trained
as `sais train RECIPE` trains on those images: the sais-lite family chooses input size, epochs, batch size and zoom from
them (`sais.recipes.from_data`), as `sais doctor` recommends. The weights of the last epoch are evaluated on the whole
validation split. The same command continues where it stopped (`peers.measured_runs`).
"""

from __future__ import annotations

import json
import random
import shlex
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from peers.entry import run_main
from peers.measured_runs import MeasuredData, MeasuredRun, measure_run, read_measured_data, train_settings
from peers.screening import file_name, mean_and_range
from sais.commands.arguments import Count, Seed, Workers, check_writable, parse, prepare_torch
from sais.data.annotations import DatasetSplit
from sais.data.paths import DataPaths
from sais.engine.environment import format_environment
from sais.errors import ConfigError, InputError
from sais.io.atomic import write_text
from sais.paper.comparison import markdown_table
from sais.paper.runs import RunPlan
from sais.recipes.adjust import replace_settings
from sais.reports.charts import SERIES_COLORS, render_svg

LIST_FILE, FIGURE = "training-images.json", "few-images.svg"
"""Files in the output folder: the order of the training images, and the figure."""
COLUMNS = (
    *("recipe", "images", "objects", "input", "epochs", "batch size", "steps", "seeds"),
    *("mask AP", "mask AP50", "mask AP75", "box AP", "core-minutes", "minutes"),
)
MARKERS = "osD^vP"
"""Markers of the recipes in the figure."""

Results = Mapping[tuple[str, int], Sequence[MeasuredRun]]
"""(recipe, number of training images) -> its runs, in the order of the seeds."""


@dataclass(frozen=True)
class Arguments:
    """Train recipes on few and on more images of one data set, and draw mask AP; see peers/README.md."""

    data: Path = Path("animals")
    """Folder of the data set, or its name in $SAIS_DATA."""
    images: tuple[Count, ...] = (20, 80, 200, 700)
    """Numbers of training images."""
    recipes: tuple[str, ...] = ("sais-lite", "sais-lite-small-data")
    """Recipes, settings files, or module:function of your own."""
    seeds: tuple[Seed, ...] = (0, 1, 2)
    """Seeds of the runs; the lists of images are the same for all."""
    workers: Workers | None = None
    """Number of processes that read images. Default: that of the recipe."""
    device: str = "auto"
    """Device: auto, cpu or cuda."""
    out: Path = Path("runs/few-images")
    """Folder of runs, results, the list of images and the figure."""


def few_images(
    arguments: Arguments, command: str = "python -m peers few-images", log: Callable[[str], None] = print
) -> Results:
    """Run what has no result yet; write the results after each run.

    Args:
        arguments: recipes, data and numbers of images.
        command: command line, for the results.
        log: function that receives one line of progress.

    Raises:
        ConfigError: no recipe, number of images or seed; or a setting is out of range. Raised before training.
        InputError: too few training images, no validation split with masks, or the list in the output folder is of
            other images.
    """
    for name in ("recipes", "images", "seeds"):
        if not getattr(arguments, name):
            raise ConfigError(f"few-images: no {name}. Give one or more.")
    paths = DataPaths(arguments.data)
    data = read_measured_data(paths)
    numbers, recipes = sorted(set(arguments.images)), list(dict.fromkeys(arguments.recipes))
    if numbers[-1] > len(data.train.images):
        raise InputError(
            f"few-images: {numbers[-1]} images, but {data.name} has {len(data.train.images)} training images. Give "
            "smaller numbers."
        )
    order = image_order(data.train, arguments.out / LIST_FILE)
    parts = {number: replace(data, train=first_images(data.train, order, number)) for number in numbers}
    options = ["--device", arguments.device]
    options += [] if arguments.workers is None else ["--workers", str(arguments.workers)]
    keys = [(recipe, number) for number in numbers for recipe in recipes]
    settings = {key: train_settings(key[0], paths, parts[key[1]].train, options) for key in keys}
    results: dict[tuple[str, int], list[MeasuredRun]] = {(r, n): [] for r in recipes for n in numbers}
    for seed in dict.fromkeys(arguments.seeds):
        for recipe, number in keys:
            label = f"{recipe}, {number} images, seed {seed}"
            log(label)
            experiment = replace_settings(settings[recipe, number], "run", seed=seed)
            plan = RunPlan(f"{file_name(recipe)}-{number}", experiment)
            run = measure_run(plan, parts[number], arguments.out, each_epoch=False)
            results[recipe, number].append(run)
            log(f"{label}: mask AP {run.mask_ap:.3f} in {run.core_seconds / 60:.1f} core-minutes")
            write_results(data, arguments.out, results, command)
    return results


def image_order(split: DatasetSplit, path: Path) -> list[int]:
    """Read the random order of a split's images, or draw it and write it.

    Args:
        split: training split.
        path: file of the order, JSON.

    Returns:
        Positions in `split.images`.

    Raises:
        InputError: the file has the order of other images.
    """
    images = [{"id": record.id, "name": record.name} for record in split.images]
    positions = {json.dumps(image): position for position, image in enumerate(images)}
    if not path.exists():
        order = random.Random(0).sample(range(len(images)), len(images))
        lines = ",\n".join(json.dumps(images[position]) for position in order)
        write_text(path, f"[\n{lines}\n]\n")
    try:
        stored = [json.dumps(image) for image in json.loads(path.read_text(encoding="utf-8"))]
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: not a list of images ({error}). Choose another output folder.") from error
    if sorted(stored) != sorted(positions):
        raise InputError(f"{path}: a list of other images than those of {split.name}. Choose another output folder.")
    return [positions[image] for image in stored]


def first_images(split: DatasetSplit, order: Sequence[int], number: int) -> DatasetSplit:
    """Return the split with the first images of an order alone, and all classes.

    Args:
        split: the whole split.
        order: positions in `split.images`.
        number: number of images.
    """
    return replace(split, images=tuple(split.images[position] for position in order[:number]))


def table_rows(results: Results) -> list[list[str]]:
    """Format a row for each recipe and number of images that has a run, see `COLUMNS`."""
    rows = []
    for (recipe, number), runs in results.items():
        if not runs:
            continue
        first = runs[0].result
        height, width = first.experiment["input"]["size"]
        metrics = [("mask", "AP"), ("mask", "AP50"), ("mask", "AP75"), ("box", "AP")]
        rows.append(
            [
                recipe,
                str(number),
                str(first.data["train"]["objects"]),
                f"{height}x{width}",
                str(first.experiment["schedule"]["epochs"]),
                str(first.experiment["optim"]["batch_size"]),
                str(first.iterations),
                " ".join(str(run.result.seed) for run in runs),
                *(mean_and_range([100 * run.metric(*metric) for run in runs]) for metric in metrics),
                mean_and_range([run.core_seconds / 60 for run in runs]),
                mean_and_range([run.result.seconds / 60 for run in runs]),
            ]
        )
    return rows


def plot(results: Results, data_name: str) -> str:
    """Plot mask AP over the number of images: a line through the means of each recipe, a point for each seed.

    Args:
        results: one or more runs.
        data_name: name of the data set.

    Returns:
        An <svg> element.
    """
    recipes = list(dict.fromkeys(recipe for recipe, _ in results))
    numbers = sorted({number for (_, number), runs in results.items() if runs})

    def draw(figure: Any) -> None:
        """Draw the curves on an empty figure."""
        figure.set_facecolor("white")  # it is shown on its own, not in a page with a color scheme
        axes = figure.subplots()
        for index, recipe in enumerate(recipes):
            scores = {n: [100 * run.mask_ap for run in results[recipe, n]] for n in numbers if results[recipe, n]}
            style = {"color": SERIES_COLORS[index % len(SERIES_COLORS)], "marker": MARKERS[index % len(MARKERS)]}
            axes.plot(
                list(scores), [statistics.fmean(s) for s in scores.values()], label=recipe, linewidth=1.8, **style
            )
            points = [(number, score) for number, values in scores.items() for score in values if len(values) > 1]
            if points:
                axes.scatter(*zip(*points, strict=True), s=18, alpha=0.45, linewidths=0, **style)
        axes.set_xscale("log")
        axes.set_xticks(numbers, [str(number) for number in numbers])
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
        axes.grid(axis="y")
        axes.set_xlabel(f"training images of {data_name}")
        axes.set_ylabel("mask AP")
        axes.legend(loc="lower right")

    label = f"Mask AP over the number of training images of {data_name}"
    return render_svg("few-images", label, (560, 360), draw, layout="constrained")


def write_results(data: MeasuredData, out: Path, results: Results, command: str) -> str:
    """Write `few-images.json`, `few-images.md` and the figure to the folder `out`; returns the text.

    Args:
        data: the whole data set.
        out: folder of runs and results.
        results: one or more runs.
        command: command line.
    """
    rows, machine = table_rows(results), next(runs[0] for runs in results.values() if runs).result.machine
    runs = [
        {"recipe": recipe, "images": number, **asdict(run)}
        for (recipe, number), runs in results.items()
        for run in runs
    ]
    state = {"command": command, "data": data.name, "machine": machine, "columns": COLUMNS, "rows": rows, "runs": runs}
    write_text(out / "few-images.json", json.dumps(state, indent=1) + "\n")
    write_text(out / FIGURE, plot(results, data.name) + "\n")
    intro = (
        f"`{command}`: {format_environment(machine)}. Trained on the first images of one random order ({LIST_FILE}) of "
        f"{data.name}, with the settings that `sais train` chooses for them; evaluated on all {len(data.valid.images)} "
        "validation images. AP in percent of the last epoch's weights: mean (minimum-maximum) over seeds. Core-minutes "
        "are those of training."
    )
    figure = f"![Mask AP over the number of training images]({FIGURE})"
    text = "\n\n".join(["## Few images", intro, markdown_table(COLUMNS, rows), figure]) + "\n"
    write_text(out / "few-images.md", text)
    return text


def main(argv: Sequence[str]) -> int:
    """Run `python -m peers few-images`."""
    arguments = parse(Arguments, argv, "python -m peers few-images")
    prepare_torch("peers")
    check_writable(arguments.out)
    few_images(arguments, shlex.join(["python", "-m", "peers", "few-images", *argv]))
    print((arguments.out / "few-images.md").read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    run_main(main)
