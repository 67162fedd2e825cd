"""AP from cached matches against whole COCO evaluations, also of resampled data sets; intervals and p."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sais.data.annotations import DatasetSplit
from sais.evaluation import bootstrap
from sais.evaluation.bootstrap import NAMES, bootstrap_differences, draw_images, summarize
from sais.evaluation.coco_matches import ClassMatches, collect_matches
from sais.evaluation.coco_metrics import IouType, coco_metrics
from tests.evaluation.test_error_analysis import NAMES as CLASSES
from tests.evaluation.test_error_analysis import random_split

Results = list[dict[str, Any]]


def distinct_scores(results: Results, seed: int) -> Results:
    """Return results whose scores all differ: the order of equal ones is not defined between repeated images."""
    scores = np.random.default_rng(seed).permutation(len(results)) / len(results)
    return [result | {"score": float(score)} for result, score in zip(results, scores, strict=True)]


def with_sizes(split: DatasetSplit) -> DatasetSplit:
    """Return a split whose objects have areas of all COCO sizes, whatever their masks."""
    random = np.random.default_rng(5)
    areas = (300.0, 1024.0, 5000.0, 9216.0, 30000.0)
    images = [
        replace(r, annotations=tuple(replace(a, area=float(random.choice(areas))) for a in r.annotations))
        for r in split.images
    ]
    return replace(split, images=tuple(images))


def coco_figures(split: DatasetSplit, results: Results, kind: IouType, limit: int = 100) -> list[float]:
    """Return `NAMES` and the AP of each class by a whole COCO evaluation."""
    metrics = coco_metrics(split, results, [kind], limit)
    scores = metrics.box if kind == "bbox" else metrics.mask
    assert scores is not None
    return [*(getattr(scores, name) for name in NAMES), *(scores.per_class[name] for name in CLASSES)]


def repeated(split: DatasetSplit, results: Results, counts: np.ndarray) -> tuple[DatasetSplit, Results]:
    """Return a data set with each image a number of times, under new ids."""
    images, copies = [], []
    for record, count in zip(sorted(split.images, key=lambda record: record.id), counts, strict=True):
        for _ in range(count):
            number = len(images) + 1
            images.append(replace(record, id=number))
            copies += [result | {"image_id": number} for result in results if result["image_id"] == record.id]
    return replace(split, images=tuple(images)), copies


@pytest.mark.parametrize("kind", ["segm", "bbox"])
@pytest.mark.parametrize("limit", [100, 2])
def test_ap_of_cached_matches_equals_a_coco_evaluation(kind: IouType, limit: int) -> None:
    for seed in range(12):
        split, results = random_split(seed)
        split = with_sizes(split)
        matches = collect_matches(split, results, kind, limit)
        figures = summarize(matches, np.ones((1, len(split.images)), np.int64))[0]
        assert figures == pytest.approx(coco_figures(split, results, kind, limit), abs=1e-6, nan_ok=True)


@pytest.mark.parametrize("kind", ["segm", "bbox"])
def test_ap_of_resampled_images_equals_a_coco_evaluation_of_a_data_set_with_copies(kind: IouType) -> None:
    random = np.random.default_rng(7)
    for seed in range(8):
        split, results = random_split(seed)
        split, results = with_sizes(split), distinct_scores(results, seed)
        weights = draw_images(random, 3, len(split.images))
        figures = summarize(collect_matches(split, results, kind), weights)
        for row, counts in zip(figures, weights, strict=True):
            expected = coco_figures(*repeated(split, results, counts), kind)
            assert row == pytest.approx(expected, abs=1e-6, nan_ok=True)


def test_bootstrap_equals_a_slow_loop_of_coco_evaluations() -> None:
    split, results = random_split(3)
    first = distinct_scores(results, 1)
    second = [result for result in distinct_scores(results, 2) if result["score"] > 0.3]
    matches = [collect_matches(split, part, "segm") for part in (first, second)]
    measured = bootstrap_differences(*matches, CLASSES, resamples=20, seed=4)
    drawn = []
    for counts in draw_images(np.random.default_rng(4), 20, len(split.images)):
        values = [coco_figures(*repeated(split, part, counts), "segm") for part in (first, second)]
        drawn.append(values[1][0] - values[0][0])
    values = np.array(drawn)[~np.isnan(drawn)]
    low, high = np.percentile(values, (2.5, 97.5))
    ap = measured.figures["AP"]
    assert (ap.low, ap.high) == pytest.approx((low, high), abs=1e-6)
    assert ap.p == pytest.approx(min(1, 2 * (1 + min((values <= 0).sum(), (values >= 0).sum())) / (len(values) + 1)))
    assert ap.first == pytest.approx(coco_figures(split, first, "segm")[0], abs=1e-6)
    assert ap.value == pytest.approx(ap.second - ap.first)


def test_bootstrap_of_a_model_with_itself_finds_no_difference() -> None:
    split, results = random_split(1)
    matches = collect_matches(split, results, "segm")
    measured = bootstrap_differences(matches, matches, CLASSES, resamples=100)
    assert {(d.low, d.high, d.p) for d in measured.figures.values() if not np.isnan(d.p)} == {(0.0, 0.0, 1.0)}
    assert not any(d.is_significant for d in measured.classes.values())


def test_bootstrap_depends_on_the_seed_only_and_not_on_the_size_of_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    split, results = random_split(2)
    matches = [collect_matches(split, part, "segm") for part in (results, results[::2])]
    whole = bootstrap_differences(*matches, CLASSES, resamples=50, seed=1).to_dict()
    assert whole != bootstrap_differences(*matches, CLASSES, resamples=50, seed=2).to_dict()
    monkeypatch.setattr("sais.evaluation.bootstrap._MAX_CELLS", 100)
    assert bootstrap_differences(*matches, CLASSES, resamples=50, seed=1).to_dict() == whole


def test_memory_of_a_step_is_limited_with_many_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    """LVIS has 1,203 classes: 40 AP values of each class, for all draws at once, would take gigabytes."""
    sizes = []

    def note_size(matches: list[ClassMatches], weights: np.ndarray) -> np.ndarray:
        sizes.append(len(weights) * len(matches) * 40)
        return np.zeros((len(weights), len(NAMES) + len(matches)))

    monkeypatch.setattr(bootstrap, "summarize", note_size)
    empty = np.zeros((4, 10, 0), bool)
    matches = [ClassMatches(np.zeros(0, np.int64), empty, empty, np.zeros((4, 3), np.int64))] * 1203
    measured = bootstrap_differences(matches, matches, [str(i) for i in range(1203)], resamples=2000)
    assert max(sizes) <= bootstrap._MAX_CELLS
    assert sum(sizes) == 2 * (2000 + 1) * 1203 * 40
    assert measured.resamples == 2000


def test_differences_without_objects_are_undefined() -> None:
    split, results = random_split(0)
    empty = replace(split, images=tuple(replace(record, annotations=()) for record in split.images))
    matches = collect_matches(empty, results, "bbox")
    measured = bootstrap_differences(matches, matches, CLASSES, resamples=10)
    assert np.isnan(measured.figures["AP"].value)
    assert measured.to_dict()["figures"]["AP"]["p"] is None


def test_interval_covers_the_difference_of_two_detectors_of_known_rates() -> None:
    """A detector that finds 80 % of the objects against one that finds 60 %: the interval excludes 0."""
    split, _ = random_split(0, crowds=0.0)
    record = next(record for record in split.images if record.annotations)
    images = tuple(replace(record, id=i, annotations=record.annotations[:1]) for i in range(200))
    split = replace(split, images=images)
    random, found = np.random.default_rng(0), []
    annotation = images[0].annotations[0]
    x1, y1, x2, y2 = annotation.box.tolist()
    entry = {"category_id": split.category_ids[annotation.label], "bbox": [x1, y1, x2 - x1, y2 - y1]}
    for rate in (0.6, 0.8):
        found.append([entry | {"image_id": i, "score": 0.5 + i / 1000} for i in range(200) if random.random() < rate])
    matches = [collect_matches(split, part, "bbox") for part in found]
    ap = bootstrap_differences(*matches, CLASSES, resamples=500).figures["AP"]
    assert ap.low < 0.2 < ap.high
    assert ap.is_significant
    assert ap.p < 0.01
    assert ap.high - ap.low == pytest.approx(2 * 1.96 * np.sqrt((0.16 + 0.24) / 200), rel=0.2)
