"""Opens what the user calls a model: a checkpoint with torch, an exported graph with the runtime it belongs to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sais.commands.arguments import prepare_torch
from sais.errors import SaisError
from sais.inference.graph_metadata import EXPORTED_SUFFIXES

if TYPE_CHECKING:
    from sais.inference.exported_predictor import ExportedPredictor
    from sais.inference.predictor import Predictor

    Opened = Predictor | ExportedPredictor


def check_model(path: Path) -> None:
    """Raise SaisError unless there is something at `path`: before anything slow is done."""
    if not path.exists():
        raise SaisError(f"{path}: no such model; give a model file, the folder of a trained run, or an exported graph")


@dataclass(frozen=True)
class Way:
    """How a model is to look at images, and to run."""

    device: str = "auto"
    score: float | None = None
    """Least score of a detection, or None."""
    flip: bool = False
    """Look at the mirrored image too."""
    scales: tuple[float, ...] = (1.0,)
    """Look at it so many times as large."""
    precision: str = "fp32"
    compiled: bool = False
    """By torch.compile."""


def open_model(command: str, path: Path, way: Way) -> Opened:
    """The predictor of a model file, of a run's folder or of an exported graph.

    Args:
        command: for the message where torch is missing.
        path: what the user named.
        way: what is asked of it.

    Raises:
        SaisError: no such model, or it cannot do what is asked of it.
    """
    check_model(path)
    if path.suffix not in EXPORTED_SUFFIXES:
        prepare_torch(command)
        from sais.inference.predictor import Predictor

        return Predictor(path, way.device, way.score, way.flip, way.scales, way.precision, way.compiled)
    if way.flip or way.scales != (1.0,) or way.compiled:
        raise SaisError(
            f"{path}: --flip, --scales and --compiled go with a model of `sais train`; an exported graph has one "
            "input, and its runtime compiles it"
        )
    from sais.engine.allocator import keep_big_blocks
    from sais.inference.exported_predictor import ExportedPredictor

    keep_big_blocks()
    device = "cpu" if way.device == "auto" else way.device
    return ExportedPredictor(path, way.score, device=device, precision=way.precision)
