"""COCO reader: labels, dropped and corrected annotations, errors, and agreement with pycocotools."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sais.data.annotations import object_mask, trainable
from sais.data.formats import coco, read_dataset
from sais.data.formats.coco import read_coco
from sais.data.split_summary import summarize
from sais.errors import InputError
from sais.ops.rasterize import Bitmap, Polygons, bounding_box, inside
from tests.data.formats.coco_samples import DOCUMENT, SQUARE, write_images

DATA = Path(os.environ.get("SAIS_DATA", Path(__file__).parents[4] / "shared" / "data"))


def changed(**annotation: Any) -> dict[str, Any]:
    """Return the document with keys of its annotation changed; None removes a key."""
    document = copy.deepcopy(DOCUMENT)
    for key, value in annotation.items():
        document["annotations"][0].pop(key)
        if value is not None:
            document["annotations"][0][key] = value
    return document


def read(folder: Path, document: Any, classes: tuple[str, ...] | None = None) -> Any:
    path = folder / "some.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return read_coco(path, None, classes)


def test_labels_follow_sorted_category_ids_with_unused_categories(tmp_path: Path) -> None:
    split = read(tmp_path, DOCUMENT)
    assert split.class_names == ("cat", "unused", "dog")
    assert split.category_ids == (3, 5, 90)
    assert [r.id for r in split.images] == [7, 9]
    assert split.images[1].annotations == ()
    annotation = split.images[0].annotations[0]
    assert (annotation.id, annotation.label, annotation.area, annotation.crowd) == (1, 2, 200.0, False)
    np.testing.assert_array_equal(annotation.box, [10, 10, 30, 20])
    assert annotation.box.dtype == np.float32
    assert split.notes == {}
    assert "2 images, 1 objects of 3 classes, 0 crowds, 1 images without objects" in summarize(split)


def test_labels_follow_a_models_classes_by_name(tmp_path: Path) -> None:
    split = read(tmp_path, DOCUMENT, ("dog", "cat"))
    assert split.category_ids == (90, 3)
    assert split.images[0].annotations[0].label == 0
    subset = read(tmp_path, DOCUMENT, ("cat",))
    assert subset.images[0].annotations == ()
    assert subset.notes == {coco.UNKNOWN_CLASS: 1}
    with pytest.raises(InputError, match="cow, pig"):
        read(tmp_path, DOCUMENT, ("cow", "cat", "pig"))


def test_duplicate_category_names_keep_their_ids(tmp_path: Path) -> None:
    document = copy.deepcopy(DOCUMENT)
    document["categories"] = [{"id": 0, "name": "dog"}, {"id": 90, "name": "dog"}]
    names = read(tmp_path, document).class_names
    assert names == ("dog", "dog")
    split = read(tmp_path, document, names)
    assert split.category_ids == (0, 90)
    assert split.images[0].annotations[0].label == 1


@pytest.mark.parametrize(
    ("bbox", "note", "box"),
    [
        ([10, 10, 0, 10], coco.NO_AREA, None),
        ([10, 10, 20, -1], coco.NO_AREA, None),
        ([-5, 10, 20, 10], coco.CLIPPED, [0, 10, 15, 20]),
        ([50, 30, 20, 20], coco.CLIPPED, [50, 30, 60, 40]),
        ([60, 10, 20, 10], coco.OUTSIDE, None),
        ([10, -30, 20, 10], coco.OUTSIDE, None),
        (None, coco.BOX_COMPUTED, [10, 10, 30, 20]),
    ],
)
def test_invalid_boxes_are_corrected_or_dropped_and_counted(
    tmp_path: Path, bbox: list[float] | None, note: str, box: list[float] | None
) -> None:
    split = read(tmp_path, changed(bbox=bbox))
    assert split.notes == {note: 1}
    assert f"note: {note}: 1" in summarize(split)
    objects = split.images[0].annotations
    if box is None:
        assert objects == ()
    else:
        np.testing.assert_array_equal(objects[0].box, box)


@pytest.mark.parametrize(
    ("segmentation", "notes"),
    [
        (None, {coco.NO_MASK: 1}),
        ([], {coco.NO_MASK: 1}),
        ([[1, 2, 3, 4]], {coco.BAD_PART: 1, coco.NO_MASK: 1}),
        ([[1, 2, 3, 4, 5, 6, 7]], {coco.BAD_PART: 1, coco.NO_MASK: 1}),
        ([[1, 2], *SQUARE], {coco.BAD_PART: 1}),
        (SQUARE[0], {coco.FLAT: 1}),
        ({"size": [2, 2], "counts": [1, 3]}, {coco.BAD_RLE: 1, coco.NO_MASK: 1}),
    ],
)
def test_invalid_masks_are_corrected_or_dropped_and_counted(
    tmp_path: Path, segmentation: Any, notes: dict[str, int]
) -> None:
    split = read(tmp_path, changed(segmentation=segmentation))
    assert split.notes == notes
    record = split.images[0]
    has_mask = coco.NO_MASK not in notes
    assert (object_mask(record.annotations[0], record.size) is not None) == has_mask
    assert len(trainable(record)) == 1
    assert len(trainable(record, with_masks=True)) == has_mask
    if has_mask:
        mask = object_mask(record.annotations[0], record.size)
        assert isinstance(mask, Polygons)
        assert inside(mask, (0, 0, 60, 40)).sum() == 200


def test_missing_area_is_computed(tmp_path: Path) -> None:
    split = read(tmp_path, changed(area=None))
    assert split.images[0].annotations[0].area == 200
    assert split.notes == {coco.AREA_COMPUTED: 1}
    boxes = read(tmp_path, changed(area=None, segmentation=None, bbox=[-5, 10, 20, 10]))
    assert boxes.images[0].annotations[0].area == 150


def test_rle_and_crowds_are_read(tmp_path: Path) -> None:
    mask_util = pytest.importorskip("pycocotools.mask")
    bits = np.zeros((40, 60), np.uint8, order="F")
    bits[5:20, 8:30] = 1
    bits[9:12, 12:20] = 0  # a hole
    compressed = mask_util.encode(bits)
    compressed["counts"] = compressed["counts"].decode()
    runs = np.diff(np.flatnonzero(np.diff(np.concatenate([[2], bits.ravel("F"), [2]]))))
    for rle in (compressed, {"size": [40, 60], "counts": runs.tolist()}):
        document = changed(segmentation=rle, bbox=None, area=None)
        document["annotations"][0]["iscrowd"] = 1
        record = read(tmp_path, document).images[0]
        annotation = record.annotations[0]
        assert annotation.crowd
        assert trainable(record) == ()
        assert annotation.area == bits.sum()
        mask = object_mask(annotation, record.size)
        assert isinstance(mask, Bitmap)
        assert mask.bits.shape == (15, 22)
        np.testing.assert_array_equal(annotation.box, [8, 5, 30, 20])
        np.testing.assert_array_equal(inside(mask, (0, 0, 60, 40)), bits.astype(bool))


def with_key(key: str, value: Any) -> dict[str, Any]:
    return {**copy.deepcopy(DOCUMENT), key: value}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("{", "not JSON .*line 1 column 2"),
        ([1], "not COCO"),
        ({k: v for k, v in DOCUMENT.items() if k != "images"}, "'images' is missing"),
        ({k: v for k, v in DOCUMENT.items() if k != "categories"}, "'categories' is missing"),
        (with_key("images", []), "no images"),
        (with_key("annotations", {}), "'annotations' is not a list"),
        (with_key("images", [*DOCUMENT["images"], {"id": 7, "file_name": "b.png"}]), "image id 7 occurs"),
        (with_key("images", [{"id": 7}]), "image 7 lacks 'file_name'"),
        (with_key("images", [{"id": 7, "file_name": "a\ud800.png"}]), "image 7 lacks 'file_name'"),
        (with_key("categories", DOCUMENT["categories"] * 2), "category id 3 occurs"),
        (changed(image_id=8), r"1 of 1 annotations are of images that are not in 'images' .*annotation 1 of image 8"),
        (changed(category_id=8), "annotation 1 is of category 8"),
        (changed(category_id=None), "annotation 1 lacks 'category_id'"),
        (changed(bbox=[10, float("nan"), 5, 5]), "annotation 1: its bbox contains nan"),
        (changed(bbox=[10, float("inf"), 5, 5]), "annotation 1: its bbox contains inf"),
        (changed(bbox=[10, 5, 5]), "annotation 1: its bbox is"),
        (changed(bbox=[10, "5", 5, 5]), "annotation 1: its bbox contains '5'"),
        (changed(area=float("nan")), "annotation 1: its area contains nan"),
        (changed(segmentation=[[1, 2, float("nan"), 3, 4, 5]]), "annotation 1: its polygon contains NaN"),
        (changed(segmentation=[[1, 2, None, 3, 4, 5]]), "annotation 1: its polygon contains a value"),
        (changed(segmentation={"size": [40, 60]}), "annotation 1: its RLE lacks"),
        (changed(segmentation="polygon"), "annotation 1: its segmentation is neither"),
    ],
)
def test_malformed_files_raise_one_line_with_a_fix(tmp_path: Path, document: Any, message: str) -> None:
    with pytest.raises(InputError, match=rf"some\.json: .*{message}") as caught:
        read(tmp_path, document)
    assert "\n" not in str(caught.value)
    assert ". " in str(caught.value)


def test_missing_file_and_document_without_annotations(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.json: "):
        read_coco(tmp_path / "none.json", None)
    info = {k: v for k, v in DOCUMENT.items() if k != "annotations"}
    assert all(record.annotations == () for record in read(tmp_path, info).images)
    (tmp_path / "some.json").write_bytes(b"\xff\xfe\x00{")
    with pytest.raises(InputError, match="cannot be read|not JSON"):
        read_coco(tmp_path / "some.json", None)


def test_sizes_missing_from_the_file_are_read_from_the_images(tmp_path: Path) -> None:
    write_images(tmp_path)
    document = copy.deepcopy(DOCUMENT)
    del document["images"][0]["height"]
    (tmp_path / "some.json").write_text(json.dumps(document))
    split = read_coco(tmp_path / "some.json", tmp_path)
    assert split.images[0].size == (40, 60)
    assert split.notes == {coco.SIZES_READ: 1}


def test_coco_mini_equals_pycocotools() -> None:
    if not (DATA / "coco_mini").is_dir():
        pytest.skip(f"no coco_mini in {DATA} (SAIS_DATA)")
    pycocotools_coco = pytest.importorskip("pycocotools.coco")
    path = DATA / "coco_mini" / "annotations" / "instances_val2017.json"
    truth = pycocotools_coco.COCO(str(path))
    split = read_dataset(DATA / "coco_mini", "valid")
    assert len(split.images) == len(truth.imgs)
    assert split.category_ids == tuple(sorted(truth.cats))
    assert split.category_ids[-1] == 90
    annotations = [(record, a) for record in split.images for a in record.annotations]
    assert len(annotations) + sum(split.notes.get(note, 0) for note in (coco.NO_AREA, coco.OUTSIDE)) == len(truth.anns)
    intersection = union = 0
    for record, annotation in annotations[::6] + [pair for pair in annotations if pair[1].crowd][:8]:
        raw = truth.anns[annotation.id]
        assert split.category_ids[annotation.label] == raw["category_id"]
        expected = truth.annToMask(raw).astype(bool)
        mask = object_mask(annotation, record.size)
        assert mask is not None
        pixels = inside(mask, (0, 0, record.size[1], record.size[0]))
        if annotation.crowd:
            np.testing.assert_array_equal(pixels, expected)
        elif annotation.area > 1000:
            # pycocotools draws a polygon about half a pixel thicker than its geometry.
            assert (pixels & expected).sum() / (pixels | expected).sum() > 0.8
            intersection, union = intersection + int((pixels & expected).sum()), union + int((pixels | expected).sum())
        x, y, width, height = raw["bbox"]
        np.testing.assert_allclose(annotation.box, [x, y, x + width, y + height], atol=0.02)
        if isinstance(mask, Polygons):
            np.testing.assert_allclose(bounding_box(mask), annotation.box, atol=2)
    assert intersection / union > 0.97
