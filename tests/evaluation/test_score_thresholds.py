"""The thresholds with the best F1, compared with a slow search."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sais
from sais.checkpoint import find_checkpoint, load_checkpoint
from sais.data.annotations import Annotation, DatasetSplit, ImageRecord
from sais.errors import CheckpointError, ConfigError
from sais.evaluation.coco_metrics import coco_metrics
from sais.evaluation.error_analysis import CORRECT, IGNORED, analyze_errors
from sais.evaluation.evaluate import Evaluation
from sais.evaluation.score_thresholds import (
    BEST_F1,
    MIN_OBJECTS,
    ThresholdGoal,
    best_f1,
    best_point,
    best_points,
    best_thresholds,
    store_thresholds,
)
from sais.inference.graph_checksum import ENTRY, check_seal, placeholder, seal
from sais.inference.score_thresholds import ScoreThresholds, thresholds_from_dict
from sais.ops.rle import encode_cropped

SIZE = (60, 400)

Export = Callable[[str], Path]


def noisy_split(seed: int, objects: int = 30) -> tuple[DatasetSplit, list[dict[str, Any]]]:
    """Return an image with objects of two classes, most of them of the first, and detections on and off them."""
    random = np.random.default_rng(seed)
    annotations, results = [], []
    for number in range(objects):
        label, x, y = int(number % 6 == 5), 13 * number, 5 + int(random.integers(20))
        shape = encode_cropped(np.ones((10, 10), bool), x, y, SIZE)
        box = np.array([x, y, x + 10, y + 10], np.float32)
        annotations.append(Annotation(number + 1, box, label, shape, False, 100.0))
        for shift, score in ((0, random.beta(4, 2)), (25, random.beta(2, 4))):
            if random.random() < 0.8:
                moved = encode_cropped(np.ones((10, 10), bool), x, y + shift, SIZE)
                entry = {"image_id": 1, "category_id": (4, 9)[label], "bbox": [x, y + shift, 10, 10]}
                results.append(entry | {"score": round(float(score), 4), "segmentation": moved})
    record = ImageRecord(1, Path("1.jpg"), SIZE, tuple(annotations))
    return DatasetSplit("valid", ("cell", "worm"), (4, 9), (record,)), results


def f1_at(split: DatasetSplit, results: list[dict[str, Any]], score: float, label: int | None = None) -> float:
    """Return F1 with the detections from a score, counted one by one."""
    names = split.category_ids
    (image,) = analyze_errors(split, results, "segm", score=score).images
    rows = zip(image.results, image.match.detections, strict=True)
    kinds = [kind for result, kind in rows if label is None or result["category_id"] == names[label]]
    objects = sum(label in (None, a.label) for a in image.objects)
    return 2 * kinds.count(CORRECT) / (objects + sum(kind != IGNORED for kind in kinds))


class CountedList(list[Any]):
    """A list that counts how often it is read from its start."""

    passes = 0

    def __iter__(self) -> Iterator[Any]:
        self.passes += 1
        return super().__iter__()


def test_points_of_1000_classes_take_one_pass() -> None:
    """A pass for each class took 18 s for 1,000 images and 1,200 classes."""
    split, results = noisy_split(0)
    analysis = analyze_errors(split, results, "segm", score=0.0)
    expected = {"cell": best_point(analysis, BEST_F1, 0)}  # the other classes have too few objects
    names = tuple(f"class {number}" for number in range(1000))
    many = replace(
        split, class_names=(*split.class_names, *names), category_ids=(*split.category_ids, *range(10, 1010))
    )
    images = CountedList(analysis.images)
    _, per_class = best_points(replace(analysis, split=many, images=images))
    assert per_class == expected
    assert images.passes <= 4


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("label", [None, 0, 1])
def test_best_f1_equals_the_best_of_all_thresholds(seed: int, label: int | None) -> None:
    split, results = noisy_split(seed)
    best = best_f1(analyze_errors(split, results, "segm", score=0.0), label)
    assert best is not None
    score, f1 = best
    assert f1 == pytest.approx(max(f1_at(split, results, r["score"], label) for r in results))
    assert f1 == pytest.approx(f1_at(split, results, score, label))
    assert score == round(score, 4)


def rates_at(split: DatasetSplit, results: list[dict[str, Any]], score: float) -> tuple[float, float]:
    """Return precision and recall with the detections from a score, counted one by one."""
    (image,) = analyze_errors(split, results, "segm", score=score).images
    counted = [kind for kind in image.match.detections if kind != IGNORED]
    correct = counted.count(CORRECT)
    return correct / len(counted), correct / len(image.objects)


@pytest.mark.parametrize("seed", range(3))
def test_threshold_of_a_minimum_precision_has_the_highest_recall_of_all_thresholds(seed: int) -> None:
    split, results = noisy_split(seed)
    analysis = analyze_errors(split, results, "segm", score=0.0)
    every = [rates_at(split, results, result["score"]) for result in results]
    for goal in (0.6, 0.8, 0.9):
        point = best_point(analysis, ThresholdGoal(min_precision=goal))
        assert point is not None
        assert (point.precision, point.recall) == rates_at(split, results, point.score)
        assert point.reached
        assert point.precision >= goal
        assert point.recall == max(recall for precision, recall in every if precision >= goal)


@pytest.mark.parametrize("seed", range(3))
def test_threshold_of_a_minimum_recall_is_the_highest_that_reaches_it(seed: int) -> None:
    split, results = noisy_split(seed)
    analysis = analyze_errors(split, results, "segm", score=0.0)
    for goal in (0.3, 0.6):
        point = best_point(analysis, ThresholdGoal(min_recall=goal))
        assert point is not None
        assert (point.precision, point.recall) == rates_at(split, results, point.score)
        assert point.reached
        above = [r["score"] for r in results if r["score"] > point.score]
        assert rates_at(split, results, min(above))[1] >= goal > rates_at(split, results, sorted(above)[1])[1]


def test_threshold_of_a_goal_out_of_reach_comes_closest_to_it() -> None:
    split, results = noisy_split(0)
    analysis = analyze_errors(split, results, "segm", score=0.0)
    every = [rates_at(split, results, result["score"]) for result in results]
    point = best_point(analysis, ThresholdGoal(min_recall=0.999))
    assert point is not None
    assert (point.reached, point.recall) == (False, max(recall for _, recall in every))
    wrong = [r | {"segmentation": encode_cropped(np.ones((2, 2), bool), 390, 50, SIZE), "score": 1.0} for r in results]
    point = best_point(analyze_errors(split, results + wrong[:20], "segm", score=0.0), ThresholdGoal(0.999))
    assert point is not None
    assert not point.reached
    assert point.precision < 0.999


def test_goals_that_no_threshold_can_have_are_refused() -> None:
    with pytest.raises(ConfigError, match="Give one of them"):
        ThresholdGoal(0.9, 0.9)
    with pytest.raises(ConfigError, match=r"min_recall 90: .* such as 0\.9"):
        ThresholdGoal(min_recall=90)


def test_criterion_of_thresholds_is_stored_and_missing_in_older_files() -> None:
    split, results = noisy_split(0)
    thresholds = best_thresholds(
        Evaluation(coco_metrics(split, results), results, split), ThresholdGoal(min_precision=0.9)
    )
    assert thresholds is not None
    assert thresholds.criterion == "precision >= 0.9"
    assert thresholds_from_dict(thresholds.to_dict(), "model") == thresholds
    older = {key: value for key, value in thresholds.to_dict().items() if key != "criterion"}
    read = thresholds_from_dict(older, "model")
    assert read is not None
    assert read.criterion == "best F1"


def test_best_thresholds_are_of_all_classes_and_of_classes_with_enough_objects() -> None:
    split, results = noisy_split(0)
    thresholds = best_thresholds(Evaluation(coco_metrics(split, results), results, split))
    assert thresholds is not None
    assert (thresholds.split, thresholds.kind) == ("valid", "masks")
    analysis = analyze_errors(split, results, "segm", score=0.0)
    assert (thresholds.overall, thresholds.f1) == best_f1(analysis)
    counts = [sum(a.label == label for a in split.images[0].annotations) for label in (0, 1)]
    assert counts[1] < MIN_OBJECTS <= counts[0]
    cell = best_f1(analysis, 0)
    assert cell is not None
    assert thresholds.per_class == {"cell": cell[0]}


def test_best_thresholds_of_useless_detections_are_none() -> None:
    split, results = noisy_split(0)
    wrong = [result | {"segmentation": encode_cropped(np.ones((2, 2), bool), 390, 50, SIZE)} for result in results]
    assert best_thresholds(Evaluation(coco_metrics(split, wrong), wrong, split)) is None
    assert best_thresholds(Evaluation(None, results, split)) is None


def test_limit_note_counts_images_with_more_objects_than_ap_counts_detections() -> None:
    split, results = noisy_split(0)
    evaluation = Evaluation(coco_metrics(split, results, max_detections=20), results, split, max_detections=20)
    assert evaluation.limit_note().startswith("1 images have more than 20 objects (up to 30)")
    assert Evaluation(None, results, split, max_detections=30).limit_note() == ""


@pytest.mark.parametrize("limit", [5, 20, 1500])
def test_coco_metrics_with_another_limit_equal_pycocotools(limit: int) -> None:
    pytest.importorskip("pycocotools")
    import contextlib
    import io

    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    from sais.evaluation.coco_metrics import coco_dict

    split, results = noisy_split(1)
    metrics = coco_metrics(split, results, max_detections=limit)
    for kind, scores, other in (("bbox", metrics.box, "segmentation"), ("segm", metrics.mask, "bbox")):
        assert scores is not None
        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO()
            truth.dataset = coco_dict(split)
            truth.createIndex()
            detections = truth.loadRes([{k: v for k, v in r.items() if k != other} for r in results])
            oracle = COCOeval(truth, detections, kind)
            oracle.params.maxDets = [1, min(10, limit), limit]
            oracle.evaluate()
            oracle.accumulate()
        for area, name in ((0, "AP"), (1, "APs"), (3, "APl")):
            values = oracle.eval["precision"][:, :, :, area, 2]
            expected = values[values > -1].mean() if (values > -1).any() else math.nan
            assert getattr(scores, name) == pytest.approx(expected, abs=1e-6, nan_ok=True)
        assert pytest.approx(oracle.eval["recall"][:, :, 0, 2].mean(), abs=1e-6) == scores.AR100
    assert f"AR{limit}" in metrics.table()
    assert f"AP counts the best {limit} of each image (COCO: 100)" in metrics.table()
    assert metrics.to_dict()["max_detections"] == limit
    assert "COCO: 100" not in coco_metrics(split, results).table()


@pytest.mark.slow
def test_store_thresholds_changes_what_predictions_with_the_model_use(trained: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(trained, tmp_path / "run")
    expected = load_checkpoint(find_checkpoint(folder))
    path = store_thresholds(folder, ScoreThresholds(0.42, 0.9, "valid", "masks", {}))
    assert path == find_checkpoint(folder)
    changed = load_checkpoint(path)
    assert all(torch.equal(value, changed.tensors[name]) for name, value in expected.tensors.items())
    assert "score >= 0.42: best F1 of masks on valid" in str(sais.Predictor(folder).filter)


def test_store_thresholds_replaces_one_entry_of_an_onnx_file_and_its_checksum(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    output = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [value], [output]))
    onnx.helper.set_model_props(model, {"thresholds": "null", "format": "kept", ENTRY: placeholder(".onnx")})
    path = tmp_path / "m.onnx"
    onnx.save(model, str(path))
    seal(path)
    thresholds = ScoreThresholds(0.42, 0.9, "valid", "masks", {"größer": 0.3}, "recall >= 0.9")
    assert store_thresholds(path, thresholds) == path
    check_seal(path)
    stored = onnx.load(str(path))
    entries = {entry.key: entry.value for entry in stored.metadata_props}
    assert thresholds_from_dict(json.loads(entries["thresholds"]), "m.onnx") == thresholds
    assert entries["format"] == "kept"
    assert stored.graph == model.graph
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(CheckpointError, match="checksum mismatch"):
        store_thresholds(path, thresholds)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["raw.onnx", "detections.xml"])
def test_store_thresholds_changes_what_predictions_with_an_exported_file_use(
    name: str, exported: Export, tmp_path: Path, shapes: Path
) -> None:
    source = exported(name)
    path = Path(shutil.copy(source, tmp_path))
    if path.suffix == ".xml":
        shutil.copy(source.with_suffix(".bin"), tmp_path)
    image = next((shapes / "images/valid").iterdir())
    expected = sais.Predictor(path, score=0.0)(image)
    store_thresholds(path, ScoreThresholds(0.42, 0.9, "valid", "masks", {}, "precision >= 0.8"))
    assert "score >= 0.42: precision >= 0.8 of masks on valid" in str(sais.Predictor(path).filter)
    assert np.array_equal(sais.Predictor(path, score=0.0)(image).scores, expected.scores)
    assert sorted(file.suffix for file in tmp_path.iterdir()) == sorted(
        {path.suffix, *([".bin"] * (path.suffix == ".xml"))}
    )
