"""The comparison of two models: objects that one of them finds, the page, the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sais import cli
from sais.data.annotations import DatasetSplit
from sais.data.formats import read_dataset
from sais.evaluation.bootstrap import Difference, bootstrap_differences
from sais.evaluation.coco_matches import collect_matches
from sais.evaluation.coco_metrics import coco_metrics
from sais.evaluation.error_analysis import analyze_errors
from sais.reports.comparison_report import (
    ComparedModel,
    Comparison,
    describe_difference,
    render_comparison,
    write_comparison,
)
from tests.reports.page import Page
from tests.reports.test_run_report import NASTY, truth_as_results


@pytest.fixture
def valid(shapes: Path) -> DatasetSplit:
    return read_dataset(shapes, "valid")


def comparison(split: DatasetSplit, first: list[dict[str, Any]], second: list[dict[str, Any]]) -> Comparison:
    """Return the comparison of two lists of results by masks."""
    models = [
        ComparedModel(name, analyze_errors(split, results, "segm"), "default", 2_000_000, None, 0.125)
        for name, results in ((NASTY, first), ("runs/second", second))
    ]
    matches = [collect_matches(split, results, "segm") for results in (first, second)]
    differences = bootstrap_differences(*matches, split.class_names, 50)
    return Comparison(split, "segm", (models[0], models[1]), differences)


def test_comparison_lists_the_objects_that_one_model_finds(valid: DatasetSplit, tmp_path: Path) -> None:
    truth = truth_as_results(valid)
    ids = [(record.id, annotation.id) for record in valid.images for annotation in record.annotations]
    last = len(truth) - 1
    compared = comparison(valid, truth[1:], truth[:last])
    assert vars(compared.counts) == {"both": last - 1, "only_first": 1, "only_second": 1, "neither": 0}
    paths = write_comparison(tmp_path / "out", compared)
    document = json.loads(paths[1].read_text())
    found = {
        image["image_id"]: (image["found_only_by_first"], image["found_only_by_second"])
        for image in document["image_differences"]
    }
    assert found == {ids[0][0]: ([], [ids[0][1]]), ids[-1][0]: ([ids[-1][1]], [])}
    assert document["image_differences"][0]["image_id"] == ids[0][0]  # where the second is better
    metrics = coco_metrics(valid, truth[:last]).mask
    assert metrics is not None
    assert document["figures"]["AP"]["second"] == pytest.approx(metrics.AP, abs=1e-6)
    assert document["models"][1]["seconds"] == 0.125
    text = paths[0].read_text()
    page = Page(text)
    assert "<script>" not in text
    assert len(page.images) == 4
    assert "found only by A 0, only by B 1; false detections A 0, B 0" in page.text
    assert "2.0 MB" in page.text
    assert "125.0 ms" in page.text


def test_comparison_of_equal_models_shows_no_images(valid: DatasetSplit) -> None:
    truth = truth_as_results(valid)
    compared = comparison(valid, truth, truth)
    page = Page(render_comparison(compared))
    assert not page.images
    assert "mask AP +0.000 (95 % interval +0.000 to +0.000, p = 1.00)" in page.text


def test_images_are_ordered_by_the_number_of_errors_less(valid: DatasetSplit) -> None:
    truth = truth_as_results(valid)
    background = truth[0] | {"bbox": [0.0, 0.0, 3.0, 3.0], "segmentation": truth[0]["segmentation"]}
    first = [*truth[1:], background | {"image_id": valid.images[1].id}]
    images = comparison(valid, first, truth).images
    assert [image.balance for image in images] == sorted((image.balance for image in images), reverse=True)
    assert {image.record.id for image in images} == {valid.images[0].id, valid.images[1].id}
    assert images[-1].false_detections[0] >= 1


def test_describe_difference_says_when_the_interval_contains_zero() -> None:
    certain = describe_difference(Difference(0.3, 0.4, 0.05, 0.15, 0.002), "mask")
    assert certain == "B minus A: mask AP +0.100 (95 % interval +0.050 to +0.150, p = 0.002)."
    assert describe_difference(Difference(0.3, 0.31, -0.02, 0.04, 0.5), "box").endswith("may reverse it.")
    assert "undefined" in describe_difference(Difference(np.nan, np.nan, np.nan, np.nan, np.nan), "box")


@pytest.mark.slow
def test_compare_a_run_with_files_of_its_own_detections(
    trained: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The results of `sais eval` have the AP of the model; predictions.json has its image names and classes."""
    words = ["--data", str(shapes), "--workers", "0", "--device", "cpu"]
    results, out = tmp_path / "results.json", tmp_path / "out"
    assert cli.main(["eval", str(trained), *words, "--results", str(results), "--json", "-"]) == 0
    expected = json.loads(capsys.readouterr().out)["metrics"]["mask"]
    more = ["--resamples", "20", "--timing-images", "2"]
    for _ in range(2):  # its own page is replaced
        assert cli.main(["compare", str(trained), str(results), *words, *more, "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "B minus A: mask AP +0.000 (95 % interval" in text or "-0.000" in text
    assert "note: With 4 images" in text
    document = json.loads((out / "compare.json").read_text())
    for side in ("first", "second"):
        assert document["figures"]["AP"][side] == pytest.approx(expected["AP"], abs=1e-6)
    assert document["models"][0]["seconds"] > 0
    assert document["models"][0]["parameters"] > 1000
    assert document["models"][1]["seconds"] is None
    assert (
        cli.main(["predict", str(trained), str(shapes / "images/valid"), "--out", str(tmp_path / "p"), "--no-draw"])
        == 0
    )
    capsys.readouterr()
    predictions = str(tmp_path / "p/predictions.json")
    assert cli.main(["compare", predictions, predictions, *words, *more, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["images"] == 4
    assert document["figures"]["AP"]["difference"] == 0
    assert cli.main(["compare", predictions, str(tmp_path / "absent"), *words]) == 2
    assert "no such model" in capsys.readouterr().err
