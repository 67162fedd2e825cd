"""`sais check DIR`: find the mistakes in a data set before training on it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from sais.commands.arguments import parse, progress_bar
from sais.commands.recipe_options import format_options
from sais.errors import InputError
from sais.recipes import recipe
from sais.recipes.from_data import measure, suggest

if TYPE_CHECKING:
    from sais.data.annotations import DatasetSplit

FIRST_RECIPE = "sais-lite"
"""The recipe to start with."""


@dataclass(frozen=True)
class CheckArguments:
    """Check every image and every annotation of a data set, and report its contents and its mistakes.

    The exit code is 2 where training would fail: unreadable images, wrong image sizes, malformed masks, or a split that
    lacks categories of the training split.
    """

    data: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR")]
    """Folder of the data set; or its name in the folder $SAIS_DATA."""
    split: str = ""
    """Split to check. Default: every split of the data set."""
    classes: tuple[str, ...] = ()
    """Classes to use, such as cat dog; vehicle=car+truck merges classes, as in `sais train`. Default: all."""
    decode: bool = True
    """Decode the pixels of every image, which finds truncated files; --no-decode reads sizes only."""


def run(argv: Sequence[str]) -> int:
    """Run `sais check`."""
    arguments = parse(CheckArguments, argv, "sais check DIR")
    from sais.data.class_selection import choose_classes
    from sais.data.doctor.check import check_dataset
    from sais.data.formats import list_splits, read_dataset
    from sais.data.paths import locate

    data = locate(arguments.data)
    names = [arguments.split] if arguments.split else list_splits(data)
    if not names:
        raise InputError(f"{data}: no annotations/SPLIT.json. `sais make-shapes DIR` writes an example data set.")
    good = readable = True
    recommendation = ""
    classes: tuple[str, ...] = ()
    for name in names:
        split = choose_classes(read_dataset(data, name), arguments.classes, allow_missing=bool(classes))
        if not classes and split.images:
            recommendation = _recommend(arguments, split)
        missing = [class_name for class_name in classes if class_name not in split.class_names]
        classes = classes or split.class_names  # those of the training split, which comes first
        with progress_bar(f"checking {name}", len(split.images)) as progress:
            report = check_dataset(split, decode=arguments.decode, progress=lambda done, _: progress(1))
        print(f"== {name}")
        print(report.summary())
        if missing:
            print(f"  ERROR: categories of {names[0]} missing here: {', '.join(missing)}; add them")
        readable = readable and report.ok
        good = good and report.ok and not missing
    if not good:
        print("fix the entries marked ERROR" + ("" if readable else ", or train with --skip-broken"))
    elif recommendation:
        print(recommendation)
    return 0 if good else 2


def _recommend(arguments: CheckArguments, split: DatasetSplit) -> str:
    """Return lines with the training command that suits a training split, and the reason."""
    suggestion = suggest(measure(split), recipe(FIRST_RECIPE))
    words = ["sais", "train", FIRST_RECIPE, "--data", str(arguments.data)]
    words += ["--train-split", split.name] if split.name != "train" and arguments.split else []
    words += ["--classes", *arguments.classes] if arguments.classes else []
    lines = [f"recommended: {shlex.join(words)} {format_options(suggestion.settings)}", *suggestion.notes[:1]]
    return "\n".join([*lines, *suggestion.advice])
