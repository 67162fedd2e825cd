"""How a report says things: what results were measured on and with, lengths of time, differences."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from sais.paper.tables import ROWS

if TYPE_CHECKING:
    from sais.paper.runs import RunResult


def conditions(results: Sequence[RunResult]) -> dict[str, str]:
    """What the measured column is of: "data", "schedule", "input", "backbone", "seeds" and "machine".

    Where rows differ in one of these, each value is followed by the rows that have it.
    """
    from sais.engine.environment import format_environment

    return {
        "data": _each(results, _data_in_words),
        "schedule": _each(results, _schedule_in_words),
        "input": _each(results, _input_in_words),
        "backbone": _each(results, _backbone_in_words),
        "seeds": listed(sorted({result.seed for result in results})),
        "machine": _each(results, lambda result: format_environment(result.machine)),
    }


def epochs_in_words(results: Sequence[RunResult]) -> str:
    """6 epochs; several lengths where rows differ."""
    lengths = sorted({int(result.experiment["schedule"]["epochs"]) for result in results})
    return f"{listed(lengths)} epoch{'s' if lengths != [1] else ''}"


def signed(value: float) -> str:
    """+0.4, -1.2, 0.0."""
    return f"{value:+.1f}" if round(value, 1) else "0.0"


def listed(numbers: Iterable[int]) -> str:
    """0, 1, 2."""
    return ", ".join(map(str, numbers))


def _each(results: Sequence[RunResult], words: Callable[[RunResult], str]) -> str:
    """What all results share, once; or each value with the rows (or runs) that have it."""
    who: dict[str, list[RunResult]] = {}
    for result in results:
        who.setdefault(words(result), []).append(result)
    if len(who) == 1:
        return next(iter(who))
    parts = []
    for text, mine in who.items():
        names = []
        for row in dict.fromkeys(result.row for result in mine):
            seeds = sorted({result.seed for result in mine if result.row == row})
            whole = len(seeds) == len({result.seed for result in results if result.row == row})
            title = ROWS[row].title if row in ROWS else row
            names.append(title if whole else f"{title}, seed {listed(seeds)}")
        parts.append(f"{text} [{'; '.join(names)}]")
    return " and ".join(parts)


def _data_in_words(result: RunResult) -> str:
    data = result.data
    train, valid = (f"{data[s]['images']} images with {data[s]['objects']} objects" for s in ("train", "valid"))
    count = len(data["classes"])
    classes = f"{count} class{'es' if count != 1 else ''}"
    broken = f", {result.left_out} unreadable images left out" if result.left_out else ""
    return f"{data['name']} ({train} to learn from, {valid} to be measured on, {classes}{broken})"


def _schedule_in_words(result: RunResult) -> str:
    settings = result.experiment
    base = settings["name"].removesuffix(f"-{result.row}")
    optim, epochs = settings["optim"], settings["schedule"]["epochs"]
    images, wanted = result.iterations * optim["batch"], epochs * result.data["train"]["images"]
    # Drawing whole batches leaves out up to a batch of images an epoch, which is no early stop.
    early = " (stopped early)" if images + epochs * optim["batch"] < wanted else ""
    return (
        f"recipe {base}, {epochs} epoch{'s' if epochs != 1 else ''}, {result.iterations} iterations{early} of "
        f"{optim['batch']} images, {optim['name']} with lr {optim['lr']:g}"
    )


def _input_in_words(result: RunResult) -> str:
    settings = result.experiment["input"]
    height, width = settings["size"]
    if settings["mode"] == "fixed":
        return f"{width}x{height} fixed"
    return f"{width}x{height} with the ratio kept"


def _backbone_in_words(result: RunResult) -> str:
    model = result.experiment["model"]
    return f"{model['backbone']} from {'ImageNet' if model['pretrained'] else 'random'} weights"
