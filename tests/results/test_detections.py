"""Detections: selection, masks in every form, COCO and JSON round trips, and what it refuses."""

from __future__ import annotations

import pickle
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from sais.errors import SaisError
from sais.results.cropped_mask import CroppedMask
from sais.results.detections import Detections

mask_util = pytest.importorskip("pycocotools.mask")


def scene(number: int = 7, seed: int = 0, masks: bool = True) -> Detections:
    """Random objects of three classes in an image of 60 x 80."""
    generator = np.random.default_rng(seed)
    x, y = generator.integers(0, 60, number), generator.integers(0, 40, number)
    w, h = generator.integers(1, 21, number), generator.integers(1, 21, number)
    patches = [
        CroppedMask(int(x[i]), int(y[i]), generator.random((h[i], w[i])) < 0.6) for i in range(number if masks else 0)
    ]
    boxes = np.stack([x, y, x + w, y + h], 1) + generator.random((number, 4)) * 0.3
    scores = np.sort(generator.random(number))[::-1]
    return Detections((60, 80), boxes, scores, generator.integers(0, 3, number), ("bear", "deer", "fox"), patches)


def same(a: Detections, b: Detections) -> None:
    """Equal in everything a user sees."""
    assert a.image_size == b.image_size
    assert a.class_names == b.class_names
    assert len(a.cropped_masks) == len(b.cropped_masks)
    for name in ("boxes", "scores", "labels"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        assert getattr(a, name).dtype == getattr(b, name).dtype
    if a.cropped_masks:
        np.testing.assert_array_equal(a.masks(), b.masks())


def test_masks_agree_in_every_form() -> None:
    d = scene()
    dense = d.masks()
    assert dense.shape == (7, 60, 80)
    assert dense.dtype == bool
    np.testing.assert_array_equal(d.area, dense.sum((1, 2)))
    for full, rle, rings in zip(dense, d.rle(), d.polygons(), strict=True):
        np.testing.assert_array_equal(mask_util.decode(rle).astype(bool), full)
        x, y = np.concatenate(rings).T
        rows, columns = np.nonzero(full)
        assert (x.min(), x.max(), y.min(), y.max()) == (columns.min(), columns.max() + 1, rows.min(), rows.max() + 1)


@pytest.mark.parametrize("masks", [True, False])
def test_selection(masks: bool) -> None:
    d = scene(masks=masks)
    same(d[[4, 1]], d[np.array([4, 1])])
    np.testing.assert_array_equal(d[[4, 1]].scores, d.scores[[4, 1]])
    same(d[1:4], d[[1, 2, 3]])
    same(d[d.labels == 1], d[np.flatnonzero(d.labels == 1)])
    same(d[(d.labels == 1).tolist()], d[d.labels == 1])
    same(d[-1], d[[6]])
    assert len(d[3]) == 1
    assert len(d[[]]) == 0
    assert [len(one) for one in d] == [1] * 7
    if masks:
        assert d[[4, 1]].cropped_masks == [d.cropped_masks[4], d.cropped_masks[1]]
    same(d.above(float(d.scores[2])), d[:3])
    for wrong in (7, -8, [9], np.ones(3, bool)):
        with pytest.raises(IndexError):
            d[wrong]


def test_words() -> None:
    d = scene()
    d.labels = np.array([2, 0, 2, 2, 0, 1, 0])
    assert d.summary() == "3 bear, 3 fox, 1 deer"
    assert d[:0].summary() == "nothing"
    assert repr(d) == f"Detections(3 bear, 3 fox, 1 deer; with masks, best score {d.scores[0]:.2f}; image 80 x 60)"
    assert repr(scene(masks=False)[:0]) == "Detections(nothing; boxes only; image 80 x 60)"


def test_to_coco() -> None:
    d = scene()
    results = d.to_coco(42, category_ids=[11, 5, 90])
    assert [r["category_id"] for r in results] == [(11, 5, 90)[label] for label in d.labels]
    assert [r["category_id"] for r in d.to_coco(1)] == d.labels.tolist()
    for i, result in enumerate(results):
        assert result["image_id"] == 42
        assert result["score"] == float(d.scores[i])
        x, y, w, h = result["bbox"]
        np.testing.assert_allclose([x, y, x + w, y + h], d.boxes[i], rtol=1e-12)
        np.testing.assert_array_equal(mask_util.decode(result["segmentation"]).astype(bool), d.masks()[i])
    assert all("segmentation" not in r for r in scene(masks=False).to_coco(1))
    assert d[:0].to_coco(1) == []


@pytest.mark.parametrize("d", [scene(), scene(masks=False), scene(0)], ids=["masks", "boxes", "none"])
def test_save_and_load(d: Detections, tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "d.json"
    d.save(path)
    d.save(path)  # over the old one
    same(Detections.load(path), d)
    assert [p.name for p in path.parent.iterdir()] == ["d.json"]


def test_load_refuses(tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    scene().save(path)
    whole = path.read_text()
    for text in (
        whole[:300],
        "[]",
        "{}",
        whole.replace('"label": ', '"label": 7'),
        whole.replace("[60, 80]", "[60, 81]", 1),
    ):
        path.write_text(text)
        with pytest.raises(SaisError, match=r"d\.json") as caught:
            Detections.load(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(SaisError, match=r"missing\.json"):
        Detections.load(tmp_path / "missing.json")
    (tmp_path / "file").write_text("")
    with pytest.raises(SaisError, match="cannot be written"):
        scene().save(tmp_path / "file" / "d.json")


def test_boxes_only() -> None:
    d = scene(masks=False)
    x1, y1, x2, y2 = d.boxes.astype(float).T
    np.testing.assert_allclose(d.area, (x2 - x1) * (y2 - y1))
    for form in (d.masks, d.rle, d.polygons):
        with pytest.raises(SaisError, match="no masks"):
            form()
    assert d[:0].masks().shape == (0, 60, 80)
    assert d[:0].rle() == []
    assert d[:0].polygons() == []


def test_what_does_not_belong_together() -> None:
    box, names = np.zeros((1, 4)), ("a",)
    for scores, labels, patches in (([1, 1], [0], []), ([1], [0, 0], []), ([1], [1], []), ([1], [-1], [])):
        with pytest.raises(ValueError, match=r"belong together|labels"):
            Detections((5, 5), box, np.array(scores), np.array(labels), names, patches)
    for patches in ([CroppedMask(0, 0, np.ones((1, 1), bool))] * 2, [CroppedMask(4, 0, np.ones((1, 2), bool))]):
        with pytest.raises(ValueError, match="patch"):
            Detections((5, 5), box, np.ones(1), np.zeros(1), names, patches)


def test_a_patch_keeps_a_bit_for_a_pixel_and_cannot_be_written_into() -> None:
    bits = np.random.default_rng(0).random((101, 203)) < 0.4
    patch = CroppedMask(3, 4, bits)
    np.testing.assert_array_equal(patch.bits, bits)
    assert (patch.shape, patch.area) == ((101, 203), bits.sum())
    assert len(pickle.dumps(patch)) < bits.size / 8 + 500
    with pytest.raises(ValueError, match="read-only"):
        patch.bits[0, 0] = True
    empty = CroppedMask(0, 0, np.zeros((0, 5), bool))
    assert (empty.bits.shape, empty.area) == ((0, 5), 0)
    with pytest.raises(ValueError, match="two dimensions"):
        CroppedMask(0, 0, np.zeros(5, bool))


def test_to_supervision(monkeypatch: pytest.MonkeyPatch) -> None:
    d = scene()
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(SaisError, match="pip install supervision"):
        d.to_supervision()
    stand_in = types.SimpleNamespace(Detections=lambda **fields: types.SimpleNamespace(**fields))
    monkeypatch.setitem(sys.modules, "supervision", stand_in)
    found = d.to_supervision()
    np.testing.assert_array_equal(found.xyxy, d.boxes)
    np.testing.assert_array_equal(found.mask, d.masks())
    np.testing.assert_array_equal(found.confidence, d.scores)
    np.testing.assert_array_equal(found.class_id, d.labels)
    assert found.data["class_name"].tolist() == [d.class_names[label] for label in d.labels]
    assert scene(masks=False).to_supervision().mask is None
