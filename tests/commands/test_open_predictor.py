"""The predictor of a command: the weights of an unfinished run."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")

import torch

from sais.commands.open_predictor import open_predictor
from sais.config import Experiment
from sais.inference.options import InferenceOptions


def test_weights_of_an_unfinished_run_are_named(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(trained / "model.safetensors", tmp_path / "best.safetensors")
    open_predictor("predict", tmp_path, InferenceOptions())
    assert capsys.readouterr() == ("", f"note: {tmp_path} is not finished: best.safetensors is used\n")
    for finished in (trained, tmp_path / "best.safetensors"):
        open_predictor("predict", finished, InferenceOptions())
        assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("device", "mode", "times_algorithms"),
    [("cuda", "fixed", True), ("cuda", "keep_ratio", False), ("cpu", "fixed", False)],
)
def test_cudnn_times_its_algorithms_for_canvases_of_one_size(
    device: str, mode: Any, times_algorithms: bool, trained: Path, tiny: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = replace(tiny, input=replace(tiny.input, mode=mode))
    predictor = SimpleNamespace(backend=SimpleNamespace(device=torch.device(device)), experiment=experiment)
    monkeypatch.setattr("sais.inference.predictor.Predictor", lambda path, options: predictor)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    open_predictor("predict", trained, InferenceOptions())
    assert torch.backends.cudnn.benchmark is times_algorithms
