"""The predictor of a command: the weights of an unfinished run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

pytest.importorskip("torch")

from sais.commands.open_predictor import open_predictor
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
