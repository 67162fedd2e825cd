"""The report of a run: one file that reports the results of the evaluation for any run and any data."""

from __future__ import annotations

import base64
import io
import json
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sais.cli import main
from sais.config import Experiment, to_dict
from sais.data.annotations import DatasetSplit
from sais.data.formats import read_dataset
from sais.errors import SaisError
from sais.evaluation.coco_metrics import IouType, coco_metrics
from sais.evaluation.error_analysis import analyze_errors
from sais.evaluation.error_budget import KINDS, error_budget
from sais.evaluation.evaluate import Evaluation
from sais.evaluation.visualize import ground_truth_detections
from sais.reports import charts, error_sections, example_images
from sais.reports.charts import SVG_NAMESPACE, Series, line_chart, smooth
from sais.reports.run_record import read_run
from sais.reports.run_report import render_report, write_report
from tests.reports.page import Page

PATH, TEXT, TITLE = (f"{{{SVG_NAMESPACE}}}{tag}" for tag in ("path", "text", "title"))
NASTY = "<script>alert('x')</script> & \"quotes\""


def run_folder(folder: Path, epochs: int = 2, end: bool = True, **changes: Any) -> Path:
    """Write the log of a run."""
    folder.mkdir(parents=True)
    experiment = to_dict(Experiment(name="sais-lite"))
    experiment["schedule"]["epochs"] = epochs
    experiment |= changes
    machine = {"device": "cpu", "name": "a processor", "cores": 2, "threads": 1, "torch": "2.10", "python": "3.11"}
    start: dict[str, Any] = {"kind": "start", "time": 1000.0, "iteration": 0, "total": 3 * epochs, "data": "shapes"}
    entries = [start | {"experiment": experiment, "machine": machine, "paths": {"data": "/data/shapes"}}]
    for i in range(1, 3 * epochs + 1):
        terms = {"total": 3.0 / i, "box": 1.0 / i, "lr": 0.01, "images_per_second": 5.0}
        entries.append({"kind": "iteration", "time": 1000.0 + i, "iteration": i, "epoch": (i - 1) // 3} | terms)
        if i % 3 == 0:
            scores = {"AP": 0.1 * i, "AP50": 0.5, "AP75": None}
            entry = {"kind": "evaluation", "time": 1000.0 + i, "iteration": i, "epoch": i // 3 - 1}
            entries.append(entry | {"metrics": {"mask": scores, "box": scores}})
    if end:
        entries.append({"kind": "end", "time": 1100.0, "iteration": 3 * epochs, "unreadable_images": []})
    (folder / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return folder


def truth_as_results(index: DatasetSplit, score: float = 0.8) -> list[dict[str, Any]]:
    """Return a perfect result for each object."""
    results = []
    for record in index.images:
        truth = ground_truth_detections(record, index)
        results += [result | {"score": score} for result in truth.to_coco(record.id, index.category_ids)]
    return results


def evaluation_of(
    index: DatasetSplit, results: list[dict[str, Any]], kinds: tuple[IouType, ...] = ("bbox", "segm")
) -> Evaluation:
    return Evaluation(coco_metrics(index, results, kinds), results, index)


@pytest.fixture
def valid(shapes: Path) -> DatasetSplit:
    return read_dataset(shapes, "valid")


def test_write_report_shows_the_results_of_the_evaluation(valid: DatasetSplit, tmp_path: Path) -> None:
    results = truth_as_results(valid)[::2]  # half of the objects are found
    evaluation = evaluation_of(valid, results)
    path = write_report(run_folder(tmp_path / "first"), evaluation)
    assert path == tmp_path / "first" / "report.html"
    page = Page(path.read_text())
    metrics = evaluation.metrics
    assert metrics is not None
    assert metrics.mask is not None
    assert f"mask AP {metrics.mask.AP:.3f} AP50 {metrics.mask.AP50:.3f}" in page.text
    for place, (name, value) in enumerate(metrics.mask.per_class.items()):
        count = sum(a.label == place for r in valid.images for a in r.annotations)
        halves = [metrics.mask.curves[i, :, place].mean() for i in (0, 1)]
        if not np.isnan(value):
            assert f"{name} {count} {value:.3f} {halves[0]:.3f} {halves[1]:.3f}" in page.text
    objects = sum(len(r.annotations) for r in valid.images)
    assert f"Outcomes of the {objects} objects found {len(results)}" in page.text
    assert f"Outcomes of the {len(results)} detections correct {len(results)} 100 %" in page.text
    assert f"missed {objects - len(results)}" in page.text
    assert len(page.images) == 4  # all there are, none twice
    assert "sais-lite on shapes · finished, 2 epochs" in page.text
    for link in ("#summary", "#training", "#classes", "#errors", "#confusion", "#settings", "#environment"):
        assert link in page.links
    size = Image.open(io.BytesIO(base64.b64decode(page.images[0].split(",")[1]))).size
    assert size[0] > 2 * 100


def test_report_contains_the_error_budget_of_few_detections(
    valid: DatasetSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = truth_as_results(valid)[::2]
    record = read_run(run_folder(tmp_path / "run"))
    page = Page(render_report(record, evaluation_of(valid, results)))
    budget = error_budget(valid, results, "segm")
    gain, masks = budget.tide[0].gains["missed"], budget.oracles["masks"].AP
    assert gain > 0.1
    assert "#error-budget" in page.links
    cells = " ".join(f"{budget.tide[0].gains[kind]:+.3f}" for kind in KINDS)
    assert f"IoU 0.50 {budget.tide[0].ap:.3f} {cells}" in page.text
    assert f"masks {masks:.3f} {masks - budget.oracles['nothing'].AP:+.3f}" in page.text
    boxes = [{key: value for key, value in r.items() if key != "segmentation"} for r in results]
    page = Page(render_report(record, evaluation_of(valid, boxes, ("bbox",))))
    assert f"boxes {error_budget(valid, boxes, 'bbox').oracles['boxes'].AP:.3f}" in page.text
    monkeypatch.setattr(error_sections, "MAX_BUDGET_DETECTIONS", len(results) - 1)
    assert "#error-budget" not in Page(render_report(record, evaluation_of(valid, results))).links


def test_select_best_and_worst_by_quality(valid: DatasetSplit) -> None:
    results = truth_as_results(valid)
    ids = [record.id for record in valid.images]
    wrong = [r for r in results if r["image_id"] != ids[2]]  # nothing found in the third
    wrong.append(next(r for r in results if r["image_id"] == ids[0]) | {"score": 0.4})  # once more in the first
    judgement = analyze_errors(valid, wrong, "segm")
    best, worst = example_images.select_best_and_worst(judgement, count=2)
    assert {image.record.id for image in best} == {ids[1], ids[3]}
    assert [image.record.id for image in worst] == [ids[2], ids[0]]
    assert worst[0].quality == 0.0
    objects = len(worst[1].objects)
    assert worst[1].quality == pytest.approx(2 * objects / (2 * objects + 1))
    assert all(image.quality == pytest.approx(1.0) for image in best)
    # Of equals the one with more objects first; never one in both.
    assert [len(image.objects) for image in best] == sorted((len(image.objects) for image in best), reverse=True)
    best, worst = example_images.select_best_and_worst(judgement, count=6)
    assert len(best) == len(worst) == 2


def test_write_report_escapes_names(valid: DatasetSplit, tmp_path: Path) -> None:
    nasty = replace(valid, name=NASTY, class_names=(NASTY, *valid.class_names[1:]))
    folder = run_folder(tmp_path / "a<b>&c", name=NASTY)
    page = Page(write_report(folder, evaluation_of(nasty, truth_as_results(nasty)), NASTY).read_text())
    assert page.text.count("alert('x')") > 4
    assert "a<b>&c" in page.text


@pytest.mark.parametrize("count", [80, 1000])
def test_render_report_folds_many_classes(count: int, valid: DatasetSplit, tmp_path: Path) -> None:
    names = tuple(f"class {i}" for i in range(count))
    records = []
    for place, record in enumerate(valid.images):
        moved = (replace(a, label=(37 * i + 7 * place) % count) for i, a in enumerate(record.annotations))
        records.append(replace(record, annotations=tuple(moved)))
    index = replace(valid, class_names=names, category_ids=tuple(range(1, count + 1)), images=tuple(records))
    results = truth_as_results(index)
    for result in results[::3]:
        result["category_id"] = 1 + (result["category_id"] + 4) % count
    page = Page(render_report(read_run(run_folder(tmp_path / "run")), evaluation_of(index, results)))
    used = len({a.label for r in records for a in r.annotations})
    assert f"Best 12 of {used}" in page.text
    assert f"The {used - 24} in between" in page.text
    assert f"{count - used} classes without objects" in page.text
    assert f"of {count} classes that are confused most often" in page.text
    assert page.tags.count("tr") < count + 150


def test_render_report_without_detections_or_objects(valid: DatasetSplit, tmp_path: Path) -> None:
    record = read_run(run_folder(tmp_path / "run"))
    page = Page(render_report(record, evaluation_of(valid, [])))
    assert "The model detected nothing in them" in page.text
    assert "mask AP 0.000" in page.text
    objects = sum(len(r.annotations) for r in valid.images)
    assert f"missed {objects} 100 %" in page.text
    empty = replace(valid, images=tuple(replace(r, annotations=()) for r in valid.images))
    page = Page(render_report(record, Evaluation(None, truth_as_results(valid), empty)))
    assert "the images have no annotations, so that nothing can be evaluated" in page.text
    assert "#confusion" not in page.links


def test_render_report_compares_boxes_without_masks(valid: DatasetSplit, tmp_path: Path) -> None:
    results = [{k: v for k, v in r.items() if k != "segmentation"} for r in truth_as_results(valid)]
    page = Page(render_report(read_run(run_folder(tmp_path / "run")), evaluation_of(valid, results, ("bbox",))))
    assert "by boxes (there are no masks)" in page.text
    assert "box AP 1.000" in page.text
    assert "poor box 0" in page.text
    assert "poor mask" not in page.text
    assert len(page.images) == 4


def test_write_report_describes_running_and_stopped_runs(tmp_path: Path) -> None:
    from sais.engine.lock import lock_run

    folder = run_folder(tmp_path / "run", end=False)
    lock = lock_run(folder)
    page = Page(write_report(folder, missing="No evaluation yet.").read_text())
    lock.release()
    assert "The run is in progress" in page.text
    assert "No evaluation yet." in page.text
    assert "mask AP 0.600" in page.text  # of the last evaluation that is logged
    page = Page(write_report(folder).read_text())
    assert "did not finish; it can be resumed" in page.text
    assert "--resume" in page.text
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "log.jsonl").write_text((folder / "log.jsonl").read_text().splitlines()[0] + "\n")
    assert "No iteration is logged yet" in Page(write_report(bare).read_text()).text
    with pytest.raises(SaisError, match="contains no log.jsonl"):
        write_report(tmp_path)


def test_write_report_lists_changed_settings_first(tmp_path: Path) -> None:
    from sais.recipes import recipe

    experiment = to_dict(recipe("sais-lite"))
    experiment["optim"]["lr"] = 0.0123
    folder = run_folder(tmp_path / "run", **experiment)
    page = Page(write_report(folder).read_text())
    lr = recipe("sais-lite").optim.lr
    assert "Settings that differ from the recipe sais-lite setting this run sais-lite default" in page.text
    assert f"optim.lr 0.0123 {lr:g} 0.01" in page.text
    first, second = page.text.split("Settings in which the recipe sais-lite differs from the defaults")
    assert "model.backbone" not in first
    assert "model.backbone tf_efficientnet_lite0.in1k resnet50.tv_in1k" in second


def test_render_report_counts_missing_images(valid: DatasetSplit, tmp_path: Path) -> None:
    gone = replace(valid, images=(replace(valid.images[0], source=tmp_path / "gone.jpg"), *valid.images[1:]))
    page = Page(render_report(read_run(run_folder(tmp_path / "run")), evaluation_of(gone, [])))
    assert "Omitted because they could not be read: 1." in page.text
    assert len(page.images) == 3


def test_render_report_omits_images_of_a_large_page(
    valid: DatasetSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples = example_images.example_images(analyze_errors(valid, truth_as_results(valid), "segm"))
    size = sum(len(image.source) for group in examples.groups for image in group.images)
    monkeypatch.setattr(example_images, "MAX_CHARACTERS", size // 2)
    page = Page(render_report(read_run(run_folder(tmp_path / "run")), evaluation_of(valid, truth_as_results(valid))))
    assert 0 < len(page.images) < 4
    assert f"Omitted to keep the page small: {4 - len(page.images)}." in page.text


def test_line_chart_places_points_and_ticks() -> None:
    series = Series("a <b>", [(0.0, 0.0), (5.0, 10.0), (10.0, 5.0)])
    svg = ElementTree.fromstring(line_chart("chart", [series], "label", "epoch", y_limits=(0.0, 10.0)))
    assert (svg.get("role"), svg.get("aria-label")) == ("img", "label")
    (curve,) = [path for path in svg.iter(PATH) if f"stroke: {charts.SERIES_COLORS[0]}" in path.get("style", "")]
    numbers = [float(word) for word in curve.get("d", "").split() if word not in "ML"]
    left, right = charts.MARGIN_LEFT, charts.WIDTH - charts.MARGIN_RIGHT
    top, bottom = charts.MARGIN_TOP, charts.HEIGHT - charts.MARGIN_BOTTOM
    expected = [left, bottom, (left + right) / 2, top, right, (top + bottom) / 2]
    assert numbers == pytest.approx(expected, abs=0.01)
    texts = [element.text for element in svg.iter(TEXT)]
    assert texts == ["0", "2", "4", "6", "8", "10", "epoch", "0", "2", "4", "6", "8", "10"]


def test_line_chart_shows_values_in_tooltips() -> None:
    series = Series("a <b>", [(0.0, 0.0), (5.0, 10.0), (10.0, 5.0)])
    svg = ElementTree.fromstring(line_chart("chart", [series], "label", "epoch"))
    titles = [title.text for title in svg.iter(TITLE)]
    assert titles == ["epoch 0\na <b> 0", "epoch 5\na <b> 10", "epoch 10\na <b> 5"]
    long = Series("a", [(float(i), 1.0) for i in range(1000)])
    svg = ElementTree.fromstring(line_chart("chart", [long], "label", "epoch"))
    assert 50 <= len(list(svg.iter(TITLE))) <= charts.MAX_TOOLTIPS


def test_line_chart_of_one_point_has_a_marker() -> None:
    svg = line_chart("chart", [Series("a", [(3.0, 0.0)])], "label", "epoch", integer_x=True)
    assert "<use" in svg
    assert "nan" not in svg


def test_render_svg_is_deterministic_and_ids_differ_between_charts() -> None:
    series = [Series("a", [(0.0, 1.0), (1.0, 2.0)])]
    svg = line_chart("first", series, "label", "epoch", markers=True)
    assert svg == line_chart("first", series, "label", "epoch", markers=True)
    ids = [set(re.findall(r' id="([^"]+)"', line_chart(name, series, "", "", markers=True))) for name in ("a", "b")]
    assert ids[0]
    assert not ids[0] & ids[1]


def test_every_chart_color_follows_the_color_scheme(tmp_path: Path) -> None:
    page = write_report(run_folder(tmp_path / "run")).read_text()
    for svg in re.findall("<svg.*?</svg>", page, re.DOTALL):
        for color in set(re.findall(r"(?:stroke|fill): (#\w+)", svg)):
            assert f'[style*="stroke: {color}"] {{ stroke: var(--' in page
    for name in charts.CHART_COLORS:
        assert page.count(f"\n  --{name}: ") + page.count(f" --{name}: ") >= 2  # light and dark


def test_smooth_keeps_the_mean_and_limits_the_number_of_points() -> None:
    points = [(float(i), float(i % 2)) for i in range(1000)]
    thin = smooth(points, 100)
    assert len(thin) == 100
    assert [y for _, y in thin] == pytest.approx([0.5] * 100)
    assert thin[0][0] == pytest.approx(4.5)
    assert smooth([(1.0, 2.0)]) == [(1.0, 2.0)]
    assert smooth([]) == []


def test_sais_report_agrees_with_sais_eval(
    trained: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", str(trained), "--data", str(shapes), "--workers", "0", "--json", "-"]) == 0
    wanted = json.loads(capsys.readouterr().out)["metrics"]
    out = tmp_path / "page.html"
    assert main(["report", str(trained), "--workers", "0", "--out", str(out)]) == 0  # the run knows its data
    assert capsys.readouterr().out == f"wrote {out}\n"
    page = Page(out.read_text())
    assert "Evaluated: model.safetensors, on 4 images of valid" in page.text
    for kind in ("mask", "box"):
        scores = [f"{wanted[kind][name]:.3f}" for name in ("AP", "AP50", "AP75")]
        assert f"{kind} AP {scores[0]} AP50 {scores[1]} · AP75 {scores[2]}" in page.text
    assert len(page.images) == 4


def test_sais_report_without_data_or_model(
    trained: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(run_folder(tmp_path / "no-model"))]) == 0
    assert "The run has not saved a model yet" in capsys.readouterr().out
    moved = tmp_path / "moved"
    moved.mkdir()
    (moved / "model.safetensors").symlink_to(trained / "model.safetensors")
    log = (trained / "log.jsonl").read_text()
    (moved / "log.jsonl").write_text(log.replace(str(shapes), "/nowhere/at/all"))
    assert main(["report", str(moved)]) == 0
    assert "The data of the run cannot be read" in capsys.readouterr().out
    assert "/nowhere/at/all" in Page((moved / "report.html").read_text()).text
    (moved / "log.jsonl").write_text(log.replace('"valid": "valid"', '"valid": ""'))
    assert main(["report", str(moved)]) == 0
    assert "no validation split" in Page((moved / "report.html").read_text()).text
    (moved / "log.jsonl").write_text(log.replace(str(shapes), "/nowhere/at/all"))  # so --data is another data set
    assert main(["report", str(moved), "--data", str(shapes), "--split", "train", "--workers", "0"]) == 0
    page = Page((moved / "report_shapes_train.html").read_text())
    assert "Evaluated: model.safetensors, on 12 images of train with" in page.text
    assert "no validation split" in Page((moved / "report.html").read_text()).text  # is not overwritten
    (moved / "log.jsonl").write_text(log)
    assert main(["report", str(moved), "--split", "train", "--workers", "0"]) == 0
    assert "12 images of train" in Page((moved / "report_train.html").read_text()).text
    assert main(["report", str(tmp_path)]) == 2
    assert "contains no log.jsonl" in capsys.readouterr().err


def test_sais_train_writes_a_report_and_survives_its_failure(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def train(name: str, *more: str) -> str:
        short = ["--size", "64", "--epochs", "1", "--batch-size", "12", "--workers", "0", "--device", "cpu"]
        words = ["train", "sais-lite", "--data", str(shapes), "--out", str(tmp_path / name), *short, *more]
        assert main(words) == 0
        return capsys.readouterr().out

    output = train("first")
    assert f"report: {tmp_path / 'first' / 'report.html'}" in output
    page = Page((tmp_path / "first" / "report.html").read_text())
    logged = [e for e in map(json.loads, (tmp_path / "first" / "log.jsonl").open()) if e["kind"] == "evaluation"]
    assert f"box AP {logged[-1]['metrics']['box']['AP']:.3f}" in page.text
    assert len(page.images) == 4  # of the evaluation at the end, which is not made again

    def broken(*_: object) -> None:
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr("sais.reports.run_report.write_report", broken)
    output = train("second", "--valid-split", "")
    assert "no report was written (ZeroDivisionError: a fault of ours); try sais report" in output
    assert (tmp_path / "second" / "model.safetensors").is_file()
    output = train("third", "--no-report", "--valid-split", "")
    assert "report:" not in output
    assert "no report was written" not in output
    assert not (tmp_path / "third" / "report.html").exists()
