"""Evaluation of a model: what is written is what pycocotools would score, whatever is missing."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sais import cli
from sais.data.annotations import DatasetSplit, object_mask
from sais.data.formats import read_dataset
from sais.data.paths import DataPaths
from sais.errors import InputError
from sais.evaluation.coco_metrics import COLUMNS
from sais.evaluation.evaluate import evaluate
from sais.inference.predictor import Predictor
from sais.ops.letterbox import CanvasMap
from sais.ops.rasterize import inside
from sais.results.cropped_mask import CroppedMask
from sais.results.detections import Detections


def pycocotools_metrics(annotations: Path, results: list[dict[str, Any]], kind: str) -> list[float]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    if kind == "segm":  # with a bbox, pycocotools would use the area of the box instead of the mask
        results = [{k: v for k, v in result.items() if k != "bbox"} for result in results]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(annotations))
        evaluation = COCOeval(truth, truth.loadRes(json.loads(json.dumps(results))), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats.tolist()


def check_scores(scores: dict[str, Any], stats: list[float]) -> None:
    numbers = [-1.0 if scores[name] is None else scores[name] for name in COLUMNS]
    np.testing.assert_allclose(numbers, stats, atol=1e-6)


class Oracle:
    """A detector that returns the ground truth, shifted by some pixels so that AP is neither 0 nor 1."""

    def __init__(self, predictor: Predictor, split: DatasetSplit, shift: int) -> None:
        self.experiment, self.class_names, self.split = predictor.experiment, predictor.class_names, split
        self.shift, self.seen = shift, 0

    def detect(self, canvases: torch.Tensor, canvas_maps: list[CanvasMap]) -> list[Detections]:
        assert canvases.shape[0] == len(canvas_maps)
        all_detections = []
        for canvas_map in canvas_maps:
            record = self.split.images[self.seen]
            self.seen += 1
            assert canvas_map.image_size == record.size
            height, width = record.size
            boxes, cropped_masks = [], []
            for i, annotation in enumerate(record.annotations):
                mask = object_mask(annotation, record.size)
                assert mask is not None
                shifted = np.roll(inside(mask, (0, 0, width, height)), self.shift * (i % 3), axis=1)
                cropped_masks.append(CroppedMask(0, 0, shifted))
                boxes.append(annotation.box + np.array([1, 0, 1, 0]) * self.shift * (i % 3))
            labels = np.array([annotation.label for annotation in record.annotations], np.int64)
            scores = np.linspace(0.9, 0.1, len(labels)).astype(np.float32)
            all_detections.append(
                Detections(record.size, np.array(boxes).reshape(-1, 4), scores, labels, self.class_names, cropped_masks)
            )
        return all_detections


@pytest.mark.parametrize("shift", [0, 3])
def test_evaluate_scores_a_detector_with_known_results(trained: Path, shapes: Path, shift: int) -> None:
    """Batches, order, ids and classes are correct: the ground truth has AP 1, shifted it equals pycocotools."""
    split = read_dataset(shapes, "train")
    done: list[int] = []
    oracle: Any = Oracle(Predictor(trained), split, shift)
    evaluation = evaluate(oracle, split, batch_size=5, workers=0, progress=done.append)
    assert sum(done) == 12
    assert evaluation.metrics is not None
    metrics = evaluation.metrics.to_dict()
    for kind, name in (("bbox", "box"), ("segm", "mask")):
        check_scores(metrics[name], pycocotools_metrics(shapes / "annotations/train.json", evaluation.results, kind))
        assert metrics[name]["AP"] == (pytest.approx(1.0) if shift == 0 else pytest.approx(0.6, abs=0.35))


def test_eval_command_writes_the_results_that_it_scores(
    trained: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures, results = tmp_path / "out" / "figures.json", tmp_path / "results.json"
    words = ["eval", str(trained), "--data", str(shapes), "--split", "train", "--score", "0.02", "--workers", "0"]
    assert cli.main([*words, "--json", str(figures), "--results", str(results)]) == 0
    out = capsys.readouterr().out
    assert "12 images, " in out
    assert f"wrote {results}, {figures}" in out
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["figures.json", "results.json"]
    report, written = json.loads(figures.read_text()), json.loads(results.read_text())
    assert report["detections"] == len(written) > 0
    assert report["images"] == 12
    assert report["unreadable_images"] == 0
    assert {result["image_id"] for result in written} <= set(range(1, 13))
    assert {result["category_id"] for result in written} <= {1, 2, 3, 4, 5}
    for kind, name in (("bbox", "box"), ("segm", "mask")):
        check_scores(report["metrics"][name], pycocotools_metrics(shapes / "annotations/train.json", written, kind))
    assert report["metrics"]["box"]["AR100"] > 0
    assert list(report["metrics"]["box"]["per_class"]) == ["ring", "star", "triangle", "crescent", "cross"]

    assert cli.main([*words, "--json", "-", "--batch-size", "5"]) == 0  # only JSON on stdout
    printed = json.loads(capsys.readouterr().out)
    for name in COLUMNS:
        assert printed["metrics"]["box"][name] == pytest.approx(report["metrics"]["box"][name], abs=1e-3)


def test_evaluate_on_whole_images_equals_canvases(trained: Path, shapes: Path) -> None:
    """The loader's canvases, or whole images for a function that resizes them."""
    predictor, split = Predictor(trained, device="cpu", score=None), read_dataset(shapes, "train")
    done: list[int] = []
    by_canvas = evaluate(predictor, split, batch_size=5, workers=0)
    by_image = evaluate(predictor, split, batch_size=5, workers=0, progress=done.append, detect_images=predictor.batch)
    assert done == [5, 5, 2]
    assert len(by_canvas.results) == len(by_image.results) > 20
    for result, other in zip(by_canvas.results, by_image.results, strict=True):
        assert result["image_id"] == other["image_id"]
        assert result["score"] == pytest.approx(other["score"], abs=1e-5)
    assert by_canvas.metrics is not None
    assert by_image.metrics is not None
    assert by_canvas.metrics.box is not None
    assert by_image.metrics.box is not None
    for name in COLUMNS:
        first, second = by_canvas.metrics.to_dict()["mask"][name], by_image.metrics.to_dict()["mask"][name]
        assert first == pytest.approx(second, abs=1e-3)


def test_eval_command_uses_test_time_augmentation(
    trained: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results.json"
    words = ["eval", str(trained), "--data", str(shapes), "--split", "train", "--workers", "0", "--json", "-"]
    augmentation = ["--tta-flip", "--tta-scales", "1.0", "1.5", "--results", str(results)]
    assert cli.main([*words, *augmentation]) == 0
    report, written = json.loads(capsys.readouterr().out), json.loads(results.read_text())
    assert (report["tta_flip"], report["tta_scales"]) == (True, [1.0, 1.5])
    for kind, name in (("bbox", "box"), ("segm", "mask")):
        check_scores(report["metrics"][name], pycocotools_metrics(shapes / "annotations/train.json", written, kind))
    predictor = Predictor(trained, device="cpu", score=None, tta_flip=True, tta_scales=(1.0, 1.5))
    record = read_dataset(shapes, "train").images[3]
    scores = sorted((result["score"] for result in written if result["image_id"] == record.id), reverse=True)
    np.testing.assert_allclose(scores, predictor(record.path).scores, atol=1e-5)
    assert cli.main(words) == 0
    plain = json.loads(capsys.readouterr().out)
    assert (plain["tta_flip"], plain["tta_scales"]) == (False, [1.0])
    assert plain["metrics"] != report["metrics"]
    assert cli.main([*words, "--tta-scales", "1.0", "1.1"]) == 2
    assert "1 and 1.1 give the same input of 64 x 64" in capsys.readouterr().err


def changed(shapes: Path, folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    (folder / "annotations").mkdir(parents=True)
    shutil.copytree(shapes / "images" / "valid", folder / "images" / "valid")
    document = json.loads((shapes / "annotations" / "valid.json").read_text())
    change(document)
    (folder / "annotations" / "valid.json").write_text(json.dumps(document))
    return folder


def test_eval_command_writes_json_before_the_table(
    trained: Path, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`sais eval ... --json FILE | head` closes the pipe while the table is printed."""
    words = ["eval", str(trained), "--data", str(shapes), "--workers", "0", "--json", str(tmp_path / "metrics.json")]
    assert cli.main(words) == 0
    output = capsys.readouterr().out
    detections = json.loads((tmp_path / "metrics.json").read_text())["metrics"]["detections"]
    assert output.count(f"{detections} detections") == 1
    assert output.endswith(f"wrote {tmp_path / 'metrics.json'}\n")
    (tmp_path / "metrics.json").unlink()

    def close(*_: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("sais.commands.evaluate.print_text", close)
    cli.main(words)
    assert (tmp_path / "metrics.json").is_file()


def test_eval_command_without_annotations_writes_results_only(
    trained: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = changed(shapes, tmp_path / "dev", lambda d: d.pop("annotations"))
    results = tmp_path / "results.json"
    words = ["--data", str(data), "--results", str(results), "--score", "0.02", "--workers", "0"]
    assert cli.main(["eval", str(trained), *words]) == 0
    written = json.loads(results.read_text())
    assert f"no annotations: no metrics\n{len(written)} detections in " in capsys.readouterr().out
    assert written
    for result in written:
        assert set(result) == {"image_id", "category_id", "bbox", "score", "segmentation"}
        assert result["segmentation"]["size"] == [96, 128]
        assert isinstance(result["segmentation"]["counts"], str)
    assert cli.main(["eval", str(trained), "--data", str(data), "--json", "-", "--workers", "0"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"] is None


def test_evaluate_compares_boxes_if_objects_have_no_masks(trained: Path, shapes: Path, tmp_path: Path) -> None:
    def without_masks(document: dict[str, Any]) -> None:
        for annotation in document["annotations"]:
            del annotation["segmentation"]

    split = read_dataset(changed(shapes, tmp_path / "boxes", without_masks), "valid")
    metrics = evaluate(Predictor(trained), split, workers=0).metrics
    assert metrics is not None
    assert metrics.box is not None
    assert metrics.mask is None


def test_evaluate_counts_unreadable_images_and_excludes_their_objects(
    trained: Path, shapes: Path, tmp_path: Path
) -> None:
    data = changed(shapes, tmp_path / "broken", lambda d: None)
    (data / "images/valid/valid_00001.jpg").write_bytes(b"no image")
    split = read_dataset(data, "valid")
    with pytest.raises(InputError, match=r"valid_00001\.jpg.*skip_broken"):
        evaluate(Predictor(trained), split, workers=0)
    predictor = Predictor(trained)
    for detect_images in (None, predictor.batch):
        evaluation = evaluate(predictor, split, workers=0, skip_broken=True, detect_images=detect_images)
        assert len(evaluation.unreadable_images) == 1
        assert evaluation.metrics is not None
        assert evaluation.metrics.images == 3
        assert evaluation.metrics.objects == sum(len(r.annotations) for r in split.images if r.id != 2)
        assert 2 not in {result["image_id"] for result in evaluation.results}
    for image in (data / "images/valid").iterdir():
        image.write_bytes(b"no image")
    for detect_images in (None, predictor.batch):
        evaluation = evaluate(predictor, split, workers=0, skip_broken=True, detect_images=detect_images)
        assert (len(evaluation.unreadable_images), evaluation.results) == (4, [])


def test_evaluate_refuses_other_classes(trained: Path, shapes: Path, tmp_path: Path) -> None:
    data = changed(shapes, tmp_path / "other", lambda d: d["categories"][0].update(name="hoop"))
    with pytest.raises(InputError, match="are not those of the model"):
        evaluate(Predictor(trained), read_dataset(data, "valid"), workers=0)


def test_eval_command_uses_tiles(
    trained: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The detections of `sais predict --tiles` are scored."""
    results = tmp_path / "results.json"
    words = ["eval", str(trained), "--data", str(shapes), "--workers", "0", "--json", "-"]
    assert cli.main([*words, "--tiles", "48", "--tile-overlap", "0.4", "--results", str(results)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["tiles"] == 48
    split, predictor = (
        read_dataset(shapes, "valid"),
        Predictor(trained, device="cpu", score=None, tiles=48, tile_overlap=0.4),
    )
    expected = [d for r in split.images for d in predictor(r.path).to_coco(r.id, split.category_ids)]
    written = json.loads(results.read_text())
    assert len(written) == len(expected) > 0
    assert [result["segmentation"] for result in written] == [result["segmentation"] for result in expected]
    assert cli.main(words) == 0
    plain = json.loads(capsys.readouterr().out)
    assert plain["tiles"] is None
    assert plain["metrics"] != report["metrics"]
    assert cli.main([*words, "--tiles", "12x"]) == 2
    assert "--tiles" in capsys.readouterr().err


def test_evaluate_opens_models_and_data_sets_by_path(trained: Path, shapes: Path) -> None:
    expected = evaluate(Predictor(trained), read_dataset(shapes, "valid"), workers=0)
    assert evaluate(trained, str(shapes), workers=0).results == expected.results
    with pytest.raises(InputError, match="no split"):
        evaluate(trained, DataPaths(shapes, valid=""), workers=0)
    tiled = evaluate(Predictor(trained, tiles=48), shapes, batch_size=1, workers=0)
    assert tiled.results != expected.results
