"""`sais make-shapes DIR`: write a synthetic COCO data set for demos, tests and first steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from sais.commands.arguments import parse, progress_bar
from sais.commands.options import Maximum, Minimum, Seed
from sais.text import print_text


@dataclass(frozen=True)
class MakeShapesArguments:
    """Write a synthetic data set: textured, overlapping shapes of several classes, some with holes, exact masks."""

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR")]
    """Folder to write to: images/SPLIT and annotations/SPLIT.json."""
    train: Annotated[int, Minimum(1), Maximum(10**6)] = 400
    """Number of training images."""
    valid: Annotated[int, Minimum(1), Maximum(10**6)] = 80
    """Number of validation images."""
    size: Annotated[int, Minimum(64), Maximum(16_384)] = 256
    """Side of the images in pixels."""
    seed: Seed = 0
    """Random seed; the same seed gives the same images."""
    left_right: bool = False
    """Draw boots and flags that point to the left or right, as classes of their own, and stars."""
    overwrite: bool = False
    """Replace existing files of the same names, not only those of an earlier make-shapes."""


def run(argv: Sequence[str]) -> int:
    """Run `sais make-shapes`."""
    arguments = parse(MakeShapesArguments, argv, "sais make-shapes DIR")
    from sais.data.synthetic import write_shapes
    from sais.data.synthetic_outlines import CLASS_NAMES, LEFT_RIGHT_NAMES

    with progress_bar("drawing", arguments.train + arguments.valid) as progress:
        write_shapes(
            arguments.folder,
            train=arguments.train,
            valid=arguments.valid,
            size=(arguments.size, arguments.size),
            seed=arguments.seed,
            progress=lambda done, total: progress(1),
            overwrite=arguments.overwrite,
            class_names=LEFT_RIGHT_NAMES if arguments.left_right else CLASS_NAMES,
        )
    print_text(f"{arguments.train} training and {arguments.valid} validation images in {arguments.folder}")
    print_text(f"next: sais train sais-lite --data {arguments.folder}")
    return 0
