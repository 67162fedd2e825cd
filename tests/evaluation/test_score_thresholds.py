"""The thresholds with the best F1, compared with a slow search."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sais
from sais.checkpoint import find_checkpoint, load_checkpoint
from sais.data.annotations import Annotation, DatasetSplit, ImageRecord
from sais.evaluation.coco_metrics import coco_metrics
from sais.evaluation.error_analysis import CORRECT, IGNORED, analyze_errors
from sais.evaluation.evaluate import Evaluation
from sais.evaluation.score_thresholds import MIN_OBJECTS, best_f1, best_thresholds, store_thresholds
from sais.inference.score_thresholds import ScoreThresholds
from sais.ops.rle import encode_cropped

SIZE = (60, 400)


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
