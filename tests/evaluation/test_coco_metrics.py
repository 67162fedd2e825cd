"""COCO metrics compared with pycocotools on distorted ground truth of real images, and special cases."""

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
from sais.errors import InputError
from sais.evaluation.coco_metrics import COLUMNS, Metrics, coco_dict, coco_metrics
from sais.ops import rle

pytest.importorskip("faster_coco_eval")
pytest.importorskip("pycocotools")

DATA = Path(os.environ.get("SAIS_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


def pycocotools_metrics(
    truth: dict[str, Any], results: list[dict[str, Any]], kind: str
) -> tuple[list[float], dict[int, float]]:
    """Return the twelve numbers of pycocotools and AP per category id, with NaN for -1."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    other = "bbox" if kind == "segm" else "segmentation"
    with contextlib.redirect_stdout(io.StringIO()):
        objects = COCO()
        objects.dataset = json.loads(json.dumps(truth))
        objects.createIndex()
        detections = objects.loadRes([{k: v for k, v in result.items() if k != other} for result in results])
        evaluation = COCOeval(objects, detections, kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    per_class = {}
    for k, category_id in enumerate(evaluation.params.catIds):
        values = evaluation.eval["precision"][:, :, k, 0, 2]
        per_class[category_id] = values[values > -1].mean() if (values > -1).any() else math.nan
    return [math.nan if value == -1 else float(value) for value in evaluation.stats], per_class


def assert_equal_to_pycocotools(
    metrics: Metrics, split: DatasetSplit, truth: dict[str, Any], results: list[dict[str, Any]]
) -> None:
    """Check the twelve numbers for boxes and masks and AP per class with a tolerance of 1e-6."""
    for kind, scores in (("bbox", metrics.box), ("segm", metrics.mask)):
        assert scores is not None
        numbers, per_class = pycocotools_metrics(truth, results, kind)
        np.testing.assert_allclose([getattr(scores, name) for name in COLUMNS], numbers, rtol=0, atol=1e-6)
        expected = [per_class[category_id] for category_id in split.category_ids]
        np.testing.assert_allclose(list(scores.per_class.values()), expected, rtol=0, atol=1e-6)


def distort_mask(mask: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return a mask (H, W) shifted by a few pixels, then dilated or eroded."""
    mask = np.roll(mask, tuple(generator.integers(-3, 4, 2)), (0, 1))
    for _ in range(int(generator.integers(0, 3))):
        joined = np.stack([mask, np.roll(mask, 1, 0), np.roll(mask, -1, 0), np.roll(mask, 1, 1), np.roll(mask, -1, 1)])
        mask = joined.any(0) if generator.random() < 0.5 else joined.all(0)
    return mask


def distort(truth: dict[str, Any], seed: int) -> list[dict[str, Any]]:
    """Turn ground truth into imperfect detections: jitter, wrong labels, duplicates, misses, some on crowds."""
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
            correct = generator.random() < 0.85
            results.append(
                {
                    "image_id": annotation["image_id"],
                    "category_id": annotation["category_id"] if correct else int(generator.choice(ids)),
                    "bbox": [float(x), float(y), max(float(w), 0.5), max(float(h), 0.5)],
                    "score": float(np.round(generator.random(), 2)),  # rounded, so that equal scores occur
                    "segmentation": rle.encode(distort_mask(mask, generator)),
                }
            )
    return results


@pytest.mark.parametrize("seed", [0, 1])
def test_coco_metrics_equal_pycocotools_on_real_images(seed: int, capfd: pytest.CaptureFixture[str]) -> None:
    path = DATA / "coco_mini" / "annotations" / "instances_val2017.json"
    if not path.exists():
        pytest.skip(f"{path} is missing; set SAIS_DATA to the folder of the data sets")
    truth = json.loads(path.read_text())
    results = distort(truth, seed)
    assert any(annotation["iscrowd"] for annotation in truth["annotations"])
    before = json.dumps(results)
    split = read_coco(path, None)
    capfd.readouterr()
    metrics = coco_metrics(split, results)
    assert capfd.readouterr().out == ""
    assert json.dumps(results) == before
    assert metrics.box is not None
    assert 0.1 < metrics.box.AP < 0.9
    assert_equal_to_pycocotools(metrics, split, truth, results)
    again = json.loads(json.dumps(metrics.to_dict()))
    assert again["box"]["AP"] == metrics.box.AP
    assert set(again["mask"]["per_class"]) == set(split.class_names)


def small_split() -> DatasetSplit:
    """Two images, three classes with gaps in the ids, one class without objects, a crowd."""

    def annotation(k: int, box: tuple[float, ...], label: int, crowd: bool = False) -> Annotation:
        x1, y1, x2, y2 = box
        bits = np.zeros((50, 60), bool)
        bits[int(y1) : int(y2), int(x1) : int(x2)] = True
        shape: Any = [[x1, y1, x2, y1, x2, y2, x1, y2]] if not crowd else rle.encode(bits)
        return Annotation(k, np.array(box, np.float32), label, shape, crowd, float(bits.sum()))

    first = (
        annotation(0, (5, 5, 25, 25), 0),
        annotation(1, (30, 10, 55, 45), 1),
        annotation(2, (0, 30, 20, 50), 0, True),
    )
    second = (annotation(3, (10, 10, 20, 20), 0),)
    images = [ImageRecord(i, Path(f"{i}.jpg"), (50, 60), a) for i, a in ((7, first), (9, second), (12, ()))]
    return DatasetSplit("small", ("bear", "deer", "fox"), (3, 10, 11), tuple(images))


def perfect(split: DatasetSplit) -> list[dict[str, Any]]:
    """Return the objects themselves as results."""
    results = []
    for annotation in coco_dict(split)["annotations"]:
        if not annotation["iscrowd"]:
            x, y, w, h = (int(v) for v in annotation["bbox"])
            segmentation = rle.encode_cropped(np.ones((h, w), bool), x, y, (50, 60))
            keys = {key: annotation[key] for key in ("image_id", "category_id", "bbox")}
            results.append(keys | {"score": 0.9, "segmentation": segmentation})
    return results


def test_coco_metrics_of_perfect_results_and_of_none() -> None:
    split = small_split()
    metrics = coco_metrics(split, perfect(split))
    assert metrics.box is not None
    assert metrics.mask is not None
    # The first annotation has id 0, which pycocotools treats as unmatched.
    assert metrics.box.AP == metrics.mask.AP == metrics.mask.AR100 == pytest.approx(1.0)
    assert metrics.box.per_class["deer"] == pytest.approx(1.0)
    assert math.isnan(metrics.box.per_class["fox"])
    assert (metrics.images, metrics.objects, metrics.detections) == (3, 3, 3)
    nothing = coco_metrics(split, [])
    for scores in (nothing.box, nothing.mask):
        assert scores is not None
        assert scores.AP == scores.AP50 == scores.APs == scores.AR100 == scores.per_class["bear"] == 0
        assert math.isnan(scores.APl)
        assert math.isnan(scores.per_class["fox"])
    assert nothing.to_dict()["box"]["APl"] is None
    assert_equal_to_pycocotools(metrics, split, coco_dict(split), perfect(split))


def test_coco_metrics_without_objects_are_nan() -> None:
    split = small_split()
    bare = replace(split, images=tuple(replace(record, annotations=()) for record in split.images))
    for results in ([], perfect(split)):
        metrics = coco_metrics(bare, results)
        assert metrics.mask is not None
        assert math.isnan(metrics.mask.AP)
        assert metrics.objects == 0


def test_coco_metrics_ignore_objects_without_a_mask_for_masks() -> None:
    split = small_split()
    first = split.images[0]
    bare = replace(first.annotations[1], segmentation=None)
    partial = replace(split, images=(replace(first, annotations=(first.annotations[0], bare)), *split.images[1:]))
    metrics = coco_metrics(partial, perfect(split))
    assert metrics.box is not None
    assert metrics.mask is not None
    assert pytest.approx(1.0) == metrics.box.AP
    assert metrics.box.per_class["deer"] == pytest.approx(1.0)
    assert pytest.approx(1.0) == metrics.mask.AP
    assert math.isnan(metrics.mask.per_class["deer"])
    assert metrics.without_mask == 1
    assert "1 objects have no mask" in metrics.table()
    only = replace(split, images=(replace(first, annotations=(bare,)),))
    with pytest.raises(InputError, match="no object has a mask"):
        coco_metrics(only, [])
    boxes = coco_metrics(only, [{k: v for k, v in perfect(split)[1].items() if k != "segmentation"}], ["bbox"])
    assert boxes.mask is None
    assert boxes.box is not None
    assert pytest.approx(1.0) == boxes.box.AP
    assert boxes.to_dict()["mask"] is None


def test_coco_metrics_rejects_results_of_other_images_categories_and_kinds() -> None:
    split = small_split()
    result = perfect(split)[0]
    without = {key: value for key, value in result.items() if key != "segmentation"}
    for wrong, words in (
        (result | {"image_id": 8}, "its image 8"),
        (result | {"category_id": 1}, "its category 1"),
        (without, "segm"),
    ):
        with pytest.raises(InputError, match=words):
            coco_metrics(split, [wrong])
    with pytest.raises(ValueError, match="IoU types"):
        coco_metrics(split, [], ["keypoints"])  # type: ignore[list-item]


def test_metrics_table_distinguishes_categories_with_the_same_name() -> None:
    split = replace(small_split(), class_names=("bear", "deer", "bear"))
    text = coco_metrics(split, perfect(split)).table()
    lines = text.splitlines()
    assert lines[0].split() == list(COLUMNS)
    assert len(set(map(len, lines[:3]))) == 1
    assert len(lines[0]) < 80
    assert lines[1].split()[:2] == ["box", "1.000"]
    assert lines[2].split()[6] == "-"
    assert "bear (3)" in text
    assert "bear (11)" in text
    assert lines[-1] == "3 images, 3 objects, 3 detections"
    assert "bear" not in coco_metrics(split, []).table(per_class=False)
