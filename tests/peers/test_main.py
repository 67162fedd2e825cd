"""Tests of the commands of `python -m peers`: evaluation, mask assembly, ratios, loader."""

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


def test_evaluation_methods_have_the_same_ap() -> None:
    costs = evaluation.measure(num_images=6, num_detections=20)
    sais, standard = costs[evaluation.SAIS], costs[evaluation.STANDARD]
    assert sais.box_ap == pytest.approx(standard.box_ap, abs=1e-6)
    assert sais.mask_ap == pytest.approx(standard.mask_ap, abs=1e-6)
    assert 0.2 < sais.mask_ap < 0.999  # neither all wrong nor all right
    rows = evaluation.table_rows(costs)
    assert [row[0] for row in rows] == [evaluation.SAIS, evaluation.STANDARD]
    assert rows[1][4] == "1.000"


def test_assembly_methods_return_masks_of_the_image() -> None:
    case = MaskCase(7, (60, 80), (15, 20))
    inputs, methods = make_inputs(case), postprocessing.available_methods()
    stack = postprocessing.dense_masks(case, inputs)
    assert stack.shape == (7, 60, 80)
    cropped = methods[postprocessing.SAIS](case, inputs)
    assert [int(mask.sum()) for mask in stack] == [int(mask.bits.sum()) for mask in cropped]
    assert tuple(methods[postprocessing.TORCHVISION](case, inputs).shape) == (7, 60, 80)


def test_measure_systems_divides_medians(monkeypatch: pytest.MonkeyPatch) -> None:
    def times(sources: object, names: list[str], conditions: Conditions) -> list[Timing]:
        factor = 0.5 if conditions.retain_memory else 1.0
        return [
            Timing(name, 1.0, 9.0, 10.0 * factor if name.startswith("sais") else 90.0, 0.0, 100)
            for name in names
            if "Mask" not in name
        ]

    monkeypatch.setattr(ratios, "measure_times", times)
    monkeypatch.setattr(ratios, "can_keep_big_blocks", lambda: True)
    rows, quotients = ratios.measure_systems(Conditions(), 3)
    by_pair = {(row[0], row[1]): row[2:] for row in quotients}
    assert by_pair[ratios.STRETCHED, ratios.YOLO] == ["0.200", "<= 0.20", "0.150", "<= 0.50"]
    assert by_pair[ratios.STRETCHED, "its network alone"] == ["2.222", "<= 1.40", "1.667", "-"]
    assert not any("Mask" in name for row in quotients for name in row[:2])  # not measured
    assert len(rows) == len([name for name in ratios.NAMES if "Mask" not in name])


def test_systems_of_the_ratios_exist() -> None:
    from sais.benchmark.candidates import find_candidates

    names = {candidate.name for source in ratios.SOURCES for candidate in find_candidates(source)}
    missing = {name for name in ratios.NAMES if name not in names and not name.startswith("YOLO26")}
    assert not missing
    assert {target.numerator for target in ratios.TARGETS} <= set(ratios.NAMES)
    assert {target.denominator for target in ratios.TARGETS} <= set(ratios.NAMES)


def test_evaluation_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluation", "--images", "2", "--objects", "5", "--out", str(tmp_path)]) == 0
    assert "| sais |" in capsys.readouterr().out
    assert "2 images of 640 x 480, 5 detections each" in (tmp_path / "evaluation.md").read_text()
    assert np.isfinite(float((tmp_path / "evaluation.md").read_text().splitlines()[-1].split("|")[5]))


def test_loaders_agree(shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """At the size of the images nothing is resampled, so that masks are equal to the last bit."""
    split, annotations = read_dataset(shapes, "train"), loader.coco_file(shapes)
    same = loader.compare(split, annotations, (96, 128), 12)
    assert same.num_objects == sum(len(record.annotations) for record in split.images) > 30
    assert same.max_box_difference == same.outside == 0
    assert same.mask_difference / same.num_objects < 1e-3  # 255 steps of a byte against 16 of 4 x 4 pixels
    larger = loader.compare(split, annotations, (192, 256), 12)
    assert larger.max_box_difference < 1e-4
    assert larger.mask_difference / larger.num_objects < 1e-3
    options = ["--data", str(shapes), "--input-size", "64", "--images", "6", "--repeats", "2"]
    assert main(["loader", *options, "--out", str(tmp_path)]) == 0
    assert (tmp_path / "loader.md").read_text() in capsys.readouterr().out
    rows = loader.throughput_rows({loader.SAIS: [4.0, 2.0], "other": [2.0, 2.0]})
    assert [row[0] for row in rows] == [loader.SAIS, "other"]
    assert rows[1][3] == "1.50"
