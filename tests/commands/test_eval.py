"""`sais eval --save-thresholds`: what prevents storing is reported before the evaluation."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from sais import cli
from sais.commands.evaluate import EvalArguments, _print_thresholds
from sais.data.annotations import DatasetSplit
from sais.evaluation.evaluate import Evaluation


@pytest.mark.parametrize("reason", ["onnx is not installed", "not writable"])
def test_a_model_that_cannot_store_thresholds_is_refused_before_it_is_opened(
    reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "models" / "m.onnx"
    model.parent.mkdir()
    model.write_text("a graph that is not opened")
    if reason == "not writable":  # the tests may run as root, who can write everywhere
        access = os.access
        monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != model.parent and access(path, mode))
    else:
        monkeypatch.setitem(sys.modules, "onnx", None)
    assert cli.main(["eval", str(model), "--data", str(tmp_path), "--save-thresholds"]) == 2
    assert reason in capsys.readouterr().err


def test_note_states_why_no_thresholds_are_stored(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = EvalArguments(Path("m.onnx"), save_thresholds=True)
    _print_thresholds(arguments, Evaluation(None, [], DatasetSplit("test", ("a",))), None, None)
    assert capsys.readouterr().out == "note: no annotations, so that no thresholds were stored\n"
