"""The evaluation against pycocotools: distorted ground truth of real images as detections, and the odd cases."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sais.data.annotations import Annotation, DatasetSplit, ImageRecord
from sais.data.formats.coco import read_coco
from sais.errors import SaisError
from sais.evaluation.coco_metrics import COLUMNS, Metrics, coco_dict, coco_metrics
from sais.ops import rle

pytest.importorskip("faster_coco_eval")
pytest.importorskip("pycocotools")

DATA = Path(os.environ.get("SAIS_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


def judge(truth: dict[str, Any], results: list[dict[str, Any]], kind: str) -> tuple[list[float], dict[int, float]]:
    """pycocotools' twelve numbers and AP per category id; NaN where it says -1."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    other = "bbox" if kind == "segm" else "segmentation"
    with contextlib.redirect_stdout(io.StringIO()):
        wanted = COCO()
        wanted.dataset = json.loads(json.dumps(truth))
        wanted.createIndex()
        found = wanted.loadRes([{k: v for k, v in result.items() if k != other} for result in results])
        evaluation = COCOeval(wanted, found, kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    per_class = {}
    for k, category_id in enumerate(evaluation.params.catIds):
        values = evaluation.eval["precision"][:, :, k, 0, 2]
        per_class[category_id] = values[values > -1].mean() if (values > -1).any() else math.nan
    return [math.nan if value == -1 else float(value) for value in evaluation.stats], per_class


def agree(found: Metrics, index: DatasetSplit, truth: dict[str, Any], results: list[dict[str, Any]]) -> None:
    """All twelve numbers, of both kinds, and AP per class equal the judge's to 1e-6."""
    for kind, scores in (("bbox", found.box), ("segm", found.mask)):
        assert scores is not None
        numbers, per_class = judge(truth, results, kind)
        np.testing.assert_allclose([getattr(scores, name) for name in COLUMNS], numbers, rtol=0, atol=1e-6)
        wanted = [per_class[category_id] for category_id in index.category_ids]
        np.testing.assert_allclose(list(scores.per_class.values()), wanted, rtol=0, atol=1e-6)


def moved(mask: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A mask shifted a little, then grown or shrunk."""
    mask = np.roll(mask, tuple(generator.integers(-3, 4, 2)), (0, 1))
    for _ in range(int(generator.integers(0, 3))):
        joined = np.stack([mask, np.roll(mask, 1, 0), np.roll(mask, -1, 0), np.roll(mask, 1, 1), np.roll(mask, -1, 1)])
        mask = joined.any(0) if generator.random() < 0.5 else joined.all(0)
    return mask


def distorted(truth: dict[str, Any], seed: int) -> list[dict[str, Any]]:
    """Ground truth made into imperfect detections: jitter, wrong labels, duplicates, misses, some on crowds."""
    from pycocotools.coco import COCO

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = json.loads(json.dumps(truth))
        coco.createIndex()
    generator = np.random.default_rng(seed)
    ids = coco.getCatIds()
    results = []
    for annotation in coco.dataset["annotations"]:
        mask = coco.annToMask(annotation).astype(bool)
        for _ in range(int(generator.choice([0, 1, 1, 1, 2]))):
            x, y, w, h = np.array(annotation["bbox"]) + generator.normal(0, 0.06, 4) * np.tile(
                annotation["bbox"][2:], 2
            )
            right = generator.random() < 0.85
            results.append(
                {
                    "image_id": annotation["image_id"],
                    "category_id": annotation["category_id"] if right else int(generator.choice(ids)),
                    "bbox": [float(x), float(y), max(float(w), 0.5), max(float(h), 0.5)],
                    "score": float(np.round(generator.random(), 2)),  # rounded: equal scores happen
                    "segmentation": rle.encode(moved(mask, generator)),
                }
            )
    return results


@pytest.mark.parametrize("seed", [0, 1])
def test_equal_to_pycocotools_on_real_images(seed: int, capfd: pytest.CaptureFixture[str]) -> None:
    path = DATA / "coco_mini" / "annotations" / "instances_val2017.json"
    if not path.exists():
        pytest.skip(f"{path} is not there; set SAIS_DATA to the folder of the data sets")
    truth = json.loads(path.read_text())
    results = distorted(truth, seed)
    assert any(one["iscrowd"] for one in truth["annotations"])
    before = json.dumps(results)
    index = read_coco(path, None)
    capfd.readouterr()
    found = coco_metrics(index, results)
    assert capfd.readouterr().out == ""
    assert json.dumps(results) == before
    assert found.box is not None
    assert 0.1 < found.box.AP < 0.9
    agree(found, index, truth, results)
    again = json.loads(json.dumps(found.to_dict()))
    assert again["box"]["AP"] == found.box.AP
    assert set(again["mask"]["per_class"]) == set(index.class_names)


def small_index() -> DatasetSplit:
    """Two images, three classes with gaps in the ids, one class without objects, a crowd."""

    def one(k: int, box: tuple[float, ...], label: int, crowd: bool = False) -> Annotation:
        x1, y1, x2, y2 = box
        bits = np.zeros((50, 60), bool)
        bits[int(y1) : int(y2), int(x1) : int(x2)] = True
        shape: Any = [[x1, y1, x2, y1, x2, y2, x1, y2]] if not crowd else rle.encode(bits)
        return Annotation(k, np.array(box, np.float32), label, shape, crowd, float(bits.sum()))

    first = (one(0, (5, 5, 25, 25), 0), one(1, (30, 10, 55, 45), 1), one(2, (0, 30, 20, 50), 0, True))
    second = (one(3, (10, 10, 20, 20), 0),)
    images = [ImageRecord(i, Path(f"{i}.jpg"), (50, 60), a) for i, a in ((7, first), (9, second), (12, ()))]
    return DatasetSplit("small", ("bear", "deer", "fox"), (3, 10, 11), tuple(images))


def perfect(index: DatasetSplit) -> list[dict[str, Any]]:
    """The objects themselves as results."""
    results = []
    for one in coco_dict(index)["annotations"]:
        if not one["iscrowd"]:
            x, y, w, h = (int(v) for v in one["bbox"])
            segmentation = rle.encode_cropped(np.ones((h, w), bool), x, y, (50, 60))
            keys = {key: one[key] for key in ("image_id", "category_id", "bbox")}
            results.append(keys | {"score": 0.9, "segmentation": segmentation})
    return results


def test_perfect_and_nothing() -> None:
    index = small_index()
    found = coco_metrics(index, perfect(index))
    assert found.box is not None
    assert found.mask is not None
    # The first annotation has id 0, for which pycocotools would deny the match.
    assert found.box.AP == found.mask.AP == found.mask.AR100 == pytest.approx(1.0)
    assert found.box.per_class["deer"] == pytest.approx(1.0)
    assert math.isnan(found.box.per_class["fox"])
    assert (found.images, found.objects, found.detections) == (3, 3, 3)
    nothing = coco_metrics(index, [])
    for scores in (nothing.box, nothing.mask):
        assert scores is not None
        assert scores.AP == scores.AP50 == scores.APs == scores.AR100 == scores.per_class["bear"] == 0
        assert math.isnan(scores.APl)
        assert math.isnan(scores.per_class["fox"])
    assert nothing.to_dict()["box"]["APl"] is None
    agree(found, index, coco_dict(index), perfect(index))


def test_no_objects_at_all() -> None:
    index = small_index()
    bare = replace(index, images=tuple(replace(record, annotations=()) for record in index.images))
    for results in ([], perfect(index)):
        found = coco_metrics(bare, results)
        assert found.mask is not None
        assert math.isnan(found.mask.AP)
        assert found.objects == 0


def test_objects_without_a_mask() -> None:
    index = small_index()
    first = index.images[0]
    bare = replace(first.annotations[1], segmentation=None)
    partly = replace(index, images=(replace(first, annotations=(first.annotations[0], bare)), *index.images[1:]))
    found = coco_metrics(partly, perfect(index))
    assert found.box is not None
    assert found.mask is not None
    assert pytest.approx(1.0) == found.box.AP
    assert found.box.per_class["deer"] == pytest.approx(1.0)
    assert pytest.approx(1.0) == found.mask.AP
    assert math.isnan(found.mask.per_class["deer"])
    assert found.without_mask == 1
    assert "1 objects have no mask" in found.table()
    only = replace(index, images=(replace(first, annotations=(bare,)),))
    with pytest.raises(SaisError, match="no object has a mask"):
        coco_metrics(only, [])
    boxes = coco_metrics(only, [{k: v for k, v in perfect(index)[1].items() if k != "segmentation"}], ["bbox"])
    assert boxes.mask is None
    assert boxes.box is not None
    assert pytest.approx(1.0) == boxes.box.AP
    assert boxes.to_dict()["mask"] is None


def test_what_does_not_fit() -> None:
    index = small_index()
    result = perfect(index)[0]
    without = {key: value for key, value in result.items() if key != "segmentation"}
    for wrong, words in (
        (result | {"image_id": 8}, "image 8"),
        (result | {"category_id": 1}, "category 1"),
        (without, "segm"),
    ):
        with pytest.raises(SaisError, match=words):
            coco_metrics(index, [wrong])
    with pytest.raises(ValueError, match="kinds"):
        coco_metrics(index, [], ["keypoints"])  # type: ignore[list-item]


def test_table_and_shared_names() -> None:
    index = replace(small_index(), class_names=("bear", "deer", "bear"))
    text = coco_metrics(index, perfect(index)).table()
    lines = text.splitlines()
    assert lines[0].split() == list(COLUMNS)
    assert len(set(map(len, lines[:3]))) == 1
    assert lines[1].split()[:2] == ["box", "1.000"]
    assert lines[2].split()[6] == "-"
    assert "bear (3)" in text
    assert "bear (11)" in text
    assert lines[-1] == "3 images, 3 objects, 3 detections"
    assert "bear" not in coco_metrics(index, []).table(per_class=False)
