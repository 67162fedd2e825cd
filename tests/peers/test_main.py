"""The peers of `docs/performance.md`: both ways of an evaluation agree, and ratios are quotients of medians."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("pycocotools")
pytest.importorskip("faster_coco_eval")

from peers import evaluation, loader, postprocessing, ratios
from peers.__main__ import main
from sais.benchmark.masks import MaskCase, make_inputs
from sais.benchmark.timing import Conditions, Timing
from sais.data.formats import read_dataset


def test_both_ways_of_an_evaluation_have_the_same_ap(tmp_path: Path) -> None:
    found = evaluation.measure(images=6, detections=20)
    ours, usual = found["sais"], found["usual"]
    assert ours.box == pytest.approx(usual.box, abs=1e-6)
    assert ours.mask == pytest.approx(usual.mask, abs=1e-6)
    assert 0.2 < ours.mask < 0.999  # neither nothing nor everything is right
    rows = list(evaluation.lines(found))
    assert [row[0] for row in rows] == ["sais", "usual"]
    assert rows[1][4] == "1.000"


def test_a_dense_stack_holds_the_patches() -> None:
    case = MaskCase(7, (60, 80), (15, 20))
    inputs = make_inputs(case)
    stack = postprocessing.dense_masks(case, inputs)
    assert stack.shape == (7, 60, 80)
    assert [int(one.sum()) for one in stack] == [
        int(p.bits.sum()) for p in postprocessing.ways()[postprocessing.OURS](case, inputs)
    ]
    assert tuple(postprocessing.ways()[postprocessing.TORCHVISION](case, inputs).shape) == (7, 60, 80)


def test_ratios_are_quotients_of_medians(monkeypatch: pytest.MonkeyPatch) -> None:
    def times(sources: object, names: list[str], conditions: Conditions) -> list[Timing]:
        factor = 0.5 if conditions.retain_memory else 1.0
        return [
            Timing(name, 1.0, 9.0, 10.0 * factor if name.startswith("sais") else 90.0, 0.0, 100)
            for name in names
            if "Mask" not in name
        ]

    monkeypatch.setattr(ratios, "measure_times", times)
    monkeypatch.setattr(ratios, "can_keep_big_blocks", lambda: True)
    rows, quotients = ratios.systems(Conditions(), 3)
    by_pair = {(row[0], row[1]): row[2:] for row in quotients}
    assert by_pair[ratios.STRETCHED, ratios.YOLO] == ["0.200", "<= 0.20", "0.150", "<= 0.50"]
    assert by_pair[ratios.STRETCHED, "its network alone"] == ["2.222", "<= 1.40", "1.667", "-"]
    assert not any("Mask" in name for row in quotients for name in row[:2])  # who was not measured is left out
    assert len(rows) == len([name for name in ratios.NAMES if "Mask" not in name])


def test_contestants_of_the_ratios_exist() -> None:
    from sais.benchmark.candidates import find_candidates

    names = {one.name for source in ratios.SOURCES for one in find_candidates(source)}
    missing = {name for name in ratios.NAMES if name not in names and not name.startswith("YOLO26")}
    assert not missing
    assert {goal.top for goal in ratios.GOALS} | {goal.bottom for goal in ratios.GOALS} <= set(ratios.NAMES)


def test_evaluation_by_its_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluation", "--images", "2", "--objects", "5", "--out", str(tmp_path)]) == 0
    assert "| sais |" in capsys.readouterr().out
    assert "2 images of 640 x 480, 5 detections each" in (tmp_path / "evaluation.md").read_text()
    assert np.isfinite(float((tmp_path / "evaluation.md").read_text().splitlines()[-1].split("|")[5]))


def test_both_loaders_say_the_same(shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Bits at the input's own size: nothing is resampled, so masks are equal to the last bit."""
    index, annotations = read_dataset(shapes, "train"), loader.coco_file(shapes)
    same = loader.compare(index, annotations, (96, 128), 12)
    assert same.objects == sum(len(record.annotations) for record in index.images) > 30
    assert same.box == same.beyond == 0
    assert same.difference / same.objects < 1e-3  # a byte holds 255 steps, four by four pixels have 16
    larger = loader.compare(index, annotations, (192, 256), 12)
    assert larger.box < 1e-4
    assert larger.difference / larger.objects < 1e-3
    words = ["loader", "--data", str(shapes), "--size", "64", "--images", "6", "--repeats", "2"]
    assert main([*words, "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert (tmp_path / "loader.md").read_text() in said
    assert [row[0] for row in loader.speed_lines({loader.OURS: [4.0, 2.0], "other": [2.0, 2.0]})] == ["sais", "other"]
    assert list(loader.speed_lines({loader.OURS: [4.0, 2.0], "other": [2.0, 2.0]}))[1][3] == "1.50"
