"""Outcomes of objects and detections compared with slow loops; precision curves compared with pycocotools."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sais.data.annotations import Annotation, DatasetSplit, ImageRecord
from sais.evaluation.coco_metrics import IouType, coco_dict, coco_metrics
from sais.evaluation.error_analysis import (
    BACKGROUND,
    CORRECT,
    DUPLICATE,
    FOUND,
    IGNORED,
    MISSED,
    POOR_MASK,
    WRONG_CLASS,
    ErrorAnalysis,
    analyze_errors,
    box_or_mask_ious,
    match_detections,
)
from sais.evaluation.score_thresholds import best_f1, by_score_threshold
from sais.ops.rle import encode_cropped
from sais.reports.error_sections import confused_pairs

SIZE = (60, 80)
NAMES = ("cat", "dog", "eel")
IDS = (3, 7, 20)


def rectangle(x: int, y: int, w: int, h: int) -> dict[str, Any]:
    return encode_cropped(np.ones((h, w), bool), x, y, SIZE)


def annotation(number: int, label: int, box: tuple[int, int, int, int], **other: Any) -> Annotation:
    x, y, w, h = box
    corners = np.array([x, y, x + w, y + h], np.float32)
    shape = other.pop("segmentation", rectangle(*box))
    return Annotation(number, corners, label, shape, other.pop("crowd", False), float(w * h))


def result(image: int, label: int, box: tuple[int, int, int, int], score: float) -> dict[str, Any]:
    return {
        "image_id": image,
        "category_id": IDS[label],
        "bbox": list(map(float, box)),
        "score": score,
        "segmentation": rectangle(*box),
    }


def make_split(*images: list[Annotation]) -> DatasetSplit:
    from pathlib import Path

    records = (ImageRecord(i, Path(f"{i}.jpg"), SIZE, tuple(objects)) for i, objects in enumerate(images))
    return DatasetSplit("made", NAMES, IDS, tuple(records))


def random_split(seed: int, crowds: float = 0.15) -> tuple[DatasetSplit, list[dict[str, Any]]]:
    """Return objects and detections of three classes that often overlap; a fraction `crowds` are crowds."""
    random = np.random.default_rng(seed)

    def box() -> tuple[int, int, int, int]:
        x, y = int(random.integers(0, 40)), int(random.integers(0, 30))
        return x, y, int(random.integers(8, 30)), int(random.integers(8, 25))

    images, results = [], []
    for image in range(6):
        objects = []
        for _ in range(int(random.integers(0, 6))):
            label, number = int(random.integers(3)), 1 + 10 * image + len(objects)
            objects.append(annotation(number, label, box(), crowd=bool(random.random() < crowds)))
        images.append(objects)
        for target in objects:
            for _ in range(int(random.integers(0, 3))):
                x, y, _, _ = (int(v) for v in target.box)
                w, h = (int(v) for v in target.box[2:] - target.box[:2])
                moved = max(0, x + int(random.integers(-6, 7))), max(0, y + int(random.integers(-6, 7))), w, h
                label = target.label if random.random() < 0.7 else int(random.integers(3))
                results.append(result(image, label, moved, round(float(random.random()), 3)))
        results += [result(image, int(random.integers(3)), box(), float(random.random())) for _ in range(2)]
    return make_split(*images), results


def pixels(segmentation: dict[str, Any]) -> np.ndarray:
    from pycocotools import mask

    return np.asarray(mask.decode(segmentation), bool)


def slow_match(
    labels: list[int], truth: list[int], ious: np.ndarray, covered: list[bool]
) -> tuple[list[int], list[int]]:
    """Apply the rules one after the other in loops."""
    matched: dict[int, int] = {}  # detection -> object
    kinds: list[int] = [-1] * len(labels)
    for kind in (CORRECT, WRONG_CLASS):
        for d, label in enumerate(labels):
            if d in matched:
                continue
            best = -1
            for n, other in enumerate(truth):
                same = label == other
                free = same == (kind == CORRECT) and n not in matched.values() and ious[d, n] >= 0.5
                if free and (best < 0 or ious[d, n] > ious[d, best]):
                    best = n
            if best >= 0:
                matched[d], kinds[d] = best, kind
    poor = set()
    for d, label in enumerate(labels):
        if d in matched:
            continue
        close = [n for n, other in enumerate(truth) if other == label and ious[d, n] >= 0.1]
        if any(ious[d, n] >= 0.5 for n in matched.values()):
            kinds[d] = DUPLICATE
        elif covered[d]:
            kinds[d] = IGNORED
        elif close:
            kinds[d] = POOR_MASK
            poor |= set(close)
        else:
            kinds[d] = BACKGROUND
    objects = []
    for n in range(len(truth)):
        taker = [d for d, taken in matched.items() if taken == n]
        objects.append(kinds[taker[0]] if taker else POOR_MASK if n in poor else MISSED)
    return kinds, objects


@pytest.mark.parametrize("seed", range(8))
def test_analyze_errors_equals_slow_loops(seed: int) -> None:
    split, results = random_split(seed)
    analysis = analyze_errors(split, results, "segm")
    matrix = np.zeros((4, 4), int)
    seen = set()
    for image in analysis.images:
        detections = [r for r in results if r["image_id"] == image.record.id and r["score"] >= 0.3]
        detections.sort(key=lambda r: -r["score"])
        objects = [a for a in image.record.annotations if not a.crowd]
        crowds = [a for a in image.record.annotations if a.crowd]
        ious = np.zeros((len(detections), len(objects)))
        for d, r in enumerate(detections):
            for n, a in enumerate(objects):
                mask, other = pixels(r["segmentation"]), pixels(a.segmentation)  # type: ignore[arg-type]
                ious[d, n] = (mask & other).sum() / (mask | other).sum()
        labels = [IDS.index(r["category_id"]) for r in detections]
        covered = [
            any(
                a.label == label
                and (pixels(r["segmentation"]) & pixels(a.segmentation)).sum() >= 0.5 * pixels(r["segmentation"]).sum()  # type: ignore[arg-type]
                for a in crowds
            )
            for r, label in zip(detections, labels, strict=True)
        ]
        kinds, object_outcomes = slow_match(labels, [a.label for a in objects], ious, covered)
        assert image.match.detections.tolist() == kinds
        assert image.match.objects.tolist() == object_outcomes
        assert image.results == detections
        seen |= set(kinds)
        shared = sum(ious[d, p] for d, p in enumerate(image.match.matched_objects) if kinds[d] == CORRECT)
        counted = len(objects) + len([k for k in kinds if k != IGNORED])
        assert image.quality == (pytest.approx(2 * shared / counted) if counted else None)
        for n, a in enumerate(objects):
            taker = [d for d, p in enumerate(image.match.matched_objects) if p == n]
            matrix[a.label, labels[taker[0]] if taker else 3] += 1
        for d, kind in enumerate(kinds):
            matrix[3, labels[d]] += kind in (DUPLICATE, POOR_MASK, BACKGROUND)
    assert analysis.confusion().tolist() == matrix.tolist()
    assert {CORRECT, BACKGROUND} <= seen
    num_objects = sum(len([a for a in r.annotations if not a.crowd]) for r in split.images)
    assert sum(analysis.objects(kind) for kind in (FOUND, WRONG_CLASS, POOR_MASK, MISSED)) == num_objects


def test_analyze_errors_recognizes_each_kind_of_error() -> None:
    split = make_split(
        [annotation(1, 0, (0, 0, 20, 20)), annotation(2, 1, (40, 0, 20, 20)), annotation(3, 2, (0, 30, 20, 20))],
        [annotation(4, 0, (0, 0, 40, 40), crowd=True), annotation(5, 1, (50, 30, 10, 10))],
    )
    results = [
        result(0, 0, (0, 0, 20, 20), 0.9),  # correct
        result(0, 0, (2, 0, 20, 20), 0.8),  # duplicate
        result(0, 2, (40, 0, 20, 20), 0.7),  # the dog as an eel
        result(0, 2, (0, 42, 20, 18), 0.6),  # part of the eel: 8 of 30 rows
        result(0, 1, (60, 40, 10, 10), 0.5),  # background
        result(0, 1, (60, 40, 10, 10), 0.29),  # below the minimum score
        result(1, 0, (5, 5, 10, 10), 0.9),  # inside the crowd
        result(1, 1, (5, 5, 10, 10), 0.8),  # the crowd is of another class
    ]
    analysis = analyze_errors(split, results, "segm")
    first, second = (image.match for image in analysis.images)
    assert first.detections.tolist() == [CORRECT, DUPLICATE, WRONG_CLASS, POOR_MASK, BACKGROUND]
    assert first.objects.tolist() == [FOUND, WRONG_CLASS, POOR_MASK]
    assert first.matched_objects.tolist() == [0, -1, 1, -1, -1]
    assert second.detections.tolist() == [IGNORED, BACKGROUND]
    assert second.objects.tolist() == [MISSED]
    assert [image.quality for image in analysis.images] == [pytest.approx(2 * 1.0 / 8), 0.0]
    assert confused_pairs(analysis) == [(1, 1, 2)]


def test_match_detections_prefers_the_correct_class_to_a_higher_score() -> None:
    outcome = match_detections(np.array([1, 0]), np.array([0]), np.array([[0.9], [0.6]]), np.array([False, False]))
    assert outcome.detections.tolist() == [DUPLICATE, CORRECT]


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_box_or_mask_ious_equal_pycocotools(kind: IouType) -> None:
    from pycocotools import mask

    polygon = [[10.0, 10.0, 40.5, 12.0, 30.0, 44.0]]
    counts = {"size": list(SIZE), "counts": [100, 50, 80 * 60 - 150]}
    annotations = [
        annotation(1, 0, (10, 10, 30, 34), segmentation=polygon),
        annotation(2, 0, (1, 0, 2, 60), segmentation=counts),
        annotation(3, 0, (5, 5, 20, 20)),
    ]
    results = [result(0, 0, (8, 8, 25, 25), 0.5), result(0, 0, (0, 0, 10, 60), 0.4)]
    for of_detection in (False, True):
        if kind == "bbox":
            wanted: Any = np.array([[*a.box[:2], *(a.box[2:] - a.box[:2])] for a in annotations], np.float64)
            detected: Any = np.array([r["bbox"] for r in results])
        else:
            wanted = [mask.merge(mask.frPyObjects(polygon, *SIZE)), mask.frPyObjects(counts, *SIZE)]
            wanted.append(annotations[2].segmentation)
            detected = [r["segmentation"] for r in results]
        expected = mask.iou(detected, wanted, [int(of_detection)] * 3)
        assert box_or_mask_ious(results, annotations, SIZE, kind, of_detection) == pytest.approx(np.asarray(expected))
    assert box_or_mask_ious([], annotations, SIZE, kind).shape == (0, 3)
    assert box_or_mask_ious(results, [], SIZE, kind).shape == (2, 0)


def test_analyze_errors_ignores_objects_without_a_mask() -> None:
    split = make_split([annotation(1, 0, (0, 0, 20, 20), segmentation=None), annotation(2, 0, (40, 0, 20, 20))])
    results = [result(0, 0, (0, 0, 20, 20), 0.9), result(0, 0, (40, 0, 20, 20), 0.8)]
    (image,) = analyze_errors(split, results, "segm").images
    assert image.match.detections.tolist() == [IGNORED, CORRECT]
    assert image.quality == 1.0
    (image,) = analyze_errors(split, results, "bbox").images
    assert image.match.detections.tolist() == [CORRECT, CORRECT]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_coco_metrics_curves_equal_pycocotools(seed: int, kind: IouType) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    split, results = random_split(seed)
    split = replace(split, class_names=(*NAMES, "absent"), category_ids=(*IDS, 1))  # ids out of order
    truth = COCO()
    truth.dataset = coco_dict(split) | {"info": {}}
    truth.createIndex()
    judged = COCOeval(truth, truth.loadRes([dict(r) for r in results]), kind)
    judged.evaluate()
    judged.accumulate()
    precision = judged.eval["precision"][[0, 5], :, :, 0, 2]  # (2, 101, C), classes by id
    order = [judged.params.catIds.index(category) for category in split.category_ids]
    wanted = np.where(precision > -1, precision, np.nan)[:, :, order]
    metrics = coco_metrics(split, results, (kind,))
    scores = metrics.box if kind == "bbox" else metrics.mask
    assert scores is not None
    assert scores.curves.shape == (2, 101, 4)
    np.testing.assert_allclose(scores.curves, wanted, atol=1e-9)
    assert np.isnan(scores.curves[:, :, 3]).all()
    assert np.nanmean(scores.curves[0]) == pytest.approx(scores.AP50)


@pytest.mark.parametrize("seed", range(4))
def test_precision_recall_at_a_score_equals_analysis_without_lower_scores(seed: int) -> None:
    split, results = random_split(seed, crowds=0.0)
    every = analyze_errors(split, results, "segm", score=0.0)
    points = by_score_threshold(every)
    assert [score for score, _, _ in points] == sorted({score for score, _, _ in points})
    best = 0.0
    for score, precision, recall in points:
        above: ErrorAnalysis = analyze_errors(split, results, "segm", score=score)
        correct = above.detections(CORRECT)
        counted = sum(above.detections(kind) for kind in (CORRECT, WRONG_CLASS, DUPLICATE, POOR_MASK, BACKGROUND))
        objects = sum(len(image.objects) for image in above.images)
        assert recall == pytest.approx(correct / objects)
        assert precision == pytest.approx(correct / counted)
        best = max(best, 2 * correct / (counted + objects))
    optimum = best_f1(every)
    assert optimum is not None
    assert optimum[1] == pytest.approx(best)


def test_analyze_errors_of_an_empty_split() -> None:
    analysis = analyze_errors(make_split([], []), [], "segm")
    assert analysis.confusion().sum() == 0
    assert best_f1(analysis) is None
    assert by_score_threshold(analysis) == []
    assert [image.quality for image in analysis.images] == [None, None]
