"""`sais check DIR`: mistakes in a data set, found before a training run trips over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from sais.commands.arguments import parse, progress_bar
from sais.errors import SaisError


@dataclass(frozen=True)
class CheckArguments:
    """Open every image and look at every label of a data set; say what is in it and what is wrong with it.

    Exit code 2 where training would stop: broken images, wrong sizes, unreadable masks, a split without the training
    split's categories.
    """

    data: tyro.conf.Positional[Path]
    """Folder of the data set."""
    split: str = ""
    """Only this split; otherwise every one found."""
    decode: bool = True
    """Read the pixels of every image, not only its size (finds truncated files)."""


def run(argv: Sequence[str]) -> int:
    """Run `sais check`."""
    arguments = parse(CheckArguments, argv, "sais check DIR")
    from sais.data.doctor.check import check_dataset
    from sais.data.formats import list_splits, read_dataset
    from sais.data.paths import locate

    data = locate(arguments.data)
    names = [arguments.split] if arguments.split else list_splits(data)
    if not names:
        raise SaisError(f"{data}: no split found; expected annotations/SPLIT.json (sais shapes DIR writes an example)")
    good = readable = True
    classes: tuple[str, ...] = ()
    for name in names:
        index = read_dataset(data, name)
        lacking = [one for one in classes if one not in index.class_names]
        classes = classes or index.class_names  # of the training split, which comes first
        with progress_bar(f"checking {name}", len(index.images)) as progress:
            found = check_dataset(index, decode=arguments.decode, progress=lambda done, _: progress(1))
        print(f"== {name}")
        print(found.summary())
        if lacking:
            print(f"  ERROR: categories of {names[0]} that are not among its own: {', '.join(lacking)}; add them")
        readable = readable and found.ok
        good = good and found.ok and not lacking
    if not good:
        print("mend what is marked ERROR" + ("" if readable else ", or train on the rest with --skip-broken"))
    return 0 if good else 2
