"""Opens what the user calls a model: a checkpoint with torch, an exported graph with the runtime it belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sais.commands.arguments import prepare_torch
from sais.structures import SaisError

if TYPE_CHECKING:
    from sais.predict import Predictor
    from sais.runtimes import RuntimePredictor

    Opened = Predictor | RuntimePredictor

EXPORTED = (".onnx", ".xml")
"""Suffixes of files that run without torch."""


def check_model(path: Path) -> None:
    """Raise SaisError unless there is something at `path`: before anything slow is done."""
    if not path.exists():
        raise SaisError(f"{path}: no such model; give a model file, the folder of a trained run, or an exported graph")


def open_model(
    command: str, path: Path, device: str, score: float | None, flip: bool = False, scales: Sequence[float] = (1.0,)
) -> Opened:
    """The predictor of a model file, of a run's folder or of an exported graph.

    Args:
        command: for the message where torch is missing.
        path: what the user named.
        device: "auto" or the name of one.
        score: least score of a detection, or None.
        flip: look at the mirrored picture too.
        scales: look at it so many times as large.

    Raises:
        SaisError: no such model, or it cannot do what is asked of it.
    """
    check_model(path)
    if path.suffix not in EXPORTED:
        prepare_torch(command)
        from sais.predict import Predictor

        return Predictor(path, device, score, flip=flip, scales=scales)
    if flip or tuple(scales) != (1.0,):
        raise SaisError(f"{path}: --flip and --scales go with a model of `sais train`; an exported graph has one input")
    from sais.engine.allocator import keep_big_blocks
    from sais.runtimes import RuntimePredictor

    keep_big_blocks()
    return RuntimePredictor(path, score, device="cpu" if device == "auto" else device)
