"""`sais package MODEL OUT`: write a model with its settings and a model card as a folder for others."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from sais.commands.arguments import FLAT, parse, prepare_torch
from sais.commands.open_predictor import check_model
from sais.commands.package_options import CardOptions, valid_images
from sais.text import print_text

if TYPE_CHECKING:
    from sais.sharing.package import PackageOptions


@dataclass(frozen=True)
class PackageArguments:
    """Write the package of a model: weights, settings, thresholds and a model card, without the training state.

    The model card states classes, data, metrics, limits, versions and license. Read it, and add what you know, before
    you give the folder away or push it.
    """

    model: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="MODEL")]
    """Folder of a training run, or model file."""
    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]
    """Folder to write to."""
    card: Annotated[CardOptions, FLAT] = field(default_factory=CardOptions)
    overwrite: bool = False
    """Replace files in OUT that an earlier package did not write, and a model card that you have edited."""


def run(argv: Sequence[str]) -> int:
    """Run `sais package`."""
    arguments = parse(PackageArguments, argv, "sais package MODEL OUT")
    check_model(arguments.model)
    prepare_torch("package")
    from sais.sharing.package import package_model

    options = arguments.card.package_options(arguments.overwrite)
    files = package_model(arguments.model, arguments.out, options, valid=valid_images(arguments.card, arguments.model))
    size = sum(file.stat().st_size for file in files)
    names = ", ".join(file.relative_to(arguments.out).as_posix() for file in files)
    print_text(f"wrote {arguments.out}: {names}; {size / 1e6:.1f} MB")
    print_text(*license_note(options), f"next: read {arguments.out / 'README.md'}, then", sep="\n", end=" ")
    print_text(f"sais push {shlex.quote(str(arguments.out))} OWNER/NAME")
    return 0


def license_note(options: PackageOptions) -> list[str]:
    """Return a line if no license is given."""
    return (
        [] if options.license else ["note: no license is given; others may not use the model without one (--license)"]
    )
