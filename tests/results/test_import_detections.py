"""Detections from COCO and supervision, and to FiftyOne."""

from __future__ import annotations

import sys
import types
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sais.errors import InputError, MissingDependencyError
from sais.results.cropped_mask import CroppedMask
from sais.results.detections import Detections
from tests.results.detection_samples import NAMES, random_detections, squares


def assert_same_objects(a: Detections, b: Detections) -> None:
    """Assert equal images, classes, scores, boxes and pixels."""
    assert (a.image_size, a.class_names) == (b.image_size, b.class_names)
    np.testing.assert_array_equal(a.labels, b.labels)
    np.testing.assert_array_equal(a.scores, b.scores)
    np.testing.assert_allclose(a.boxes, b.boxes, rtol=1e-6)
    assert bool(a.cropped_masks) == bool(b.cropped_masks)
    if a.cropped_masks:
        np.testing.assert_array_equal(a.masks(), b.masks())


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("ids", [None, (11, 5, 90)])
def test_from_coco_restores_results(masks: bool, ids: tuple[int, ...] | None) -> None:
    d = random_detections(masks=masks)
    results = d.to_coco(42, ids)
    assert_same_objects(Detections.from_coco(results, (60, 80), NAMES, ids), d)
    assert_same_objects(Detections.from_coco(results[::-1], (60, 80), NAMES, ids), d)  # sorted by score
    assert_same_objects(Detections.from_coco([], (60, 80), NAMES, ids), d[:0])


def test_from_coco_reads_annotations_polygons_and_uncompressed_rle() -> None:
    square = [10, 10, 20, 10, 20, 30, 10, 30]
    entries: list[dict[str, Any]] = [
        {"category_id": 1, "bbox": [10, 10, 10, 20], "segmentation": [square, [40, 5, 45, 5, 45, 9, 40, 9]]},
        {"category_id": 0, "segmentation": {"size": [60, 80], "counts": [61, 4, 60 * 80 - 65]}},
    ]
    d = Detections.from_coco(entries, (60, 80), NAMES)
    assert d.scores.tolist() == [1, 1]
    assert d.area.tolist() == [200 + 20, 4]
    assert d.boxes.tolist() == [[10, 10, 20, 30], [1, 1, 2, 5]]
    dense = d.masks()
    assert dense[0, 10:30, 10:20].all()
    assert dense[1, 1:5, 1].all()


RLE = {"size": [60, 80], "counts": [60 * 80]}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"bbox": [1, 1, 2, 2]}, "no 'category_id'. Fix it"),
        ({"category_id": 9, "bbox": [1, 1, 2, 2]}, "unknown category 9. Give the ids of all classes"),
        ({"category_id": [1], "bbox": [1, 1, 2, 2]}, "malformed"),
        ({"category_id": 1}, "no 'bbox'"),
        ({"category_id": 1, "bbox": [1, 1, 2]}, "malformed"),
        ({"category_id": 1, "bbox": [1, 1, 2, float("nan")]}, "malformed"),
        ({"category_id": 1, "bbox": [1, 1, 2, 2], "score": "high"}, "malformed"),
        ({"category_id": 1, "bbox": [1, 1, 2, 2], "score": float("inf")}, "malformed"),
        ({"category_id": 1, "bbox": [1, 1, 2, 2], "segmentation": RLE | {"size": [80, 60]}}, "RLE of size"),
        ({"category_id": 1, "bbox": [1, 1, 2, 2], "segmentation": RLE | {"counts": [7]}}, "counts add up to 7"),
        ({"category_id": 1, "bbox": [1, 1, 2, 2], "segmentation": [[1, 2, 3]]}, "malformed"),
        ({"category_id": 1, "bbox": [1, 1, 2, 2], "segmentation": [[1, 2, 3, "x"]]}, "malformed"),
        ({"category_id": 1, "bbox": [1, 1, 2, 2], "segmentation": [[1, 2, 3, float("nan")]]}, "not a number"),
        ("entry", "malformed"),
    ],
)
def test_from_coco_names_the_malformed_entry(entry: Any, message: str) -> None:
    valid = {"category_id": 1, "bbox": [1, 1, 2, 2]}
    with pytest.raises(InputError, match=f"entry 1: .*{message}"):
        Detections.from_coco([valid, entry], (60, 80), NAMES)


def test_from_coco_refuses_entries_of_which_some_have_no_segmentation() -> None:
    results = random_detections(3).to_coco(1)
    del results[1]["segmentation"]
    with pytest.raises(InputError, match="1 of 3 entries have no segmentation"):
        Detections.from_coco(results, (60, 80), NAMES)


def test_from_coco_refuses_entries_of_several_images() -> None:
    results = [*random_detections(3).to_coco(1), *random_detections(2).to_coco(2)]
    with pytest.raises(InputError, match="entries of 2 images. Give those of one image"):
        Detections.from_coco(results, (60, 80), NAMES)


def supervision_of(d: Detections, **changes: Any) -> Any:
    """Return the fields of a `supervision.Detections`."""
    names = np.array([d.class_names[label] for label in d.labels])
    fields = {"xyxy": d.boxes, "mask": d.masks(), "confidence": d.scores, "class_id": d.labels}
    return types.SimpleNamespace(**fields | {"data": {"class_name": names}} | changes)


def test_from_supervision_restores_all_fields() -> None:
    d = random_detections(12)
    assert {0, 1, 2} == set(d.labels.tolist())
    assert_same_objects(Detections.from_supervision(supervision_of(d)), d)
    order = np.random.default_rng(0).permutation(12)
    assert_same_objects(Detections.from_supervision(supervision_of(d[order])), d)


def test_from_supervision_without_names_scores_classes_and_masks() -> None:
    d = random_detections(12)
    plain = Detections.from_supervision(supervision_of(d, data={}, confidence=None, class_id=None))
    assert (plain.class_names, set(plain.scores.tolist())) == (("0",), {1.0})
    named = Detections.from_supervision(supervision_of(d, data={}), class_names=("x", "y", "z"))
    assert named.class_names == ("x", "y", "z")
    boxes = supervision_of(d, mask=None)
    assert not Detections.from_supervision(boxes, (60, 80)).cropped_masks
    with pytest.raises(InputError, match=r"image_size=\(H, W\)"):
        Detections.from_supervision(boxes)
    with pytest.raises(InputError, match="labels 0 to 2 with 2 class names"):
        Detections.from_supervision(supervision_of(d), class_names=("x", "y"))
    empty = supervision_of(d, xyxy=np.zeros((0, 4)), mask=None, confidence=None, class_id=None, data={})
    assert len(Detections.from_supervision(empty, (60, 80))) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"confidence": np.array([0.5, np.nan, 0.2])}, "not a finite number"),
        ({"xyxy": np.full((3, 4), np.inf)}, "not a finite number"),
        ({"mask": np.ones((3, 80, 60), bool)}, r"masks of \(80, 60\) in an image of \(60, 80\)"),
        ({"mask": np.ones((3, 30, 40), bool)}, r"masks of \(30, 40\) in an image of \(60, 80\)"),
        ({"class_id": np.array([0, -1, 1]), "data": {}}, "labels -1 to 1 with 2 class names"),
    ],
)
def test_from_supervision_names_what_is_wrong(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Detections.from_supervision(supervision_of(random_detections(3), **changes), (60, 80))


def test_supervision_round_trip() -> None:
    pytest.importorskip("supervision")
    for d in (random_detections(12), random_detections(12, masks=False)):
        assert_same_objects(Detections.from_supervision(d.to_supervision(), (60, 80), NAMES), d)
        assert_same_objects(Detections.from_supervision(d[:0].to_supervision(), (60, 80), NAMES), d[:0])


def test_to_fiftyone_has_masks_in_their_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    d = random_detections()
    monkeypatch.setitem(sys.modules, "fiftyone", None)
    with pytest.raises(MissingDependencyError) as caught:
        d.to_fiftyone()
    assert caught.value.package == "fiftyone"
    record = types.SimpleNamespace
    monkeypatch.setitem(sys.modules, "fiftyone", record(Detection=record, Detections=record))
    objects = d.to_fiftyone().detections
    assert [item.label for item in objects] == [d.class_names[label] for label in d.labels]
    assert [item.confidence for item in objects] == d.scores.tolist()
    for item, mask in zip(objects, d.masks(), strict=True):
        x, y, w, h = np.rint(np.array(item.bounding_box) * [80, 60, 80, 60]).astype(int)
        dense = np.zeros((60, 80), bool)
        dense[y : y + h, x : x + w] = item.mask  # FiftyOne stretches the mask over the box
        np.testing.assert_array_equal(dense, mask)
    (box,) = squares((20, 30), masks=False).to_fiftyone().detections
    assert box.bounding_box == [20 / 80, 30 / 60, 10 / 80, 10 / 60]
    assert not hasattr(box, "mask")
    empty = Detections((60, 80), [[8, 6, 16, 12]], [0.5], [0], NAMES, [CroppedMask(0, 0, np.zeros((0, 0), bool))])
    assert empty.to_fiftyone().detections[0].bounding_box == pytest.approx([0.1, 0.1, 0.1, 0.1])
    assert d[:0].to_fiftyone().detections == []


def test_track_ids_stay_with_their_objects(tmp_path: Path) -> None:
    d = random_detections(6)
    assert "track_id" not in d.to_coco(1)[0]
    d.track_ids = np.array([4, 9, 1, 7, 3, 2])
    np.testing.assert_array_equal(d[[2, 0]].track_ids, [1, 4])
    np.testing.assert_array_equal(d.filter(score=float(d.scores[3])).track_ids, [4, 9, 1, 7])
    assert d.merge(d[:1]).track_ids is None
    d.save(tmp_path / "d.json")
    names = d.class_names
    copies = [Detections.load(tmp_path / "d.json"), Detections.from_coco(d.to_coco(1), d.image_size, names)]
    if find_spec("supervision"):
        copies.append(Detections.from_supervision(d.to_supervision(), class_names=names))
    for copy in copies:
        np.testing.assert_array_equal(copy.track_ids, d.track_ids)
    d.track_ids = None
    d.save(tmp_path / "d.json")
    assert Detections.load(tmp_path / "d.json").track_ids is None
    with pytest.raises(ValueError, match="2 track ids for 6 objects"):
        Detections(d.image_size, d.boxes, d.scores, d.labels, names, track_ids=np.array([1, 2]))
