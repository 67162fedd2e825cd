"""Training, evaluation and resuming with labels of every format."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")

from sais.cli import main
from sais.config import Experiment
from sais.data.paths import DataPaths
from sais.engine.data_options import restore_data_options
from sais.engine.trainer import train
from tests.data.formats.label_samples import (
    write_bowl,
    write_cityscapes,
    write_labelme,
    write_masks,
    write_panoptic,
    write_voc,
    write_yolo,
)

WRITERS: dict[str, Callable[[Path], Path]] = {
    "yolo": write_yolo,
    "labelme": write_labelme,
    "voc": write_voc,
    "cityscapes": write_cityscapes,
    "panoptic": write_panoptic,
    "masks": write_masks,
    "bowl": write_bowl,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITERS)
def test_a_training_step_from_labels_of_every_format(
    tmp_path: Path, tiny: Experiment, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    folder = WRITERS[name](tmp_path / "data")
    experiment = replace(tiny, run=replace(tiny.run, evaluate_every=1))
    train(experiment, DataPaths(folder), tmp_path / "run", max_iterations=1)
    log = (tmp_path / "run" / "log.jsonl").read_text()
    start = json.loads(log.splitlines()[0])
    assert start["paths"]["data"] == str(folder)
    output = capsys.readouterr().out
    assert re.search(r"train: found \w.*, 2 splits, \d+ class", output)
    assert "valid: found " not in output
    assert main(["eval", str(tmp_path / "run"), "--data", str(folder)]) == 0


def test_a_resumed_run_reads_the_format_it_was_started_with(tmp_path: Path) -> None:
    folder = write_yolo(tmp_path / "data")
    out = tmp_path / "run"
    out.mkdir()
    (out / "log.jsonl").write_text(json.dumps({"paths": {"data": str(folder), "format": "yolo"}}) + "\n")
    restored, (note,) = restore_data_options(DataPaths(folder), out)
    assert restored.format == "yolo"
    assert "format yolo" in note
    given = DataPaths(folder, format="labelme")
    assert restore_data_options(given, out) == (given, [])


def test_a_log_does_not_name_code_that_reads_the_data(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text(json.dumps({"paths": {"format": "os:system"}}) + "\n")
    paths = DataPaths(write_yolo(tmp_path / "data"))
    assert restore_data_options(paths, tmp_path) == (paths, [])


def test_data_paths_read_both_splits_in_the_format_that_is_given(tmp_path: Path) -> None:
    folder = write_labelme(write_yolo(tmp_path / "data"))
    for name, title in (("auto", "YOLO segmentation"), ("labelme", "LabelMe"), ("yolo", "YOLO segmentation")):
        paths = DataPaths(folder, format=name)
        train_split, valid_split = paths.read_train(), paths.read_valid()
        assert valid_split is not None
        assert train_split.origin == valid_split.origin == f"{title}, 2 splits, 2 classes"
