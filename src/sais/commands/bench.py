"""`sais bench`: time and memory, measured on this machine."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import tyro

from sais.commands.arguments import need_torch, parse


@dataclass(frozen=True)
class BenchArguments:
    """Measure time and memory. masks: 100 masks on a 1280x960 picture, box-local against full-frame."""

    what: tyro.conf.Positional[Literal["masks"]]
    """What to measure."""


def run(argv: Sequence[str]) -> int:
    """Run `sais bench`."""
    parse(BenchArguments, argv, "sais bench WHAT")
    need_torch("bench")
    # TODO(chief): `from sais.bench import bench_masks` once the file exists; it prints its table.
    importlib.import_module("sais.bench").bench_masks()
    return 0
