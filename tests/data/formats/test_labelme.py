"""LabelMe: the same objects as COCO, every type of shape, sizes, names of images, and files of strangers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sais.data.annotations import DatasetSplit, object_mask
from sais.data.formats import list_splits, read_dataset
from sais.data.formats.notes import (
    DRAWN,
    NO_AREA_SHAPE,
    NO_MASK,
    NOT_LABELED,
    NOT_LABELME,
    OTHER_SIZE,
    SCALED,
    UNKNOWN_SHAPE,
)
from sais.errors import InputError
from sais.ops.rasterize import inside
from tests.data.formats.label_samples import (
    SIZE,
    SPLITS,
    Shape,
    image_names,
    labelme_document,
    mask_shape,
    objects,
    twin,
    write_image,
    write_labelme,
)

SQUARE = [[10.0, 10.0], [30.0, 10.0], [30.0, 20.0], [10.0, 20.0]]


@pytest.mark.parametrize("with_masks", [False, True])
@pytest.mark.parametrize("split", SPLITS)
def test_labelme_has_the_objects_of_its_coco_twin(tmp_path: Path, split: str, with_masks: bool) -> None:
    found = read_dataset(write_labelme(tmp_path / "labelme", with_masks), split)
    assert objects(found) == twin(tmp_path / "coco", split, with_masks)
    assert found.origin == "LabelMe, 2 splits, 2 classes"
    assert not found.notes


def write_one(folder: Path, shapes: list[dict[str, Any]], **keys: Any) -> Path:
    """Write the LabelMe file of one image with shapes, and other keys."""
    write_image(folder / "a.png")
    document = labelme_document("train_3") | {"imagePath": "a.png", "shapes": shapes} | keys
    (folder / "a.json").write_text(json.dumps(document))
    return folder


def read_all(folder: Path) -> DatasetSplit:
    """Read all images of a folder without splits."""
    return read_dataset(folder, "all")


def pixels(split: DatasetSplit, position: int = 0) -> np.ndarray:
    """Return the mask (H, W) of an object of the first image."""
    mask = object_mask(split.images[0].annotations[position], SIZE)
    assert mask is not None
    return inside(mask, (0, 0, SIZE[1], SIZE[0]))


def test_labelme_shapes_of_every_type_become_objects_or_are_counted(tmp_path: Path) -> None:
    shapes = [
        {"label": "a", "points": SQUARE},
        {"label": "b", "points": [[30, 40], [20, 30]], "shape_type": "rectangle"},
        {"label": "c", "points": [[32, 24], [42, 24]], "shape_type": "circle", "flags": {"crowd": True}},
        {"label": "d", "points": [[1, 1]], "shape_type": "point"},
        {"label": "d", "points": [[1, 1], [5, 5]], "shape_type": "line"},
        {"label": "d", "points": [[1, 1], [5, 5]], "shape_type": "spline"},
    ]
    split = read_all(write_one(tmp_path, shapes))
    square, rectangle, circle = split.images[0].annotations
    assert split.class_names == ("a", "b", "c", "d")
    assert square.segmentation == [[10.0, 10.0, 30.0, 10.0, 30.0, 20.0, 10.0, 20.0]]
    assert (rectangle.segmentation, rectangle.box.tolist()) == (None, [20, 30, 30, 40])
    assert circle.crowd
    assert pixels(split, 2).sum() == pytest.approx(math.pi * 100, rel=0.02)
    assert split.notes == {NO_AREA_SHAPE: 2, UNKNOWN_SHAPE: 1, NO_MASK: 1}
    assert split.examples[UNKNOWN_SHAPE] == ("a.json shape 5",)


def test_labelme_shapes_of_one_group_are_one_object(tmp_path: Path) -> None:
    other = [[40.0, 30.0], [50.0, 30.0], [50.0, 40.0]]
    groups = [("a", 1, SQUARE), ("b", 1, other), ("a", None, other), ("a", 1, other)]
    shapes = [{"label": name, "group_id": group, "points": points} for name, group, points in groups]
    split = read_all(write_one(tmp_path, shapes))
    parts = [(a.label, len(a.segmentation or ())) for a in split.images[0].annotations]
    assert parts == [(0, 2), (1, 1), (0, 1)]


def test_labelme_polygons_and_masks_of_one_group_are_united(tmp_path: Path) -> None:
    bits = np.zeros(SIZE, bool)
    bits[30:40, 40:50] = True
    bits[33:35, 43:45] = False
    shapes = [{"label": "a", "group_id": 1, "points": SQUARE}, {"label": "a", "group_id": 1} | mask_shape(bits)]
    split = read_all(write_one(tmp_path, shapes))
    bits[10:20, 10:30] = True
    assert np.array_equal(pixels(split), bits)
    assert split.images[0].annotations[0].area == bits.sum()


def test_labelme_without_splits_is_drawn_with_every_image_once(tmp_path: Path) -> None:
    for name in image_names("train"):
        write_image(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.json").write_text(json.dumps(labelme_document(name)))
    write_image(tmp_path / "unlabeled.png")
    (tmp_path / "predictions.json").write_text("[]")
    assert list_splits(tmp_path) == ["train", "valid"]
    train, valid = (read_dataset(tmp_path, name) for name in ("train", "valid"))
    assert sorted([*objects(train), *objects(valid)]) == image_names("train")
    assert (train.notes[DRAWN], valid.notes[DRAWN]) == (len(train.images), len(valid.images)) == (3, 1)
    assert (train.notes[NOT_LABELED], train.notes[NOT_LABELME]) == (1, 1)


@pytest.mark.parametrize("name", ["a.png", "..\\pictures\\a.png", "/home/somebody/a.png", "A.JPG", None, "../../x.png"])
def test_labelme_image_names_of_other_machines_are_found(tmp_path: Path, name: str | None) -> None:
    split = read_all(write_one(tmp_path, [{"label": "a", "points": SQUARE}], imagePath=name))
    assert split.images[0].source == tmp_path / "a.png"


def test_labelme_does_not_read_an_image_outside_of_the_data_folder(tmp_path: Path) -> None:
    write_image(tmp_path / "secret.png")
    folder = write_one(tmp_path / "data", [{"label": "a", "points": SQUARE}], imagePath="../secret.png")
    (folder / "a.png").unlink()
    remedy = "Add it, or remove this file"
    with pytest.raises(InputError, match=rf"a\.json: its image '\.\./secret\.png' is not in .*\. {remedy}\."):
        read_all(folder)


def test_labelme_size_of_the_file_is_trusted(tmp_path: Path) -> None:
    shapes = [{"label": "a", "points": SQUARE}]
    scaled = read_all(write_one(tmp_path, shapes, imageHeight=2 * SIZE[0], imageWidth=2 * SIZE[1]))
    assert scaled.images[0].annotations[0].box.tolist() == [5, 5, 15, 10]
    assert scaled.notes == {SCALED: 1}
    other = read_all(write_one(tmp_path, shapes, imageHeight=100, imageWidth=50))
    assert other.images[0].annotations[0].box.tolist() == [10, 10, 30, 20]
    assert other.notes == {OTHER_SIZE: 1}
    assert other.images[0].size == SIZE


def test_labelme_of_a_turned_image_is_read_in_the_frame_of_its_labels(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    folder = write_one(tmp_path, [{"label": "a", "points": SQUARE}], imagePath="a.jpg")
    (folder / "a.png").unlink()
    Image.new("RGB", (SIZE[1], SIZE[0])).save(folder / "a.jpg", exif=exif)
    split = read_all(folder)
    assert split.images[0].size == SIZE
    assert split.images[0].read().shape[:2] == SIZE


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"points": SQUARE}, "a.json shape 0: no 'label'"),
        ({"label": "a", "points": [[1, 2], [3]]}, "its points are"),
        ({"label": "a", "points": [[1, 2], [3, math.nan], [4, 5]]}, "its points are"),
        ({"label": "a", "points": 7}, "its points are 7"),
        ({"label": "a", "points": [[0, 0], [9, 9]], "shape_type": "mask"}, "neither a PNG"),
        ({"label": "a", "points": [[0, 0], [9, 9]], "shape_type": "mask", "mask": "!"}, "not base64"),
        ({"label": "a", "points": [[0, 0], [9, 9]], "shape_type": "mask", "mask": "AAAA"}, "'mask': "),
        (mask_shape(np.ones(SIZE, bool)) | {"label": "a", "points": [[0, 0], [9, 9]]}, "64 x 48 pixels, but its"),
        (mask_shape(np.ones(SIZE, bool)) | {"label": "a", "points": [[0, 0], [1e9, 9]]}, "nor points in the image"),
        (7, "no 'label'"),
    ],
)
def test_labelme_malformed_shapes_are_named(tmp_path: Path, shape: Any, message: str) -> None:
    write_one(tmp_path, [shape, {"label": "a", "points": SQUARE}])
    with pytest.raises(InputError, match=message):
        read_all(tmp_path)
    problems: dict[str, list[str]] = {}
    assert len(read_dataset(tmp_path, "all", problems=problems).images[0].annotations) == 1
    assert [len(messages) for messages in problems.values()] == [1]


def test_labelme_classes_are_in_the_order_of_labels_txt_and_the_same_in_every_split(tmp_path: Path) -> None:
    write_labelme(tmp_path)
    (tmp_path / "valid" / "valid_1.json").write_text(
        json.dumps(labelme_document("valid_1", [Shape(0, [[1.0, 1.0, 9.0, 1.0, 9.0, 9.0]])]))
    )
    (tmp_path / "labels.txt").write_text("__ignore__\n_background_\ndog\nbird\n")
    assert {read_dataset(tmp_path, split).class_names for split in SPLITS} == {("dog", "bird", "cat")}
