"""Benchmark candidates and the interface they implement. Needs no torch, so that exported graphs run without it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from sais.benchmark.workload import Workload
from sais.errors import ConfigError
from sais.inference.options import InferenceOptions
from sais.resolve import resolve

if TYPE_CHECKING:
    from torch import Tensor, nn

ONE_IMAGE = InferenceOptions(batch_size=1)
"""One image in one forward pass."""


class PreparedCandidate(Protocol):
    """A system in inference mode, set up for one workload. Its stages are timed one by one."""

    def preprocess(self, image: np.ndarray) -> Any:
        """Turn the image (H, W, 3) uint8 into the input of the network."""
        ...

    def network(self, canvases: Any) -> Any:
        """Run the forward pass up to the raw outputs."""
        ...

    def inject(self, outputs: Any) -> Any:
        """Overwrite the raw outputs so that they encode the objects of the workload. Not timed."""
        ...

    def postprocess(self, outputs: Any) -> Any:
        """Turn the raw outputs into the results that the system returns to its user."""
        ...

    def dense_masks(self, results: Any) -> Any:
        """Return the masks (D, H, W) of the whole image; a no-op if `postprocess` creates them already."""
        ...


@dataclass(frozen=True)
class TrainingSetup:
    """A network and its losses, ready for measuring a training step."""

    model: nn.Module
    """The network in training mode."""
    losses: Callable[[int], dict[str, Tensor]]
    """(batch size) -> the loss terms of one step on copies of the workload."""
    parts: dict[str, Any]
    """Name -> module, or tuple of modules, whose activation memory is reported separately."""


@dataclass(frozen=True)
class Candidate:
    """One system at one input size."""

    name: str
    prepare: Callable[[Workload, str], PreparedCandidate]
    """(workload, device) -> the system in inference mode with random weights, which do not change latency."""
    train: Callable[[Workload, str], TrainingSetup] | None = None
    """(workload, device) -> the system in training mode; None if only inference is compared."""
    note: str = ""
    """What a reader of the results has to know: how masks are created, differences from the original."""
    batch_size: int = 1
    """The number of copies of the image in one forward pass; latencies are reported per image."""


def find_candidates(source: str) -> list[Candidate]:
    """Return the candidates that a function named ``module:function`` returns.

    The current directory is searched as well.

    Raises:
        ConfigError: there is no such function, or it does not return a list of candidates.
    """
    candidates = resolve(source, {}, "candidates")()
    if not isinstance(candidates, list) or not all(isinstance(candidate, Candidate) for candidate in candidates):
        raise ConfigError(f"candidates {source!r}: not a list of sais.benchmark.candidates.Candidate. Return one.")
    return candidates
