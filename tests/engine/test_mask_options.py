"""Options of the mask branch beyond the paper: a run with all of them resumes exactly, and its model predicts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sais.checkpoint import load_checkpoint
from sais.config import Experiment
from sais.data.paths import DataPaths
from sais.engine.trainer import train
from sais.errors import CheckpointError
from sais.inference.predictor import Predictor


@pytest.fixture(scope="module")
def experiment(tiny: Experiment) -> Experiment:
    """Return the smallest experiment with all options."""
    return replace(
        tiny,
        model=replace(tiny.model, prototype_norm="group", relative_coordinates=True),
        criterion=replace(tiny.criterion, dice_weight=1.0, mask_margin=0.1),
        postprocess=replace(tiny.postprocess, maskness=True, mask_margin=0.1),
        run=replace(tiny.run, ema=0.9),
    )


def test_run_with_options_resumes_exactly_and_predicts(experiment: Experiment, shapes: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(experiment, DataPaths(shapes), whole)
    train(experiment, DataPaths(shapes), parts, max_iterations=2)
    train(experiment, DataPaths(shapes), parts, resume=True)
    expected, resumed = (load_checkpoint(out / "model.safetensors").tensors for out in (whole, parts))
    assert expected.keys() == resumed.keys()
    assert any("protonet.before.0.1." in name for name in expected)  # a norm
    for name, tensor in expected.items():
        assert torch.equal(resumed[name], tensor), name
    image = next((shapes / "images/valid").iterdir())
    detections = Predictor(parts, device="cpu", score=None)(image)
    assert detections.scores.tolist() == sorted(detections.scores.tolist(), reverse=True)
    with pytest.raises(CheckpointError, match=r"model\.prototype_norm group, not none.*relative_coordinates True, not"):
        plain = replace(experiment, model=replace(experiment.model, prototype_norm="none", relative_coordinates=False))
        train(plain, DataPaths(shapes), tmp_path / "tuned", weights=parts)
