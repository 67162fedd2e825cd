"""What became of objects and detections, against slow loops; precision curves against pycocotools."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sais.data.annotations import Annotation, DatasetSplit, ImageRecord
from sais.evaluation.coco_metrics import IouType, coco_dict, coco_metrics
from sais.evaluation.error_analysis import (
    BACKGROUND,
    CLASS,
    DUPLICATE,
    FOUND,
    IGNORED,
    MASK,
    MISSED,
    RIGHT,
    ErrorAnalysis,
    analyze_errors,
    match,
    overlaps,
)
from sais.ops.rle import encode_cropped
from sais.reports.error_sections import best_score, by_score, confusions

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


def index_of(*images: list[Annotation]) -> DatasetSplit:
    from pathlib import Path

    records = (ImageRecord(i, Path(f"{i}.jpg"), SIZE, tuple(objects)) for i, objects in enumerate(images))
    return DatasetSplit("made", NAMES, IDS, tuple(records))


def random_scene(seed: int, crowds: float = 0.15) -> tuple[DatasetSplit, list[dict[str, Any]]]:
    """Objects and detections that often meet, of three classes, a share of crowds among them."""
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
        for one in objects:
            for _ in range(int(random.integers(0, 3))):
                x, y, _, _ = (int(v) for v in one.box)
                w, h = (int(v) for v in one.box[2:] - one.box[:2])
                moved = max(0, x + int(random.integers(-6, 7))), max(0, y + int(random.integers(-6, 7))), w, h
                label = one.label if random.random() < 0.7 else int(random.integers(3))
                results.append(result(image, label, moved, round(float(random.random()), 3)))
        results += [result(image, int(random.integers(3)), box(), float(random.random())) for _ in range(2)]
    return index_of(*images), results


def pixels(segmentation: dict[str, Any]) -> np.ndarray:
    from pycocotools import mask

    return np.asarray(mask.decode(segmentation), bool)


def slow_verdict(
    labels: list[int], wanted: list[int], ious: np.ndarray, covered: list[bool]
) -> tuple[list[int], list[int]]:
    """The rules, one after the other, in loops."""
    took: dict[int, int] = {}  # detection -> object
    kinds: list[int] = [-1] * len(labels)
    for kind in (RIGHT, CLASS):
        for d, label in enumerate(labels):
            if d in took:
                continue
            best = -1
            for n, other in enumerate(wanted):
                same = label == other
                free = same == (kind == RIGHT) and n not in took.values() and ious[d, n] >= 0.5
                if free and (best < 0 or ious[d, n] > ious[d, best]):
                    best = n
            if best >= 0:
                took[d], kinds[d] = best, kind
    poor = set()
    for d, label in enumerate(labels):
        if d in took:
            continue
        close = [n for n, other in enumerate(wanted) if other == label and ious[d, n] >= 0.1]
        if any(ious[d, n] >= 0.5 for n in took.values()):
            kinds[d] = DUPLICATE
        elif covered[d]:
            kinds[d] = IGNORED
        elif close:
            kinds[d] = MASK
            poor |= set(close)
        else:
            kinds[d] = BACKGROUND
    objects = []
    for n in range(len(wanted)):
        taker = [d for d, taken in took.items() if taken == n]
        objects.append(kinds[taker[0]] if taker else MASK if n in poor else MISSED)
    return kinds, objects


@pytest.mark.parametrize("seed", range(8))
def test_verdicts_and_confusions_as_in_slow_loops(seed: int) -> None:
    index, results = random_scene(seed)
    judgement = analyze_errors(index, results, "segm")
    matrix = np.zeros((4, 4), int)
    seen = set()
    for one in judgement.images:
        found = [r for r in results if r["image_id"] == one.record.id and r["score"] >= 0.3]
        found.sort(key=lambda r: -r["score"])
        objects = [a for a in one.record.annotations if not a.crowd]
        crowds = [a for a in one.record.annotations if a.crowd]
        ious = np.zeros((len(found), len(objects)))
        for d, r in enumerate(found):
            for n, a in enumerate(objects):
                one_mask, other = pixels(r["segmentation"]), pixels(a.segmentation)  # type: ignore[arg-type]
                ious[d, n] = (one_mask & other).sum() / (one_mask | other).sum()
        labels = [IDS.index(r["category_id"]) for r in found]
        covered = [
            any(
                a.label == label
                and (pixels(r["segmentation"]) & pixels(a.segmentation)).sum() >= 0.5 * pixels(r["segmentation"]).sum()  # type: ignore[arg-type]
                for a in crowds
            )
            for r, label in zip(found, labels, strict=True)
        ]
        kinds, became = slow_verdict(labels, [a.label for a in objects], ious, covered)
        assert one.verdict.detections.tolist() == kinds
        assert one.verdict.objects.tolist() == became
        assert one.results == found
        seen |= set(kinds)
        shared = sum(ious[d, p] for d, p in enumerate(one.verdict.partners) if kinds[d] == RIGHT)
        counted = len(objects) + len([k for k in kinds if k != IGNORED])
        assert one.quality == (pytest.approx(2 * shared / counted) if counted else None)
        for n, a in enumerate(objects):
            taker = [d for d, p in enumerate(one.verdict.partners) if p == n]
            matrix[a.label, labels[taker[0]] if taker else 3] += 1
        for d, kind in enumerate(kinds):
            matrix[3, labels[d]] += kind in (DUPLICATE, MASK, BACKGROUND)
    assert judgement.confusion().tolist() == matrix.tolist()
    assert {RIGHT, BACKGROUND} <= seen
    objects_in_all = sum(len([a for a in r.annotations if not a.crowd]) for r in index.images)
    assert sum(judgement.objects(kind) for kind in (FOUND, CLASS, MASK, MISSED)) == objects_in_all


def test_each_kind_of_error_once() -> None:
    index = index_of(
        [annotation(1, 0, (0, 0, 20, 20)), annotation(2, 1, (40, 0, 20, 20)), annotation(3, 2, (0, 30, 20, 20))],
        [annotation(4, 0, (0, 0, 40, 40), crowd=True), annotation(5, 1, (50, 30, 10, 10))],
    )
    results = [
        result(0, 0, (0, 0, 20, 20), 0.9),  # right
        result(0, 0, (2, 0, 20, 20), 0.8),  # again
        result(0, 2, (40, 0, 20, 20), 0.7),  # the dog, called an eel
        result(0, 2, (0, 42, 20, 18), 0.6),  # a part of the eel: 8 of 30 rows
        result(0, 1, (60, 40, 10, 10), 0.5),  # nothing is there
        result(0, 1, (60, 40, 10, 10), 0.29),  # too unsure to be looked at
        result(1, 0, (5, 5, 10, 10), 0.9),  # one of the crowd
        result(1, 1, (5, 5, 10, 10), 0.8),  # the crowd is of another class
    ]
    judgement = analyze_errors(index, results, "segm")
    first, second = (one.verdict for one in judgement.images)
    assert first.detections.tolist() == [RIGHT, DUPLICATE, CLASS, MASK, BACKGROUND]
    assert first.objects.tolist() == [FOUND, CLASS, MASK]
    assert first.partners.tolist() == [0, -1, 1, -1, -1]
    assert second.detections.tolist() == [IGNORED, BACKGROUND]
    assert second.objects.tolist() == [MISSED]
    assert [one.quality for one in judgement.images] == [pytest.approx(2 * 1.0 / 8), 0.0]
    assert confusions(judgement) == [(1, 1, 2)]


def test_a_right_detection_goes_before_a_surer_one_of_another_class() -> None:
    verdict = match(np.array([1, 0]), np.array([0]), np.array([[0.9], [0.6]]), np.array([False, False]))
    assert verdict.detections.tolist() == [DUPLICATE, RIGHT]


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_overlaps_are_those_of_pycocotools(kind: IouType) -> None:
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
            found: Any = np.array([r["bbox"] for r in results])
        else:
            wanted = [mask.merge(mask.frPyObjects(polygon, *SIZE)), mask.frPyObjects(counts, *SIZE)]
            wanted.append(annotations[2].segmentation)
            found = [r["segmentation"] for r in results]
        expected = mask.iou(found, wanted, [int(of_detection)] * 3)
        assert overlaps(results, annotations, SIZE, kind, of_detection) == pytest.approx(np.asarray(expected))
    assert overlaps([], annotations, SIZE, kind).shape == (0, 3)
    assert overlaps(results, [], SIZE, kind).shape == (2, 0)


def test_objects_without_a_mask_are_neither_missed_nor_wrong() -> None:
    index = index_of([annotation(1, 0, (0, 0, 20, 20), segmentation=None), annotation(2, 0, (40, 0, 20, 20))])
    results = [result(0, 0, (0, 0, 20, 20), 0.9), result(0, 0, (40, 0, 20, 20), 0.8)]
    (one,) = analyze_errors(index, results, "segm").images
    assert one.verdict.detections.tolist() == [IGNORED, RIGHT]
    assert one.quality == 1.0
    (one,) = analyze_errors(index, results, "bbox").images
    assert one.verdict.detections.tolist() == [RIGHT, RIGHT]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_precision_curves_are_those_of_pycocotools(seed: int, kind: IouType) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    index, results = random_scene(seed)
    index = replace(index, class_names=(*NAMES, "never there"), category_ids=(*IDS, 1))  # ids out of order
    truth = COCO()
    truth.dataset = coco_dict(index) | {"info": {}}
    truth.createIndex()
    judged = COCOeval(truth, truth.loadRes([dict(r) for r in results]), kind)
    judged.evaluate()
    judged.accumulate()
    precision = judged.eval["precision"][[0, 5], :, :, 0, 2]  # (2, 101, C), classes by id
    order = [judged.params.catIds.index(category) for category in index.category_ids]
    wanted = np.where(precision > -1, precision, np.nan)[:, :, order]
    metrics = coco_metrics(index, results, (kind,))
    scores = metrics.box if kind == "bbox" else metrics.mask
    assert scores is not None
    assert scores.curves.shape == (2, 101, 4)
    np.testing.assert_allclose(scores.curves, wanted, atol=1e-9)
    assert np.isnan(scores.curves[:, :, 3]).all()
    assert np.nanmean(scores.curves[0]) == pytest.approx(scores.AP50)


@pytest.mark.parametrize("seed", range(4))
def test_leaving_out_low_scores_as_judging_without_them(seed: int) -> None:
    index, results = random_scene(seed, crowds=0.0)
    every = analyze_errors(index, results, "segm", score=0.0)
    points = by_score(every)
    assert [score for score, _, _ in points] == sorted({score for score, _, _ in points})
    best = 0.0
    for score, precision, recall in points:
        kept: ErrorAnalysis = analyze_errors(index, results, "segm", score=score)
        right = kept.detections(RIGHT)
        counted = sum(kept.detections(kind) for kind in (RIGHT, CLASS, DUPLICATE, MASK, BACKGROUND))
        objects = sum(len(one.objects) for one in kept.images)
        assert recall == pytest.approx(right / objects)
        assert precision == pytest.approx(right / counted)
        best = max(best, 2 * right / (counted + objects))
    found = best_score(every)
    assert found is not None
    assert found[1] == pytest.approx(best)


def test_nothing_at_all() -> None:
    judgement = analyze_errors(index_of([], []), [], "segm")
    assert judgement.confusion().sum() == 0
    assert best_score(judgement) is None
    assert by_score(judgement) == []
    assert [one.quality for one in judgement.images] == [None, None]
