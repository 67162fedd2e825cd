"""Detections: selection, masks in every form, converters, JSON round trip and invalid input."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import numpy as np
import pytest

from sais import input_limits
from sais.errors import InputError, MissingDependencyError, ResourceError
from sais.ops.outlines import fill_rings
from sais.results.cropped_mask import CroppedMask
from sais.results.detections import Detections
from tests.results.detection_samples import random_detections

mask_util = pytest.importorskip("pycocotools.mask")


def assert_same(a: Detections, b: Detections) -> None:
    """Assert that all fields are equal."""
    assert a.image_size == b.image_size
    assert a.class_names == b.class_names
    assert len(a.cropped_masks) == len(b.cropped_masks)
    for name in ("boxes", "scores", "labels"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        assert getattr(a, name).dtype == getattr(b, name).dtype
    if a.cropped_masks:
        np.testing.assert_array_equal(a.masks(), b.masks())


def test_masks_rle_and_polygons_agree() -> None:
    d = random_detections()
    dense = d.masks()
    assert dense.shape == (7, 60, 80)
    assert dense.dtype == bool
    np.testing.assert_array_equal(d.area, dense.sum((1, 2)))
    for mask, rle, rings in zip(dense, d.rle(), d.polygons(), strict=True):
        np.testing.assert_array_equal(mask_util.decode(rle).astype(bool), mask)
        x, y = np.concatenate(rings).T
        rows, columns = np.nonzero(mask)
        assert (x.min(), x.max(), y.min(), y.max()) == (columns.min(), columns.max() + 1, rows.min(), rows.max() + 1)


def test_polygons_with_a_tolerance_have_a_tenth_of_the_points_of_large_objects() -> None:
    y, x = np.mgrid[:200, :200] - 100
    generator, masks = np.random.default_rng(2), []
    for _ in range(10):
        phase, bits = generator.uniform(0, 6, 3), np.hypot(x, y) < 90
        for k, shift in zip((2, 3, 5), phase, strict=True):
            bits &= np.hypot(x, y) < 85 + 12 / k * np.cos(k * np.arctan2(y, x) + shift)
        masks.append(CroppedMask(7, 3, bits))
    d = Detections((210, 220), np.zeros((10, 4)), np.linspace(0.9, 0.5, 10), np.zeros(10), ("a",), masks)
    exact, simple = d.contours(), d.polygons(tolerance=1.0)
    np.testing.assert_array_equal(d.polygons()[0][0], exact[0][0])
    for rings, outlines, mask in zip(exact, simple, d.masks(), strict=True):
        assert sum(map(len, outlines)) <= 0.1 * sum(map(len, rings))
        filled = fill_rings(outlines, (210, 220))
        assert (filled & mask).sum() / (filled | mask).sum() >= 0.98
    assert d[:0].contours() == d[:0].polygons(2.0) == []


@pytest.mark.parametrize("masks", [True, False])
def test_getitem_selects_objects_of_every_field(masks: bool) -> None:
    d = random_detections(masks=masks)
    assert_same(d[[4, 1]], d[np.array([4, 1])])
    np.testing.assert_array_equal(d[[4, 1]].scores, d.scores[[4, 1]])
    assert_same(d[1:4], d[[1, 2, 3]])
    assert_same(d[d.labels == 1], d[np.flatnonzero(d.labels == 1)])
    assert_same(d[(d.labels == 1).tolist()], d[d.labels == 1])
    assert_same(d[-1], d[[6]])
    assert len(d[3]) == 1
    assert len(d[[]]) == 0
    assert [len(detection) for detection in d] == [1] * 7
    if masks:
        assert d[[4, 1]].cropped_masks == [d.cropped_masks[4], d.cropped_masks[1]]
    assert_same(d.above(float(d.scores[2])), d[:3])
    for index in (7, -8, [9], np.ones(3, bool)):
        with pytest.raises(IndexError):
            d[index]


def test_summary_and_repr() -> None:
    d = random_detections()
    d.labels = np.array([2, 0, 2, 2, 0, 1, 0])
    assert d.summary() == "3 bear, 3 fox, 1 deer"
    assert d[:0].summary() == "nothing"
    assert repr(d) == f"Detections(3 bear, 3 fox, 1 deer; with masks, best score {d.scores[0]:.2f}; image 80 x 60)"
    assert repr(random_detections(masks=False)[:0]) == "Detections(nothing; boxes only; image 80 x 60)"


def test_to_coco_equals_pycocotools_masks() -> None:
    d = random_detections()
    results = d.to_coco(42, category_ids=[11, 5, 90])
    assert [r["category_id"] for r in results] == [(11, 5, 90)[label] for label in d.labels]
    assert [r["category_id"] for r in d.to_coco(1)] == d.labels.tolist()
    for i, result in enumerate(results):
        assert result["image_id"] == 42
        assert result["score"] == float(d.scores[i])
        x, y, w, h = result["bbox"]
        np.testing.assert_allclose([x, y, x + w, y + h], d.boxes[i], rtol=1e-12)
        np.testing.assert_array_equal(mask_util.decode(result["segmentation"]).astype(bool), d.masks()[i])
    assert all("segmentation" not in r for r in random_detections(masks=False).to_coco(1))
    assert d[:0].to_coco(1) == []


@pytest.mark.parametrize(
    "d", [random_detections(), random_detections(masks=False), random_detections(0)], ids=["masks", "boxes", "none"]
)
def test_load_restores_saved_detections(d: Detections, tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "d.json"
    d.save(path)
    d.save(path)  # overwrites the file
    assert_same(Detections.load(path), d)
    assert [p.name for p in path.parent.iterdir()] == ["d.json"]


def test_load_rejects_malformed_files(tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    random_detections().save(path)
    valid = path.read_text()
    for text in (
        valid[:300],
        "[]",
        "{}",
        valid.replace('"label": ', '"label": 7'),
        valid.replace("[60, 80]", "[60, 81]", 1),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=r"d\.json") as caught:
            Detections.load(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"missing\.json"):
        Detections.load(tmp_path / "missing.json")
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError):
        random_detections().save(tmp_path / "file" / "d.json")


def test_load_names_the_limit_of_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    masks = [CroppedMask(0, 0, np.ones((3, 3), dtype=bool)), CroppedMask(4, 4, np.ones((2, 2), dtype=bool))]
    Detections((8, 8), np.zeros((2, 4)), np.ones(2), np.zeros(2, dtype=int), ("cat",), masks).save(tmp_path / "d.json")
    monkeypatch.setattr(input_limits, "MAX_BITMAP_PIXELS", 12)
    with pytest.raises(ResourceError, match=r"d\.json: masks of more than 12 pixels.*MAX_BITMAP_PIXELS"):
        Detections.load(tmp_path / "d.json")
    monkeypatch.setattr(input_limits, "MAX_BITMAP_PIXELS", 13)
    assert len(Detections.load(tmp_path / "d.json")) == 2


def test_masks_of_a_box_only_model_raise() -> None:
    d = random_detections(masks=False)
    x1, y1, x2, y2 = d.boxes.astype(float).T
    np.testing.assert_allclose(d.area, (x2 - x1) * (y2 - y1))
    for form in (d.masks, d.rle, d.polygons):
        with pytest.raises(InputError, match="no masks"):
            form()
    assert d[:0].masks().shape == (0, 60, 80)
    assert d[:0].rle() == []
    assert d[:0].polygons() == []


def test_inconsistent_fields_raise() -> None:
    box, names = np.zeros((1, 4)), ("a",)
    for scores, labels, masks in (([1, 1], [0], []), ([1], [0, 0], []), ([1], [1], []), ([1], [-1], [])):
        with pytest.raises(ValueError, match="expected equal numbers|labels"):
            Detections((5, 5), box, np.array(scores), np.array(labels), names, masks)
    for boxes, score in ((box, np.nan), (box, np.inf), (np.full((1, 4), np.nan), 1), (np.full((1, 4), -np.inf), 1)):
        with pytest.raises(ValueError, match="not a finite number"):
            Detections((5, 5), boxes, np.array([score]), np.zeros(1), names)
    for masks in ([CroppedMask(0, 0, np.ones((1, 1), bool))] * 2, [CroppedMask(4, 0, np.ones((1, 2), bool))]):
        with pytest.raises(ValueError, match="mask"):
            Detections((5, 5), box, np.ones(1), np.zeros(1), names, masks)


def test_to_supervision_passes_all_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    d = random_detections()
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(MissingDependencyError) as caught:
        d.to_supervision()
    assert caught.value.package == "supervision"
    module = types.SimpleNamespace(Detections=lambda **fields: types.SimpleNamespace(**fields))
    monkeypatch.setitem(sys.modules, "supervision", module)
    converted = d.to_supervision()
    np.testing.assert_array_equal(converted.xyxy, d.boxes)
    np.testing.assert_array_equal(converted.mask, d.masks())
    np.testing.assert_array_equal(converted.confidence, d.scores)
    np.testing.assert_array_equal(converted.class_id, d.labels)
    assert converted.data["class_name"].tolist() == [d.class_names[label] for label in d.labels]
    assert random_detections(masks=False).to_supervision().mask is None
