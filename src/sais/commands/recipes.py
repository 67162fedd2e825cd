"""`sais recipes`: the recipes a training run can start from."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass

from sais.commands.arguments import parse
from sais.recipes import RECIPES, recipe


@dataclass(frozen=True)
class RecipesArguments:
    """List the recipes with what each is; with a name, that recipe's command, cost, result and settings."""

    name: str = ""
    """Show this recipe whole."""


def run(argv: Sequence[str]) -> int:
    """Run `sais recipes`."""
    if argv and not argv[0].startswith("-"):
        argv = ["--name", *argv]
    arguments = parse(RecipesArguments, argv, "sais recipes [NAME]")
    if arguments.name:
        return _show(arguments.name)
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("recipe", "input"):
        table.add_column(heading, no_wrap=True)
    table.add_column("what it is")
    for name, build in RECIPES.items():
        experiment = build()
        size = "x".join(map(str, experiment.input.size)) + ("" if experiment.input.mode == "fixed" else " kept")
        table.add_row(name, size, (inspect.getdoc(build) or "").partition("\n")[0])
    Console().print(table)
    print('Your own: sais train "module:function", a function that returns a sais.Experiment.')
    return 0


def _show(name: str) -> int:
    import json

    from sais.config import to_dict

    experiment = recipe(name)
    if name in RECIPES:
        print(inspect.getdoc(RECIPES[name]), end="\n\n")
    print(json.dumps(to_dict(experiment), indent=2))
    return 0
