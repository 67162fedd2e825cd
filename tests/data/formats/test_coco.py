"""COCO JSON in: what is kept, what is left out and counted, what is refused; folder layouts; `sais check`."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sais.data.annotations import object_mask, summarize, trainable
from sais.data.doctor.check import BROKEN, DOUBLE, MASK_BEYOND, OTHER_SIZE, TINY, check_dataset
from sais.data.formats import coco, list_splits, read_dataset, read_dataset_files
from sais.data.formats.coco import read_coco
from sais.errors import SaisError
from sais.ops.rasterize import Bitmap, Polygons, bounding_box, inside

DATA = Path(os.environ.get("SAIS_DATA", Path(__file__).parents[1] / ".." / "shared" / "data"))

SQUARE = [[10.0, 10.0, 30.0, 10.0, 30.0, 20.0, 10.0, 20.0]]
DOCUMENT: dict[str, Any] = {
    "images": [
        {"id": 7, "file_name": "a.png", "height": 40, "width": 60},
        {"id": 9, "file_name": "b.png", "height": 40, "width": 60},
    ],
    "categories": [{"id": 90, "name": "dog"}, {"id": 3, "name": "cat"}, {"id": 5, "name": "unused"}],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 90, "bbox": [10, 10, 20, 10], "area": 200, "segmentation": SQUARE},
    ],
}


def changed(**annotation: Any) -> dict[str, Any]:
    """The document with keys of its annotation changed; a key given None is removed."""
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


def test_labels_follow_the_sorted_ids_and_unused_categories_stay(tmp_path: Path) -> None:
    index = read(tmp_path, DOCUMENT)
    assert index.class_names == ("cat", "unused", "dog")
    assert index.category_ids == (3, 5, 90)
    assert [r.id for r in index.images] == [7, 9]
    assert index.images[1].annotations == ()
    annotation = index.images[0].annotations[0]
    assert (annotation.id, annotation.label, annotation.area, annotation.crowd) == (1, 2, 200.0, False)
    np.testing.assert_array_equal(annotation.box, [10, 10, 30, 20])
    assert annotation.box.dtype == np.float32
    assert index.notes == {}
    assert "2 images, 1 objects of 3 classes, 0 crowds, 1 images without objects" in summarize(index)


def test_a_models_classes_are_mapped_by_name(tmp_path: Path) -> None:
    index = read(tmp_path, DOCUMENT, ("dog", "cat"))
    assert index.category_ids == (90, 3)
    assert index.images[0].annotations[0].label == 0
    without = read(tmp_path, DOCUMENT, ("cat",))
    assert without.images[0].annotations == ()
    assert without.notes == {coco.UNKNOWN_CLASS: 1}
    with pytest.raises(SaisError, match="model's classes cow, pig are not"):
        read(tmp_path, DOCUMENT, ("cow", "cat", "pig"))


def test_a_name_written_twice_keeps_both_its_ids(tmp_path: Path) -> None:
    document = copy.deepcopy(DOCUMENT)
    document["categories"] = [{"id": 0, "name": "dog"}, {"id": 90, "name": "dog"}]
    names = read(tmp_path, document).class_names
    assert names == ("dog", "dog")
    index = read(tmp_path, document, names)
    assert index.category_ids == (0, 90)
    assert index.images[0].annotations[0].label == 1


@pytest.mark.parametrize(
    ("bbox", "note", "box"),
    [
        ([10, 10, 0, 10], coco.NO_AREA, None),
        ([10, 10, 20, -1], coco.NO_AREA, None),
        ([-5, 10, 20, 10], coco.CLIPPED, [0, 10, 15, 20]),
        ([50, 30, 20, 20], coco.CLIPPED, [50, 30, 60, 40]),
        ([60, 10, 20, 10], coco.OUTSIDE, None),
        ([10, -30, 20, 10], coco.OUTSIDE, None),
        (None, coco.BOX_MADE, [10, 10, 30, 20]),
    ],
)
def test_odd_boxes_are_mended_or_left_out_and_counted(
    tmp_path: Path, bbox: list[float] | None, note: str, box: list[float] | None
) -> None:
    index = read(tmp_path, changed(bbox=bbox))
    assert index.notes == {note: 1}
    assert f"note: {note}: 1" in summarize(index)
    objects = index.images[0].annotations
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
def test_odd_masks_are_mended_or_left_out_and_counted(tmp_path: Path, segmentation: Any, notes: dict[str, int]) -> None:
    index = read(tmp_path, changed(segmentation=segmentation))
    assert index.notes == notes
    record = index.images[0]
    has_mask = coco.NO_MASK not in notes
    assert (object_mask(record.annotations[0], record.size) is not None) == has_mask
    assert len(trainable(record)) == 1
    assert len(trainable(record, with_masks=True)) == has_mask
    if has_mask:
        mask = object_mask(record.annotations[0], record.size)
        assert isinstance(mask, Polygons)
        assert inside(mask, (0, 0, 60, 40)).sum() == 200


def test_missing_area_is_computed(tmp_path: Path) -> None:
    index = read(tmp_path, changed(area=None))
    assert index.images[0].annotations[0].area == 200
    assert index.notes == {coco.AREA_MADE: 1}
    boxes = read(tmp_path, changed(area=None, segmentation=None, bbox=[-5, 10, 20, 10]))
    assert boxes.images[0].annotations[0].area == 150


def test_run_lengths_and_crowds(tmp_path: Path) -> None:
    judge = pytest.importorskip("pycocotools.mask")
    bits = np.zeros((40, 60), np.uint8, order="F")
    bits[5:20, 8:30] = 1
    bits[9:12, 12:20] = 0  # a hole
    compressed = judge.encode(bits)
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
    ("document", "words"),
    [
        ("{", "not JSON .*line 1 column 2"),
        ([1], "not COCO"),
        ({k: v for k, v in DOCUMENT.items() if k != "images"}, "'images' is missing"),
        ({k: v for k, v in DOCUMENT.items() if k != "categories"}, "'categories' is missing"),
        (with_key("images", []), "no images"),
        (with_key("annotations", {}), "'annotations' is no list"),
        (with_key("images", DOCUMENT["images"] * 2), "image id 7 is there twice"),
        (with_key("images", [{"id": 7}]), "image 7 lacks 'file_name'"),
        (with_key("annotations", DOCUMENT["annotations"] * 2), "annotation id 1 is there twice"),
        (with_key("categories", DOCUMENT["categories"] * 2), "category id 3 is there twice"),
        (changed(image_id=8), "annotation 1 is of image 8"),
        (changed(category_id=8), "annotation 1 is of category 8"),
        (changed(category_id=None), "annotation 1 lacks 'category_id'"),
        (changed(bbox=[10, float("nan"), 5, 5]), "annotation 1: its bbox holds nan"),
        (changed(bbox=[10, float("inf"), 5, 5]), "annotation 1: its bbox holds inf"),
        (changed(bbox=[10, 5, 5]), "annotation 1: its bbox is"),
        (changed(bbox=[10, "5", 5, 5]), "annotation 1: its bbox holds '5'"),
        (changed(area=float("nan")), "annotation 1: its area holds nan"),
        (changed(segmentation=[[1, 2, float("nan"), 3, 4, 5]]), "annotation 1: its polygon holds NaN"),
        (changed(segmentation=[[1, 2, None, 3, 4, 5]]), "annotation 1: its polygon holds something"),
        (changed(segmentation={"size": [40, 60]}), "annotation 1: its RLE lacks"),
        (changed(segmentation="polygon"), "annotation 1: its segmentation is neither"),
    ],
)
def test_what_the_user_can_mend_is_said_in_one_line(tmp_path: Path, document: Any, words: str) -> None:
    with pytest.raises(SaisError, match=rf"some\.json: .*{words}") as caught:
        read(tmp_path, document)
    assert "\n" not in str(caught.value)
    assert "; " in str(caught.value)


def test_missing_files_and_a_list_without_annotations(tmp_path: Path) -> None:
    with pytest.raises(SaisError, match=r"none\.json: no such annotation file"):
        read_coco(tmp_path / "none.json", None)
    info = {k: v for k, v in DOCUMENT.items() if k != "annotations"}
    assert all(record.annotations == () for record in read(tmp_path, info).images)
    (tmp_path / "some.json").write_bytes(b"\xff\xfe\x00{")
    with pytest.raises(SaisError, match="cannot be read|not JSON"):
        read_coco(tmp_path / "some.json", None)


def write_images(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for entry in DOCUMENT["images"]:
        Image.new("RGB", (entry["width"], entry["height"])).save(folder / entry["file_name"])


@pytest.mark.parametrize(
    ("annotations", "images", "split"),
    [
        ("annotations/train.json", "images/train", "train"),
        ("annotations/train.json", "images", "train"),
        ("annotations/train.json", "train", "train"),
        ("annotations/train.json", ".", "train"),
        ("annotations/instances_val.json", "images/val", "valid"),
        ("annotations/valid.json", "images/valid", "val"),
        ("annotations/instances_train2017.json", "images/train2017", "train"),
        ("annotations/instances_val2017.json", "val2017", "val2017"),
        ("annotations/instances_val2017.json", "images/val2017", "valid"),
        ("train/_annotations.coco.json", "train", "train"),
    ],
)
def test_layouts(tmp_path: Path, annotations: str, images: str, split: str) -> None:
    write_images(tmp_path / images)
    (tmp_path / annotations).parent.mkdir(exist_ok=True)
    (tmp_path / annotations).write_text(json.dumps(DOCUMENT))
    (tmp_path / "annotations").mkdir(exist_ok=True)
    (tmp_path / "annotations" / f"captions_{split}.json").write_text("{}")
    index = read_dataset(tmp_path, split)
    assert index.name == split
    assert all(record.path.is_file() for record in index.images)
    assert len(list_splits(tmp_path)) == 1
    assert len(read_dataset(tmp_path, list_splits(tmp_path)[0]).images) == 2
    assert len(read_dataset_files(tmp_path / annotations, tmp_path / images).images) == 2


def test_what_is_not_found_is_said(tmp_path: Path) -> None:
    with pytest.raises(SaisError, match="no such folder"):
        read_dataset(tmp_path / "gone", "train")
    with pytest.raises(SaisError, match=r"split 'train'; looked for annotations/train\.json"):
        read_dataset(tmp_path, "train")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "train.json").write_text(json.dumps(DOCUMENT))
    with pytest.raises(SaisError, match="test.*it has the splits train"):
        read_dataset(tmp_path, "test")
    with pytest.raises(SaisError, match=r"its images \(a\.png \.\.\.\) are not in .*images/train"):
        read_dataset(tmp_path, "train")
    for name in ("fold_1_test", "fold_2_test"):
        (tmp_path / "annotations" / f"{name}.json").write_text(json.dumps(DOCUMENT))
    with pytest.raises(SaisError, match="any of fold_1_test, fold_2_test"):
        read_dataset(tmp_path, "test")


def test_sizes_missing_from_the_json_are_read(tmp_path: Path) -> None:
    write_images(tmp_path)
    document = copy.deepcopy(DOCUMENT)
    del document["images"][0]["height"]
    (tmp_path / "some.json").write_text(json.dumps(document))
    index = read_coco(tmp_path / "some.json", tmp_path)
    assert index.images[0].size == (40, 60)
    assert index.notes == {coco.SIZES_READ: 1}


def test_check_finds_what_is_wrong(tmp_path: Path) -> None:
    write_images(tmp_path)
    document = copy.deepcopy(DOCUMENT)
    document["images"].append({"id": 10, "file_name": "c.png", "height": 60, "width": 40})
    Image.new("RGB", (60, 40)).save(tmp_path / "c.png")
    first = document["annotations"][0]
    document["annotations"] += [
        {**first, "id": 2},
        {**first, "id": 3, "bbox": [10, 10, 12, 10]},
        {**first, "id": 4, "bbox": [40, 30, 3, 9], "segmentation": [[40, 30, 43, 30, 43, 39, 40, 39]]},
    ]
    whole = (tmp_path / "b.png").read_bytes()
    (tmp_path / "b.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "some.json").write_text(json.dumps(document))
    seen: list[tuple[int, int]] = []
    found = check_dataset(
        read_coco(tmp_path / "some.json", tmp_path), progress=lambda done, of: seen.append((done, of))
    )
    assert {kind: len(cases) for kind, cases in found.findings.items()} == {
        BROKEN: 1, OTHER_SIZE: 1, DOUBLE: 1, MASK_BEYOND: 1, TINY: 1,
    }  # fmt: skip
    assert not found.ok
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert "annotation 3: by 8.0 px" in found.summary()
    assert "turned by EXIF?" in found.summary()
    (tmp_path / "b.png").write_bytes(whole)
    (tmp_path / "some.json").write_text(json.dumps(DOCUMENT))
    clean = check_dataset(read_coco(tmp_path / "some.json", tmp_path))
    assert clean.ok
    assert "nothing wrong found" in clean.summary()


def test_coco_mini_agrees_with_pycocotools() -> None:
    if not (DATA / "coco_mini").is_dir():
        pytest.skip(f"no coco_mini in {DATA} (SAIS_DATA)")
    judge = pytest.importorskip("pycocotools.coco")
    path = DATA / "coco_mini" / "annotations" / "instances_val2017.json"
    truth = judge.COCO(str(path))
    index = read_dataset(DATA / "coco_mini", "valid")
    assert len(index.images) == len(truth.imgs)
    assert index.category_ids == tuple(sorted(truth.cats))
    assert index.category_ids[-1] == 90
    annotations = [(record, a) for record in index.images for a in record.annotations]
    assert len(annotations) + sum(index.notes.get(note, 0) for note in (coco.NO_AREA, coco.OUTSIDE)) == len(truth.anns)
    shared = combined = 0
    for record, annotation in annotations[::6] + [pair for pair in annotations if pair[1].crowd][:8]:
        raw = truth.anns[annotation.id]
        assert index.category_ids[annotation.label] == raw["category_id"]
        theirs = truth.annToMask(raw).astype(bool)
        mask = object_mask(annotation, record.size)
        assert mask is not None
        ours = inside(mask, (0, 0, record.size[1], record.size[0]))
        if annotation.crowd:
            np.testing.assert_array_equal(ours, theirs)
        elif annotation.area > 1000:
            # pycocotools draws a polygon about half a pixel thicker than its geometry.
            assert (ours & theirs).sum() / (ours | theirs).sum() > 0.8
            shared, combined = shared + int((ours & theirs).sum()), combined + int((ours | theirs).sum())
        x, y, width, height = raw["bbox"]
        np.testing.assert_allclose(annotation.box, [x, y, x + width, y + height], atol=0.02)
        if isinstance(mask, Polygons):
            np.testing.assert_allclose(bounding_box(mask), annotation.box, atol=2)
    assert shared / combined > 0.97
