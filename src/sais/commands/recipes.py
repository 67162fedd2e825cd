"""`sais recipes`: list the recipes."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from sais.commands.arguments import parse
from sais.config import to_dict
from sais.recipes import RECIPES, recipe
from sais.recipes.from_data import ADAPTIVE
from sais.text import print_json, print_lines, print_text


@dataclass(frozen=True)
class RecipesArguments:
    """List the recipes; with NAME, show the command, cost, result and settings of one."""

    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME")] = ""
    """Recipe to show: a name, module:function of your own, or a settings file."""
    json: bool = False
    """Print JSON: the recipes with their descriptions, or the settings of NAME."""


def run(argv: Sequence[str]) -> int:
    """Run `sais recipes`."""
    arguments = parse(RecipesArguments, argv, "sais recipes [NAME]")
    if arguments.name:
        return _show(arguments.name, arguments.json)
    if arguments.json:
        print_json({"recipes": [_facts(name) for name in RECIPES]})
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("recipe", "input"):
        table.add_column(heading, no_wrap=True)
    table.add_column("description")
    for name, build in RECIPES.items():
        experiment = build()
        size = "x".join(map(str, experiment.input.size))
        fitting = "" if experiment.input.mode == "fixed" else " (ratio kept)"
        size = f"from {size}" if name in ADAPTIVE else size
        table.add_row(name, size + fitting, (inspect.getdoc(build) or "").partition("\n")[0])
    Console().print(table)
    print_text("from: input size, epochs, batch size and zoom are chosen from the data where they are not given.")
    print_text('Your own: sais train "module:function", a function that returns a sais.Experiment, or a settings file.')
    return 0


def _facts(name: str) -> dict[str, Any]:
    """Return a recipe for JSON."""
    experiment = RECIPES[name]()
    description = (inspect.getdoc(RECIPES[name]) or "").partition("\n")[0]
    size = {"mode": experiment.input.mode, "size": list(experiment.input.size), "from_data": name in ADAPTIVE}
    return {"name": name, "description": description, "input": size, "backbone": experiment.model.backbone}


def _show(name: str, as_json: bool) -> int:
    experiment = recipe(name)
    if name in RECIPES and not as_json:
        print_lines(f"{inspect.getdoc(RECIPES[name])}\n")
    print_json(to_dict(experiment))
    return 0
