"""A resumed run reads its data as at its start."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")

import sais
from sais.cli import main
from sais.config import Experiment
from sais.data.paths import DataPaths
from sais.engine.data_options import restore_data_options
from sais.errors import CheckpointError


def test_restore_data_options_takes_what_is_not_given(shapes: Path, tmp_path: Path) -> None:
    paths = DataPaths(shapes)
    assert restore_data_options(paths, tmp_path) == (paths, [])  # no log
    stored = {"data": "elsewhere", "classes": ["a b", "c"], "crowds_as_objects": True, "merge_duplicate_images": False}
    (tmp_path / "log.jsonl").write_text(json.dumps({"kind": "start", "paths": stored}) + "\n{")
    restored, (note,) = restore_data_options(paths, tmp_path)
    assert restored == DataPaths(shapes, classes=("a b", "c"), crowds_as_objects=True)
    assert note == "data options, as at the start of the run: classes a b, c; crowds_as_objects True"
    given = DataPaths(shapes, classes=("d",), crowds_as_objects=True)
    assert restore_data_options(given, tmp_path) == (given, [])


def test_train_resumes_with_the_classes_of_the_run(
    tiny: Experiment, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = DataPaths(shapes).read_train().class_names
    out = tmp_path / "run"
    sais.train(tiny, DataPaths(shapes, classes=names[:1]), out, max_iterations=1)
    assert sais.train(tiny, shapes, out, resume=True, max_iterations=2).iterations == 2
    words = ["train", "sais-lite", "--data", str(shapes), "--out", str(out), "--resume", "--max-iterations", "3"]
    assert main(words) == 0
    assert f"data options, as at the start of the run: classes {names[0]}" in capsys.readouterr().out
    with pytest.raises(CheckpointError, match=rf"trained on the classes {names[0]}, but train has {names[1]}\. Resume"):
        sais.train(tiny, DataPaths(shapes, classes=names[1:2]), out, resume=True)
