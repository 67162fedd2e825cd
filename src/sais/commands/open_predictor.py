"""The predictor of a command: the check of its path, the memory allocator, and the predictor itself."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sais.commands.arguments import prepare_torch
from sais.errors import CheckpointError
from sais.inference.options import EXPORTED_SUFFIXES, InferenceOptions
from sais.text import print_text

if TYPE_CHECKING:
    from sais.inference.predictor import Predictor


BOXES_ONLY = "note: the model was trained without masks (model.masks False): boxes only"
"""Printed by every command that predicts with or exports such a model."""


def check_model(path: Path) -> None:
    """Raise CheckpointError unless `path` exists: before anything slow is done."""
    if not path.exists():
        raise CheckpointError(
            f"{path}: no such model. Give a model file, the folder of a training run, or an exported file."
        )


def open_predictor(command: str, path: Path, options: InferenceOptions) -> Predictor:
    """Open a model file, the folder of a training run, or an exported file.

    Args:
        command: name of the command, for the message where PyTorch is missing.
        path: path of the model.
        options: inference options.

    Raises:
        SaisError: no such model, or it does not support the options.
    """
    check_model(path)
    if path.suffix in EXPORTED_SUFFIXES:
        from sais.engine.allocator import keep_big_blocks

        keep_big_blocks()
    else:
        prepare_torch(command)
        report_unfinished(path)
    from sais.inference.predictor import Predictor

    predictor = Predictor(path, options)
    device = getattr(predictor.backend, "device", None)
    if getattr(device, "type", "") == "cuda" and predictor.experiment.input.mode == "fixed":
        import torch

        # The canvases of a command have few shapes, so cuDNN may time its algorithms once for each of them.
        torch.backends.cudnn.benchmark = True
    return predictor


def report_unfinished(path: Path) -> None:
    """Print which weights a run without final weights is used with; on stderr, as results go to stdout."""
    from sais.checkpoint import find_checkpoint

    checkpoint = find_checkpoint(path)
    if path.is_dir() and checkpoint.name != "model.safetensors":
        print_text(f"note: {path} is not finished: {checkpoint.name} is used", file=sys.stderr)
