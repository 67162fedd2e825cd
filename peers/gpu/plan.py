"""The device and the sizes of all checks, and what a check returns."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from sais.benchmark.workload import Workload, make_workload
from sais.config import Experiment, ModelConfig
from sais.recipes import recipe
from sais.recipes.adjust import replace_settings
from sais.recipes.paper import RESNET50

SMALL_SIDE = 96
"""Side of the network input in pixels on a CPU."""
SMALL_CHANNELS = 64
"""Channels of FPN, heads and ProtoNet on a CPU."""


@dataclass(frozen=True)
class Row:
    """A row of the table."""

    name: str
    passed: bool | None
    """Whether the limit holds; None for a measurement without limit."""
    text: str
    limit: str = ""
    values: dict[str, Any] = field(default_factory=dict)
    """The measured values, for the JSON file."""


@dataclass(frozen=True)
class Plan:
    """The device and the sizes of all checks: full sizes on an accelerator, small ones on a CPU."""

    out: Path
    device: str
    deadline: float
    """Value of `time.monotonic` after which no further check starts."""
    small: bool = field(init=False)
    """Whether sizes are small."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "small", self.device == "cpu")

    @property
    def on_cuda(self) -> bool:
        """Whether the device is a CUDA device."""
        return self.device.startswith("cuda")

    @property
    def seconds_left(self) -> float:
        """Time until the deadline in seconds; negative after it."""
        return self.deadline - time.monotonic()

    def repeats(self, batch_size: int) -> int:
        """Return the number of timed runs."""
        if self.small:
            return 2
        return 20 if batch_size == 1 else 8

    @property
    def objects(self) -> int:
        """Number of objects of an image in inference."""
        return 20 if self.small else 100

    @property
    def batch_sizes(self) -> tuple[int, int]:
        """Batch sizes of inference."""
        return (1, 2) if self.small else (1, 8)

    @property
    def training_batch_size(self) -> int:
        """Number of images in a training step."""
        return 2 if self.small else 8

    @property
    def precisions(self) -> tuple[str, ...]:
        """Precisions of inference; tf32 is fp32 with TF32 matrix products and convolutions."""
        if self.on_cuda:
            return ("fp32", "tf32", "fp16", "bf16")
        return ("fp32", "bf16") if self.small else ("fp32", "fp16")

    @property
    def best_precision(self) -> str:
        """Precision in which systems are compared first."""
        return "bf16" if self.on_cuda else "fp32"

    def side(self, side: int) -> int:
        """Return the side of a square input in pixels: `side`, or a small one on a CPU."""
        return SMALL_SIDE if self.small else side

    def experiment(self, name: str) -> Experiment:
        """Return a recipe, with a small input and a narrow head on a CPU."""
        experiment = recipe(name)
        if not self.small:
            return experiment
        experiment = replace_settings(experiment, "input", mode="fixed", size=(SMALL_SIDE, SMALL_SIDE))
        return replace_settings(experiment, "model", channels=SMALL_CHANNELS, prototype_channels=SMALL_CHANNELS)

    def peer_experiment(self, name: str) -> Experiment:
        """Return settings of a peer with ResNet-50, as wide as its paper; narrow on a CPU."""
        channels = SMALL_CHANNELS if self.small else ModelConfig().channels
        return Experiment(name=name, model=ModelConfig(backbone=RESNET50, channels=channels))

    def judged(self, passed: bool) -> bool | None:
        """Return whether a limit of time or memory holds; None on a CPU, where small sizes mean nothing."""
        return None if self.small else passed

    def workload(self, objects: int | None = None) -> Workload:
        """Create an image of 1280 x 960 (320 x 240 on a CPU) with `objects` objects; by default `self.objects`."""
        return make_workload(objects or self.objects, (240, 320) if self.small else (960, 1280), 80)


@dataclass(frozen=True)
class Check:
    """A check or a measurement; its rows are complete or repeated together."""

    section: str
    name: str
    run: Callable[[Plan], list[Row]]
    required: bool = False
    """Whether it runs after the deadline as well, unless it failed in an earlier session."""

    continues: bool = False
    """Whether it runs in every session, because it continues by itself where it stopped."""

    @property
    def key(self) -> str:
        """The name under which results are kept."""
        return f"{self.section}: {self.name}"


@contextlib.contextmanager
def arithmetic(precision: str) -> Iterator[None]:
    """Compute matrix products and convolutions of float32 in TF32 for "tf32", exactly for other precisions."""
    previous = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(previous[0])
        torch.backends.cudnn.allow_tf32 = previous[1]


def float_precision(precision: str) -> Any:
    """Return the precision in which a network is built: fp32 for tf32."""
    return "fp32" if precision == "tf32" else precision
