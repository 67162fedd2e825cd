"""Texts of the reproduction's reports: conditions of a measurement, numbers of epochs, differences, lists."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from sais.paper.tables import ROWS

if TYPE_CHECKING:
    from sais.paper.runs import RunResult


def describe_conditions(results: Sequence[RunResult]) -> dict[str, str]:
    """Describe what was measured: "data", "schedule", "input", "backbone", "seeds" and "machine".

    Where rows differ in one of these, each value is followed by the rows that have it.
    """
    from sais.engine.environment import format_environment

    return {
        "data": _by_value(results, _describe_data),
        "schedule": _by_value(results, _describe_schedule),
        "input": _by_value(results, _describe_input),
        "backbone": _by_value(results, _describe_backbone),
        "seeds": format_list(sorted({result.seed for result in results})),
        "machine": _by_value(results, lambda result: format_environment(result.machine)),
    }


def format_epochs(results: Sequence[RunResult]) -> str:
    """Format the number of epochs, such as "6 epochs"; several numbers where rows differ."""
    lengths = sorted({int(result.experiment["schedule"]["epochs"]) for result in results})
    return f"{format_list(lengths)} epoch{'s' if lengths != [1] else ''}"


def format_difference(value: float) -> str:
    """Format a difference with its sign: "+0.4", "-1.2", "0.0"."""
    return f"{value:+.1f}" if round(value, 1) else "0.0"


def format_list(numbers: Iterable[int]) -> str:
    """Format numbers separated by commas: "0, 1, 2"."""
    return ", ".join(map(str, numbers))


def _by_value(results: Sequence[RunResult], describe: Callable[[RunResult], str]) -> str:
    """The description that all results share, or each description with the rows, or runs, that have it."""
    by_text: dict[str, list[RunResult]] = {}
    for result in results:
        by_text.setdefault(describe(result), []).append(result)
    if len(by_text) == 1:
        return next(iter(by_text))
    parts = []
    for text, group in by_text.items():
        names = []
        for row in dict.fromkeys(result.row for result in group):
            seeds = sorted({result.seed for result in group if result.row == row})
            all_seeds = len(seeds) == len({result.seed for result in results if result.row == row})
            title = ROWS[row].title if row in ROWS else row
            names.append(title if all_seeds else f"{title}, seed {format_list(seeds)}")
        parts.append(f"{text} [{'; '.join(names)}]")
    return " and ".join(parts)


def _describe_data(result: RunResult) -> str:
    data = result.data
    train, valid = (f"{data[s]['images']} images with {data[s]['objects']} objects" for s in ("train", "valid"))
    count = len(data["classes"])
    classes = f"{count} class{'es' if count != 1 else ''}"
    skipped = f", {result.unreadable_images} unreadable images skipped" if result.unreadable_images else ""
    return f"{data['name']} (training: {train}; validation: {valid}; {classes}{skipped})"


def _describe_schedule(result: RunResult) -> str:
    settings = result.experiment
    base = settings["name"].removesuffix(f"-{result.row}")
    optim, epochs = settings["optim"], settings["schedule"]["epochs"]
    batch_size = optim["batch_size"]
    images, planned = result.iterations * batch_size, epochs * result.data["train"]["images"]
    # An epoch leaves out the images of an incomplete batch, which is no early stop.
    early = " (stopped early)" if images + epochs * batch_size < planned else ""
    return (
        f"recipe {base}, {epochs} epoch{'s' if epochs != 1 else ''}, {result.iterations} iterations{early} of "
        f"{batch_size} images, {optim['name']} with lr {optim['lr']:g}"
    )


def _describe_input(result: RunResult) -> str:
    settings = result.experiment["input"]
    height, width = settings["size"]
    return f"{width}x{height} fixed" if settings["mode"] == "fixed" else f"{width}x{height} with the ratio kept"


def _describe_backbone(result: RunResult) -> str:
    model = result.experiment["model"]
    return f"{model['backbone']} from {'ImageNet' if model['pretrained'] else 'random'} weights"
