"""`sais push MODEL OWNER/NAME`: upload a model with its model card to the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from sais.commands.arguments import FLAT, need_package, parse, prepare_torch
from sais.commands.open_predictor import check_model
from sais.commands.package import license_note
from sais.commands.package_options import CardOptions, valid_images
from sais.hub import HubAddress
from sais.text import print_text


@dataclass(frozen=True)
class PushArguments:
    """Upload a model to the Hugging Face Hub: a package as it is; a run or model file is packaged first.

    A new repository is private, unless --public is given. The token comes from HF_TOKEN or `hf auth login`; HF_ENDPOINT
    names another server.
    """

    model: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="MODEL")]
    """Folder written by `sais package`, folder of a training run, or model file."""
    repository: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="OWNER/NAME")]
    """Repository, created unless it exists."""
    card: Annotated[CardOptions, FLAT] = field(default_factory=CardOptions)
    public: bool = False
    """Let anybody read a new repository; an existing one stays as it is."""
    revision: str | None = None
    """Branch to upload to, created if it is missing; default: the main branch."""
    message: str = ""
    """Message of the commit."""


def run(argv: Sequence[str]) -> int:
    """Run `sais push`."""
    arguments = parse(PushArguments, argv, "sais push MODEL OWNER/NAME")
    check_model(arguments.model)
    need_package("push", "huggingface_hub", "hub")
    prepare_torch("push")
    from sais.sharing.package import PackageOptions, is_package
    from sais.sharing.push import push_to_hub

    options, packaged = arguments.card.package_options(), is_package(arguments.model)
    if not packaged:
        print_text(*license_note(options), sep="\n", end="\n" if license_note(options) else "")
    address = push_to_hub(
        arguments.model,
        arguments.repository,
        options,
        public=arguments.public,
        revision=arguments.revision,
        message=arguments.message,
        valid=None if packaged and options == PackageOptions() else valid_images(arguments.card, arguments.model),
    )
    print_text(f"pushed {arguments.model} to {address}")
    print_text(f"next: sais predict {HubAddress(arguments.repository, arguments.revision)} YOUR_IMAGES")
    return 0
