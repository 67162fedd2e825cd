"""Single errors, groups of objects and calibration, compared with slow loops over the same outcomes."""

from __future__ import annotations

import numpy as np
import pytest

from sais.data.annotations import Annotation
from sais.evaluation.calibration import calibration, calibrations, detection_outcomes
from sais.evaluation.coco_metrics import coco_metrics
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
)
from sais.evaluation.error_cases import CSV_COLUMNS, count_neighbors, error_cases
from sais.evaluation.error_groups import CROWDING, error_groups
from tests.evaluation.test_error_analysis import IDS, NAMES, annotation, make_split, random_split, result
from tests.evaluation.test_error_budget import slow_ious

FIVE = [
    annotation(1, 0, (0, 0, 20, 20)),
    annotation(2, 1, (30, 0, 20, 20)),
    annotation(3, 2, (0, 30, 20, 20)),
    annotation(4, 0, (30, 30, 10, 10)),
    annotation(5, 0, (50, 30, 20, 20)),
]
"""One object for each kind of error."""
RESULTS = [
    result(0, 0, (0, 0, 20, 20), 0.9),
    result(0, 0, (0, 0, 20, 18), 0.8),  # duplicate
    result(0, 0, (30, 0, 20, 20), 0.7),  # wrong class
    result(0, 2, (8, 30, 20, 20), 0.6),  # poor mask
    result(0, 1, (60, 50, 10, 10), 0.5),  # background
    result(0, 0, (30, 30, 10, 10), 0.1),  # correct, but below the threshold
]


def analyses(score: float = 0.3) -> tuple[ErrorAnalysis, ErrorAnalysis]:
    split = make_split(FIVE)
    return analyze_errors(split, RESULTS, "segm", score), analyze_errors(split, RESULTS, "segm", 0.0)


def test_error_cases_name_object_and_detection_of_each_error() -> None:
    analysis, all_scores = analyses()
    cases = error_cases(analysis, all_scores)
    assert {outcome: len(found) for outcome, found in cases.items()} == {
        MISSED: 2, BACKGROUND: 1, WRONG_CLASS: 1, POOR_MASK: 1, DUPLICATE: 1
    }  # fmt: skip
    rows = {outcome: [case.row(analysis.split) for case in found] for outcome, found in cases.items()}
    assert [(row["annotation_id"], row["best_score"]) for row in rows[MISSED]] == [(5, None), (4, 0.1)]
    assert rows[MISSED][0]["detected_as"] is None
    (wrong,) = rows[WRONG_CLASS]
    assert (wrong["class"], wrong["detected_as"], wrong["score"], wrong["iou"]) == ("dog", "cat", 0.7, 1.0)
    (poor,) = rows[POOR_MASK]
    assert (poor["annotation_id"], poor["iou"]) == (3, round(240 / 560, 4))
    (duplicate,) = rows[DUPLICATE]
    assert (duplicate["annotation_id"], duplicate["iou"]) == (1, 0.9)
    (background,) = rows[BACKGROUND]
    assert (background["class"], background["x"], background["width"]) == (None, 60.0, 10.0)
    assert all(tuple(row) == CSV_COLUMNS for found in rows.values() for row in found)


@pytest.mark.parametrize("kind", ["segm", "bbox"])
def test_references_and_ious_of_random_errors_equal_a_slow_search(kind: str) -> None:
    seen = 0
    for seed in range(8):
        split, results = random_split(seed)
        for image in analyze_errors(split, results, kind, 0.0).images:  # type: ignore[arg-type]
            ious = slow_ious(image.results, list(image.objects), kind)  # type: ignore[arg-type]
            for d, outcome in enumerate(image.match.detections):
                n = int(image.references[d])
                if n >= 0:
                    assert image.ious[d] == pytest.approx(ious[d, n], abs=1e-6)
                labels = [IDS[a.label] for a in image.objects]
                if outcome == POOR_MASK:
                    own = [m for m, label in enumerate(labels) if label == image.results[d]["category_id"]]
                    assert ious[d, n] == max(ious[d, m] for m in own)
                elif outcome in (CORRECT, WRONG_CLASS):
                    assert n == image.match.matched_objects[d]
                elif len(labels):
                    assert image.ious[d] == pytest.approx(ious[d].max(), abs=1e-6)
                seen += n >= 0
    assert seen > 100


def test_errors_are_ordered_from_the_worst() -> None:
    for seed in range(5):
        split, results = random_split(seed)
        cases = error_cases(analyze_errors(split, results, "segm", 0.5), analyze_errors(split, results, "segm", 0.0))
        for outcome, found in cases.items():
            ranks = [case.annotation.area if case.result is None else case.result["score"] for case in found]  # type: ignore[union-attr]
            assert ranks == sorted(ranks, reverse=True), outcome


def test_count_neighbors_counts_overlapping_boxes() -> None:
    boxes = [(0, 0, 10, 10), (5, 5, 10, 10), (10, 0, 4, 4), (50, 40, 5, 5), (8, 8, 30, 30)]
    objects = [annotation(i, 0, box) for i, box in enumerate(boxes)]
    assert count_neighbors(objects).tolist() == [2, 2, 0, 0, 2]  # edges that touch do not overlap
    assert count_neighbors([]).tolist() == []
    flat = Annotation(9, np.array([3, 3, 3, 9], np.float32), 0, None, False, 0.0)
    assert count_neighbors([flat]).tolist() == [0]


def test_error_groups_equal_counts_in_loops() -> None:
    for seed in range(6):
        split, results = random_split(seed)
        analysis = analyze_errors(split, results, "segm", 0.4)
        metrics = coco_metrics(split, results)
        groups = error_groups(analysis, metrics)
        for label, group in enumerate(groups.classes):
            found = missed = objects = detections = correct = 0
            for image in analysis.images:
                outcomes = [o for a, o in zip(image.objects, image.match.objects, strict=True) if a.label == label]
                objects, found = objects + len(outcomes), found + outcomes.count(FOUND)
                missed += outcomes.count(MISSED)
                kinds = [
                    k
                    for r, k in zip(image.results, image.match.detections, strict=True)
                    if r["category_id"] == IDS[label] and k != IGNORED
                ]
                detections, correct = detections + len(kinds), correct + kinds.count(CORRECT)
            assert (group.name, group.objects, group.found, group.missed) == (NAMES[label], objects, found, missed)
            assert (group.detections, group.correct) == (detections, correct)
            assert metrics.mask is not None
            expected = metrics.mask.per_class[group.name]
            assert (group.ap is None and np.isnan(expected)) or group.ap == expected
        total = sum(len(image.objects) for image in analysis.images)
        for part in (groups.sizes, groups.crowding):
            assert sum(group.objects for group in part) == total
            assert sum(group.found for group in part) == analysis.objects(FOUND)
        assert [group.name for group in groups.crowding] == list(CROWDING)
        assert all(group.detections is None for group in groups.crowding)


def test_objects_of_a_size_are_those_of_its_area() -> None:
    areas = [100.0, 1024.0, 5000.0, 9216.0, 20000.0]
    objects = [
        Annotation(i + 1, np.array([i, 0, i + 1, 1], np.float32), 0, None, False, area) for i, area in enumerate(areas)
    ]
    split = make_split(objects)
    groups = error_groups(analyze_errors(split, [], "bbox"), coco_metrics(split, [], ["bbox"]))
    assert [group.objects for group in groups.sizes] == [1, 2, 2]


def test_calibration_equals_a_loop_over_the_bins() -> None:
    random = np.random.default_rng(0)
    scores, correct = random.random(500), random.random(500) < 0.4
    scores[:2] = 0.0, 1.0
    measured = calibration(scores, correct)
    assert measured is not None
    error, largest, bins = 0.0, 0.0, []
    for k in range(10):
        inside = (scores >= k / 10) & ((scores < (k + 1) / 10) | (k == 9))
        difference = abs(scores[inside].mean() - correct[inside].mean())
        error, largest = error + difference * inside.mean(), max(largest, difference)
        bins.append(int(inside.sum()))
    assert [item.detections for item in measured.bins] == bins
    assert measured.expected_error == pytest.approx(error)
    assert measured.max_error == pytest.approx(largest)
    assert calibration(np.zeros(0), np.zeros(0, bool)) is None


def test_calibrated_scores_have_almost_no_calibration_error() -> None:
    random = np.random.default_rng(1)
    scores = random.random(100_000)
    measured = calibration(scores, random.random(100_000) < scores)
    assert measured is not None
    assert measured.expected_error < 0.01
    overconfident = calibration(np.minimum(1, scores + 0.3), random.random(100_000) < scores)
    assert overconfident is not None
    assert overconfident.expected_error == pytest.approx(0.255, abs=0.01)  # 0.3 less what is cut off above 1


def test_calibrations_are_of_classes_with_enough_detections() -> None:
    objects = [annotation(1, 0, (0, 0, 10, 10))]
    results = [result(0, 0, (0, 0, 10, 10), 0.9)] + [result(0, 0, (20, 20, 5, 5), i / 200) for i in range(99)]
    results += [result(0, 1, (40, 20, 5, 5), i / 200) for i in range(99)]
    analysis = analyze_errors(make_split(objects), results, "segm", 0.0)
    overall, per_class = calibrations(analysis)
    assert overall is not None
    assert overall.detections == len(detection_outcomes(analysis)[0]) == 199
    assert list(per_class) == ["cat"]
    assert per_class["cat"].bins[-1].precision == 1.0
