"""The error budget against slow loops and pycocotools, which scores detections and objects that were put right."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sais.data.annotations import Annotation, DatasetSplit
from sais.evaluation.coco_metrics import IouType, coco_dict, coco_metrics
from sais.evaluation.error_budget import KINDS, TideGains, error_budget, mean_ap
from sais.ops.rle import encode_cropped
from tests.evaluation.test_error_analysis import (
    IDS,
    NAMES,
    SIZE,
    annotation,
    make_split,
    pixels,
    random_split,
    result,
)


def pycocotools_ap(split: DatasetSplit, results: list[dict[str, Any]], kind: IouType, iou: float) -> float:
    """Return the AP at one IoU threshold; NaN without objects."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = coco_dict(split) | {"info": {}}
        truth.createIndex()
        detections = truth.loadRes([dict(r) for r in results]) if results else COCO()
        judged = COCOeval(truth, detections, kind)
        judged.params.iouThrs = np.array([iou])
        judged.evaluate()
        judged.accumulate()
    precision = judged.eval["precision"][..., 0, 2]
    return float(precision[precision > -1].mean()) if (precision > -1).any() else float("nan")


def slow_ious(results: list[dict[str, Any]], objects: list[Annotation], kind: IouType) -> np.ndarray:
    """Return the IoU of each result with each object."""
    ious = np.zeros((len(results), len(objects)))
    for d, r in enumerate(results):
        for n, a in enumerate(objects):
            if kind == "segm":
                mask, other = pixels(r["segmentation"]), pixels(a.segmentation)  # type: ignore[arg-type]
                ious[d, n] = (mask & other).sum() / (mask | other).sum()
            else:
                x, y, w, h = r["bbox"]
                width = min(x + w, a.box[2]) - max(x, a.box[0])
                height = min(y + h, a.box[3]) - max(y, a.box[1])
                shared = max(0.0, width) * max(0.0, height)
                ious[d, n] = shared / (w * h + np.prod(a.box[2:] - a.box[:2]) - shared)
    return ious


def slow_errors(
    split: DatasetSplit, results: list[dict[str, Any]], kind: IouType, iou: float
) -> tuple[dict[int, tuple[str, Annotation | None]], list[Annotation]]:
    """Return the kind of each error by the position of its result, with the object that it is fixed to; missed objects.

    Crowds are left out: the split must have none.
    """
    errors: dict[int, tuple[str, Annotation | None]] = {}
    missed: list[Annotation] = []
    for record in split.images:
        places = [i for i, r in enumerate(results) if r["image_id"] == record.id]
        places.sort(key=lambda i: -results[i]["score"])
        objects = list(record.annotations)
        ious = slow_ious([results[i] for i in places], objects, kind)
        labels = [IDS.index(results[i]["category_id"]) for i in places]
        matched: dict[int, int] = {}  # object -> detection
        for d, label in enumerate(labels):
            best = -1
            for n, a in enumerate(objects):
                if (
                    a.label == label
                    and n not in matched
                    and ious[d, n] >= iou
                    and (best < 0 or ious[d, n] >= ious[d, best])
                ):
                    best = n
            if best >= 0:
                matched[best] = d
        referred = set(matched)
        for d, label in enumerate(labels):
            if d in matched.values():
                continue
            own = [n for n, a in enumerate(objects) if a.label == label]
            other = [n for n, a in enumerate(objects) if a.label != label]
            name, target = "both", -1
            if own and 0.1 <= max(ious[d, n] for n in own) <= iou:
                name, target = "localization", max(own, key=lambda n, d=d: ious[d, n])  # type: ignore[misc]
            elif other and max(ious[d, n] for n in other) >= iou:
                name, target = "classification", max(other, key=lambda n, d=d: ious[d, n])  # type: ignore[misc]
            elif any(ious[d, n] >= iou for n in own if n in matched):
                name = "duplicate"
            elif not objects or ious[d].max() <= 0.1:
                name = "background"
            first = target >= 0 and target not in referred
            errors[places[d]] = (name, objects[target] if first else None)
            referred |= {target} if first else set()
        missed += [a for n, a in enumerate(objects) if n not in referred]
    return errors, missed


@pytest.mark.parametrize("kind", ["segm", "bbox"])
def test_tide_gains_equal_pycocotools_after_each_fix(kind: IouType) -> None:
    seen = set()
    for seed in range(10):
        split, results = random_split(seed, crowds=0.0)
        split = replace(split, class_names=(*NAMES, "absent"), category_ids=(*IDS, 1))
        for tide in error_budget(split, results, kind).tide:
            seen |= check_tide_gains(split, results, kind, tide)
    assert seen >= set(KINDS[:-1])


def check_tide_gains(split: DatasetSplit, results: list[dict[str, Any]], kind: IouType, tide: TideGains) -> set[str]:
    """Compare the gains at one IoU with pycocotools; return the kinds of errors that occur."""
    errors, missed = slow_errors(split, results, kind, tide.iou)
    names = [name for name, _ in errors.values()]
    assert tide.counts == {name: names.count(name) for name in KINDS[:-1]} | {"missed": len(missed)}
    assert tide.ap == pytest.approx(pycocotools_ap(split, results, kind, tide.iou), abs=1e-9)
    for name in KINDS[:-1]:
        fixed = []
        for i, r in enumerate(results):
            error, target = errors.get(i, ("", None))
            if error == name and target is not None:
                x1, y1, x2, y2 = target.box.tolist()
                r = r | {"category_id": IDS[target.label], "bbox": [x1, y1, x2 - x1, y2 - y1]}
                fixed.append(r | {"segmentation": target.segmentation})
            elif error != name:
                fixed.append(r)
        gain = pycocotools_ap(split, fixed, kind, tide.iou) - tide.ap
        assert tide.gains[name] == pytest.approx(gain, abs=1e-9), name
    ids = {a.id for a in missed}
    records = [replace(r, annotations=tuple(a for a in r.annotations if a.id not in ids)) for r in split.images]
    gain = pycocotools_ap(replace(split, images=tuple(records)), results, kind, tide.iou) - tide.ap
    assert tide.gains["missed"] == pytest.approx(gain, abs=1e-9, nan_ok=True)
    return set(names)


@pytest.mark.parametrize("limit", [100, 1])
@pytest.mark.parametrize("seed", range(4))
def test_ap_without_fixes_equals_coco_metrics(seed: int, limit: int) -> None:
    """With crowds, and with a limit of detections of an image and class."""
    split, results = random_split(seed, crowds=0.3)
    scores = coco_metrics(split, results, ("segm",), limit).mask
    budget = error_budget(split, results, "segm", limit)
    assert scores is not None
    assert [t.ap for t in budget.tide] == pytest.approx([scores.AP50, scores.AP75], abs=1e-9)
    measured = budget.oracles["nothing"]
    assert pytest.approx((scores.AP, scores.AP50, scores.AP75)) == (measured.AP, measured.AP50, measured.AP75)


def test_tide_gains_by_hand() -> None:
    """One class, four objects: found, missed, poorly localized, and detected as another class."""
    split = make_split(
        [annotation(1, 0, (0, 0, 20, 20)), annotation(2, 0, (40, 30, 20, 20))],
        [annotation(3, 0, (0, 0, 20, 20)), annotation(4, 0, (40, 0, 20, 20))],
    )
    results = [
        result(0, 0, (0, 0, 20, 20), 0.9),
        result(0, 0, (0, 1, 20, 20), 0.8),  # duplicate
        result(0, 0, (65, 50, 10, 10), 0.7),  # background
        result(1, 0, (0, 8, 20, 20), 0.6),  # IoU 12 / 28
        result(1, 1, (40, 0, 20, 20), 0.5),  # wrong class
    ]
    tide = error_budget(split, results, "segm").tide[0]
    counts = {"classification": 1, "localization": 1, "both": 0, "duplicate": 1, "background": 1, "missed": 1}
    assert tide.counts == counts
    quarter, third = 26 / 101, 34 / 101  # recall 0, 0.01 ... up to 1 / 4 and 1 / 3
    assert tide.ap == pytest.approx(quarter)
    assert tide.gains["missed"] == pytest.approx(third - quarter)
    # Precision 2 / 4 up to recall 1 / 2, or 2 / 5 with the wrong class at the end of the list.
    assert tide.gains["localization"] == pytest.approx(0.5 * 25 / 101)
    assert tide.gains["classification"] == pytest.approx(0.4 * 25 / 101)
    assert tide.gains["duplicate"] == tide.gains["background"] == tide.gains["both"] == 0


def with_triangles(seed: int) -> tuple[DatasetSplit, list[dict[str, Any]]]:
    """Return objects and detections whose masks do not fill their boxes, and boxes that cut masks."""
    random = np.random.default_rng(seed)
    split, results = random_split(seed)
    records = []
    for record in split.images:
        annotations = []
        for a in record.annotations:
            x1, y1, x2, y2 = a.box.astype(int).tolist()
            bits = np.tri(y2 - y1, x2 - x1, dtype=bool)
            annotations.append(replace(a, segmentation=encode_cropped(bits, x1, y1, SIZE)))
        records.append(replace(record, annotations=tuple(annotations)))
    changed = []
    for r in results:
        x, y, w, h = (int(v) for v in r["bbox"])
        rle = encode_cropped(np.tri(h, w, int(random.integers(-3, 4)), dtype=bool), x, y, SIZE)
        dx, dy = random.uniform(-4, 4, 2)
        changed.append(r | {"segmentation": rle, "bbox": [max(0.0, x + dx), max(0.0, y + dy), w * 0.9, h * 1.1]})
    return replace(split, images=tuple(records)), changed


def slow_oracle(name: str, split: DatasetSplit, results: list[dict[str, Any]], kind: IouType) -> list[dict[str, Any]]:
    """Return the results of an oracle, from whole masks and loops."""
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    changed = [dict(r) for r in results]
    for record in split.images:
        places = [i for i, r in enumerate(results) if r["image_id"] == record.id]
        objects = [a for a in record.annotations if not a.crowd]
        ious = slow_ious([results[i] for i in places], objects, kind)
        own = ious.copy()
        for d, i in enumerate(places):
            for n, a in enumerate(objects):
                if IDS[a.label] != results[i]["category_id"]:
                    own[d, n] = -1
        if name == "ranking":
            free_detections, free_objects = set(range(len(places))), set(range(len(objects)))
            for i in places:
                changed[i]["score"] = 0.0
            pairs = sorted((-own[d, n], d, n) for d in free_detections for n in free_objects if own[d, n] > 0)
            for iou, d, n in pairs:
                if d in free_detections and n in free_objects:
                    changed[places[d]]["score"] = -iou
                    free_detections.remove(d)
                    free_objects.remove(n)
            continue
        for d, i in enumerate(places):
            if not objects:
                continue
            if name == "classes":
                if own[d].max() < 0.5 <= ious[d].max():
                    changed[i]["category_id"] = IDS[objects[ious[d].argmax()].label]
                continue
            if own[d].max() < 0.1:
                continue
            target = objects[own[d].argmax()]
            x1, y1, x2, y2 = target.box.tolist()
            left, top, width, height = results[i]["bbox"]
            truth = pixels(target.segmentation)  # type: ignore[arg-type]
            in_box = (x >= left) & (x < left + width) & (y >= top) & (y < top + height)
            in_true_box = (x >= x1) & (x < x2) & (y >= y1) & (y < y2)
            if name == "boxes":
                changed[i]["bbox"] = [x1, y1, x2 - x1, y2 - y1]
            elif name == "masks":
                changed[i]["segmentation"] = encode_cropped(truth & in_box, 0, 0, SIZE)
            else:
                bits = (pixels(results[i]["segmentation"]) & in_true_box) | (truth & ~in_box)
                changed[i]["segmentation"] = encode_cropped(bits, 0, 0, SIZE)
    return changed


@pytest.mark.parametrize("kind", ["segm", "bbox"])
@pytest.mark.parametrize("seed", range(4))
def test_oracles_equal_slow_loops(seed: int, kind: IouType) -> None:
    split, results = with_triangles(seed)
    before = json.dumps(results)
    budget = error_budget(split, results, kind)
    assert json.dumps(results) == before
    parts = ["nothing", "classes", *(["boxes"] if kind == "bbox" else ["crop", "masks"]), "ranking"]
    assert list(budget.oracles) == parts
    for name in parts[1:]:
        metrics = coco_metrics(split, slow_oracle(name, split, results, kind), (kind,))
        scores = metrics.box if kind == "bbox" else metrics.mask
        assert scores is not None
        actual = budget.oracles[name]
        assert pytest.approx((scores.AP, scores.AP50, scores.AP75)) == (actual.AP, actual.AP50, actual.AP75), name


def test_error_budget_without_detections_or_objects() -> None:
    split, results = random_split(1, crowds=0.0)
    empty = error_budget(split, [], "segm")
    assert empty.tide[0].ap == empty.oracles["masks"].AP == 0
    assert empty.tide[0].counts["missed"] == sum(len(r.annotations) for r in split.images)
    none = error_budget(make_split([], []), [r | {"image_id": 0} for r in results], "bbox")
    assert np.isnan(none.tide[0].ap)
    assert none.to_dict()["tide"][0]["gains"]["missed"] is None
    assert "-" in none.table()
    assert np.isnan(mean_ap(np.zeros(0, int), np.zeros(0), np.zeros(0, bool), np.zeros(2, int)))


def test_error_budget_table_fits_a_terminal() -> None:
    split, results = random_split(2)
    budget = error_budget(split, results, "segm")
    text = budget.table()
    assert max(map(len, text.splitlines())) <= 80
    assert f"{budget.tide[0].gains['localization']:+.3f}" in text
    assert f"{budget.oracles['masks'].AP - budget.oracles['nothing'].AP:+.3f}" in text
    assert json.loads(json.dumps(budget.to_dict()))["oracles"]["masks"]["AP"] == budget.oracles["masks"].AP


def test_eval_prints_and_writes_the_error_budget(
    trained: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from sais import cli

    words = ["eval", str(trained), "--data", str(shapes), "--device", "cpu", "--workers", "0"]
    assert cli.main([*words, "--error-budget", "--json", str(tmp_path / "a.json")]) == 0
    output = capsys.readouterr().out
    report = json.loads((tmp_path / "a.json").read_text())
    assert "AP gained if all errors of a kind were put right (TIDE)" in output
    assert report["error_budget"]["tide"][0]["ap"] == pytest.approx(report["metrics"]["mask"]["AP50"])
    assert report["error_budget"]["oracles"]["masks"]["AP"] >= report["metrics"]["mask"]["AP"]
    assert cli.main([*words, "--json", str(tmp_path / "b.json")]) == 0
    assert "put right" not in capsys.readouterr().out
    assert json.loads((tmp_path / "b.json").read_text())["error_budget"] is None
