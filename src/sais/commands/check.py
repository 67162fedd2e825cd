"""`sais check DIR`: find the mistakes in a data set before training on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from sais.commands.arguments import parse, progress_bar
from sais.errors import InputError


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
    decode: bool = True
    """Decode the pixels of every image, which finds truncated files; --no-decode reads sizes only."""


def run(argv: Sequence[str]) -> int:
    """Run `sais check`."""
    arguments = parse(CheckArguments, argv, "sais check DIR")
    from sais.data.doctor.check import check_dataset
    from sais.data.formats import list_splits, read_dataset
    from sais.data.paths import locate

    data = locate(arguments.data)
    names = [arguments.split] if arguments.split else list_splits(data)
    if not names:
        raise InputError(f"{data}: no annotations/SPLIT.json. `sais make-shapes DIR` writes an example data set.")
    good = readable = True
    classes: tuple[str, ...] = ()
    for name in names:
        split = read_dataset(data, name)
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
    return 0 if good else 2
