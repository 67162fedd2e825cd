"""`sais bench`: time and memory, measured on this machine."""

from __future__ import annotations

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
    objects: int = 100
    """Masks on the picture."""
    size: tuple[int, int] = (960, 1280)
    """Height and width of the picture."""
    repeats: int = 7
    """Runs of each way; the median counts."""


def run(argv: Sequence[str]) -> int:
    """Run `sais bench`."""
    arguments = parse(BenchArguments, argv, "sais bench WHAT")
    need_torch("bench")
    from sais.bench.masks import bench_masks

    bench_masks(objects=arguments.objects, size=arguments.size, repeats=arguments.repeats)
    return 0
