"""The page of `sais eval --errors`: images and numbers of the errors that were planted."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sais import cli
from sais.commands import compare, evaluate
from sais.data.annotations import DatasetSplit
from sais.data.formats import read_dataset
from sais.errors import InputError
from sais.evaluation.coco_metrics import coco_metrics
from sais.evaluation.error_analysis import BACKGROUND, MISSED
from sais.evaluation.evaluate import Evaluation
from sais.evaluation.score_thresholds import ThresholdGoal
from sais.ops.rle import encode_cropped
from sais.reports import comparison_report, error_images, error_report
from sais.reports.error_report import find_errors, render_error_report, write_error_report
from sais.reports.outline_images import PREDICTION, TRUTH
from tests.reports.page import Page, decode
from tests.reports.test_run_report import NASTY, truth_as_results


@pytest.fixture
def valid(shapes: Path) -> DatasetSplit:
    return read_dataset(shapes, "valid")


def evaluation(split: DatasetSplit, kinds: tuple[Any, ...] = ("bbox", "segm")) -> Evaluation:
    """Return an evaluation that misses the first object and has one detection on background."""
    results = truth_as_results(split)[1:]
    record = split.images[0]
    background = {
        "image_id": record.id, "category_id": split.category_ids[0], "bbox": [0.0, 0.0, 4.0, 4.0], "score": 0.95,
        "segmentation": encode_cropped(np.ones((4, 4), bool), 0, 0, record.size),
    }  # fmt: skip
    return Evaluation(coco_metrics(split, [*results, background], kinds), [*results, background], split)


def share(image: np.ndarray, color: tuple[int, int, int]) -> float:
    """Return the fraction of pixels near a color."""
    return float((np.abs(image.astype(int) - color).max(-1) < 60).mean())


def test_page_shows_the_missed_object_and_the_detection_on_background(valid: DatasetSplit, tmp_path: Path) -> None:
    paths = write_error_report(tmp_path / "out", evaluation(valid), NASTY)
    page = Page(paths[0].read_text())
    first = valid.images[0].annotations[0]
    name = valid.class_names[first.label]
    assert f"{name}, {round(first.box[2] - first.box[0])} x" in page.text
    assert f"{valid.class_names[0]} 0.95" in page.text
    assert "<script>" not in paths[0].read_text()
    missed, background = (decode(url) for url in page.images)
    assert share(missed, TRUTH) > 2 * share(missed, PREDICTION)
    assert share(background, PREDICTION) > share(missed, PREDICTION)
    document = json.loads(paths[1].read_text())
    assert [row["kind"] for row in document["errors"]] == ["missed", "background"]
    assert document["errors"][0]["annotation_id"] == first.id
    objects = sum(len(image.annotations) for image in valid.images)
    assert sum(group["found"] for group in document["groups"]["classes"]) == objects - 1
    rows = list(csv.DictReader(paths[2].open()))
    assert [row["file_name"] for row in rows] == [valid.images[0].name] * 2
    assert rows[1]["score"] == "0.95"
    assert rows[1]["class"] == ""


def test_page_without_masks_without_detections_and_without_errors(valid: DatasetSplit) -> None:
    perfect = truth_as_results(valid)
    for results, kinds, text in (
        ([], ("bbox",), "No detection is correct"),
        (perfect, ("bbox", "segm"), "No errors."),
        (perfect[:1], ("bbox",), "Poor box"),
    ):
        measured = Evaluation(coco_metrics(valid, results, kinds), results, valid)
        page = Page(render_error_report(measured, find_errors(measured), "model"))
        assert text.lower() in page.text.lower()


def test_unreadable_images_and_too_many_images_are_counted(
    valid: DatasetSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [replace(record, source=tmp_path / "absent.jpg") for record in valid.images[:1]]
    broken = replace(valid, images=(*records, *valid.images[1:]))
    measured = Evaluation(coco_metrics(broken, []), [], broken)
    findings = find_errors(measured)
    figures = error_images.draw_errors(findings.analysis, findings.cases, 50)
    assert figures.unreadable == 1
    assert {figure.file_name for figure in figures.by_outcome[MISSED]} == {record.name for record in valid.images[1:]}
    monkeypatch.setattr(error_images, "MAX_CHARACTERS", 20_000)
    figures = error_images.draw_errors(findings.analysis, findings.cases, 50)
    assert figures.omitted > 0
    assert sum(len(figure.image.source) for figure in figures.by_outcome[MISSED]) <= 20_000


def test_images_are_read_once_and_only_those_that_are_shown(valid: DatasetSplit) -> None:
    reads: list[int] = []

    def reader(number: int, pixels: np.ndarray) -> Any:
        def read() -> np.ndarray:
            reads.append(number)
            return pixels

        return read

    images = tuple(replace(record, source=reader(record.id, record.read())) for record in valid.images)
    split = replace(valid, images=images)
    measured = evaluation(split)
    findings = find_errors(measured)
    assert len(findings.cases[MISSED]) == len(findings.cases[BACKGROUND]) == 1
    render_error_report(measured, findings, "model")
    assert reads == [images[0].id]


def test_worst_errors_are_of_several_images(valid: DatasetSplit) -> None:
    measured = Evaluation(coco_metrics(valid, []), [], valid)
    cases = find_errors(measured).cases[MISSED]
    chosen = error_images.choose_worst(cases, 100)
    assert max([case.record.id for case in chosen].count(record.id) for record in valid.images) == 3
    assert chosen[0] is cases[0]


def test_thresholds_of_a_goal_are_on_the_page(valid: DatasetSplit) -> None:
    measured = evaluation(valid)
    findings = find_errors(measured, ThresholdGoal(min_recall=0.5))
    page = Page(render_error_report(measured, findings, "model"))
    assert "recall >= 0.5" in page.text


def test_commands_check_the_files_that_the_pages_consist_of() -> None:
    """The commands name them too, since they check their outputs before the packages of the pages are loaded."""
    assert evaluate.ERROR_FILES == error_report.FILE_NAMES
    assert compare.PAGE_FILES == comparison_report.FILE_NAMES
    assert compare.WRITER == comparison_report.WRITER


@pytest.mark.slow
def test_eval_errors_writes_its_files_and_replaces_no_others(
    trained: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["eval", str(trained), "--data", str(shapes), "--workers", "0", "--device", "cpu"]
    out = tmp_path / "errors"
    for _ in range(2):  # its own files are replaced
        assert cli.main([*words, "--errors", str(out)]) == 0
        assert f"wrote {out / 'index.html'}" in capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == ["errors.csv", "errors.json", "index.html"]
    Page((out / "index.html").read_text(), 5_000_000)
    (out / "index.html").write_text("of others")
    assert cli.main([*words, "--errors", str(out)]) == 2
    assert "index.html: exists" in capsys.readouterr().err
    assert (out / "index.html").read_text() == "of others"
    with pytest.raises(InputError):
        read_dataset(out, "valid")
