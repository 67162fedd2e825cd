"""`sais shapes DIR`: a synthetic COCO data set, for demos, tests and first steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from sais.commands.arguments import check_writable, parse
from sais.errors import SaisError


@dataclass(frozen=True)
class MakeShapesArguments:
    """Write a synthetic data set: textured, overlapping shapes of several classes, some with holes, exact masks."""

    folder: tyro.conf.Positional[Path]
    """Where to write it: images/SPLIT and annotations/SPLIT.json."""
    train: int = 400
    """Images to train on."""
    valid: int = 80
    """Images to measure on."""
    size: int = 256
    """Side of the images in pixels."""
    seed: int = 0
    """The same seed gives the same images."""


def run(argv: Sequence[str]) -> int:
    """Run `sais shapes`."""
    arguments = parse(MakeShapesArguments, argv, "sais shapes DIR")
    if min(arguments.train, arguments.valid) < 0 or arguments.size < 64:
        raise SaisError("sais shapes: --train and --valid are counts, and --size is 64 or more")
    check_writable(arguments.folder)
    from sais.data.synthetic import write_shapes

    write_shapes(
        arguments.folder,
        train=arguments.train,
        valid=arguments.valid,
        size=(arguments.size, arguments.size),
        seed=arguments.seed,
    )
    print(f"{arguments.train} training and {arguments.valid} validation images in {arguments.folder}")
    print(f"next: sais train sais-lite --data {arguments.folder}")
    return 0
