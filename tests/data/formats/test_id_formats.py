"""Formats of id maps - masks, Pascal VOC, Cityscapes, COCO panoptic: the same objects as COCO, and their oddities."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sais.data.dataset import read_sample
from sais.data.formats import list_splits, read_dataset
from sais.data.formats import notes as kinds
from sais.data.formats.id_maps import crop_objects, present_ids, read_id_map
from sais.errors import InputError
from tests.data.formats.label_samples import (
    SIZE,
    SPLITS,
    image_names,
    objects,
    save,
    twin,
    write_bowl,
    write_cityscapes,
    write_image,
    write_masks,
    write_panoptic,
    write_voc,
)

STUFF_IMAGES = {split: {kinds.STUFF: count} for split, count in SPLITS.items()}


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize(
    ("write", "origin", "has_stuff"),
    [
        (write_masks, "masks as images, 2 splits, 2 classes", False),
        (lambda folder: write_masks(folder, "mask folders"), "masks as images, 2 splits, 2 classes", False),
        (write_voc, "Pascal VOC, 2 splits, 20 classes", False),
        (write_cityscapes, "Cityscapes, 2 splits, 2 classes", False),
        (write_panoptic, "COCO panoptic, 2 splits, 2 classes", True),
    ],
)
def test_id_formats_have_the_objects_of_their_coco_twin(
    tmp_path: Path, write: Callable[[Path], Path], origin: str, has_stuff: bool, split: str
) -> None:
    found = read_dataset(write(tmp_path / "labels"), split)
    named = {name.removesuffix("_leftImg8bit"): rows for name, rows in objects(found).items()}
    assert named == twin(tmp_path / "coco", split, with_masks=True)
    assert found.origin == origin
    assert found.notes == (STUFF_IMAGES[split] if has_stuff else {})


@pytest.mark.parametrize("split", SPLITS)
def test_masks_of_one_object_each_have_the_objects_of_their_coco_twin(tmp_path: Path, split: str) -> None:
    found = read_dataset(write_bowl(tmp_path / "bowl"), split)
    expected = twin(tmp_path / "coco", split, with_masks=True)
    assert found.class_names == ("object",)
    assert {name: sorted(row[1:] for row in rows) for name, rows in objects(found).items()} == {
        name: sorted(row[1:] for row in rows) for name, rows in expected.items()
    }
    assert list_splits(tmp_path / "bowl") == ["stage1_train", "stage1_valid"]


def one_map(folder: Path, pixels: np.ndarray) -> Path:
    """Write an image with its id map and a second image without one."""
    write_image(folder / "images" / "a.png")
    write_image(folder / "images" / "b.png")
    save(folder / "masks" / "a.png", pixels)
    return folder


def test_masks_without_a_file_are_left_out_and_counted(tmp_path: Path) -> None:
    ids = np.zeros(SIZE, int)
    ids[4:8, 4:8] = 255
    save(one_map(tmp_path, ids) / "masks" / "z.png", ids)
    split = read_dataset(tmp_path, "all")
    assert [record.name for record in split.images] == ["a.png"]
    assert split.notes == {kinds.BINARY_MAP: 1, kinds.NO_MASK_FILE: 1, kinds.NO_IMAGE: 1}
    assert split.examples[kinds.NO_IMAGE] == ("masks/z.png",)


def test_masks_of_a_turned_image_may_be_in_the_frame_of_its_pixels_or_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    height, width = SIZE
    for name, size in (("stored", (height, width)), ("upright", (width, height))):
        folder = tmp_path / name
        (folder / "images").mkdir(parents=True)
        Image.new("RGB", (width, height)).save(folder / "images" / "a.jpg", exif=exif)
        save(folder / "masks" / "a.png", np.ones(size, int))
        (record,) = read_dataset(folder, "all").images
        assert record.size == size
        assert read_sample(record).image.shape[:2] == size


def test_images_of_one_name_are_counted(tmp_path: Path) -> None:
    one_map(tmp_path, np.ones(SIZE, int))
    write_image(tmp_path / "images" / "a.bmp")
    split = read_dataset(tmp_path, "all")
    assert [record.name for record in split.images] == ["a.bmp"]
    assert split.examples[kinds.NO_MASK_FILE] == ("images/a.png", "images/b.png")


def test_masks_of_another_size_or_of_noise_are_refused(tmp_path: Path) -> None:
    one_map(tmp_path / "size", np.ones((10, 20), int))
    with pytest.raises(InputError, match=r"masks/a\.png: 20 x 10 pixels, but the image has 64 x 48"):
        read_dataset(tmp_path / "size", "all")
    write_image(tmp_path / "noise" / "images" / "a.png")
    Image.new("RGB", (120, 100)).save(tmp_path / "noise" / "images" / "a.png")
    save(tmp_path / "noise" / "masks" / "a.png", np.arange(1, 12_001).reshape(100, 120))
    with pytest.raises(InputError, match=r"masks/a\.png: 12000 ids, above the limit of 10000"):
        read_dataset(tmp_path / "noise", "all")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "no classes, or several without a 'divisor'"),
        ('{"classes": ["cat", "dog"]}', "several without a 'divisor'"),
        ('{"classes": {"0": "cat"}}', "class '0': 'cat'. Write a number above 0"),
        ('{"classes": ["cat"], "divisor": -1}', "no classes"),
        ('{"classes": 5}', "no classes"),
    ],
)
def test_malformed_classes_of_masks_are_named(tmp_path: Path, content: str, message: str) -> None:
    (one_map(tmp_path, np.ones(SIZE, int)) / "classes.json").write_text(content)
    with pytest.raises(InputError, match=message):
        read_dataset(tmp_path, "all")


def test_crowds_and_classes_without_objects_of_cityscapes(tmp_path: Path) -> None:
    ids = np.zeros(SIZE, int)
    ids[:10, :10], ids[:10, 20:30], ids[20:30, :10], ids[20:30, 20:30] = 26_001, 26, 7, 29_000
    write_image(tmp_path / "leftImg8bit" / "train" / "x" / "a_leftImg8bit.png")
    save(tmp_path / "gtFine" / "train" / "x" / "a_gtFine_instanceIds.png", ids)
    split = read_dataset(tmp_path, "train")
    found = [(split.class_names[a.label], a.crowd, a.box.tolist()) for a in split.images[0].annotations]
    assert found == [("car", True, [20, 0, 30, 10]), ("car", False, [0, 0, 10, 10])]
    assert split.notes == {kinds.STUFF: 2}


XML = "<annotation>{}</annotation>"
OBJECT = "<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>3</ymin><xmax>20</xmax><ymax>30</ymax></bndbox></object>"


def write_xml(folder: Path, content: str, with_map: bool = False) -> Path:
    """Write a VOC data set of one image with an XML file, and perhaps with a map of two objects."""
    write_image(folder / "JPEGImages" / "a.png")
    (folder / "Annotations").mkdir()
    (folder / "Annotations" / "a.xml").write_text(content)
    if with_map:
        ids = np.zeros(SIZE, int)
        ids[:10, :10], ids[20:30, 20:30] = 1, 2
        save(folder / "SegmentationObject" / "a.png", ids)
    return folder


def test_voc_boxes_of_xml_files_count_pixels_from_one(tmp_path: Path) -> None:
    split = read_dataset(write_xml(tmp_path, XML.format(OBJECT.format("cat", 5))), "all")
    (annotation,) = split.images[0].annotations
    assert (split.class_names[annotation.label], annotation.segmentation) == ("cat", None)
    assert annotation.box.tolist() == [4, 2, 20, 30]


def test_voc_objects_without_class_maps_have_the_names_of_the_xml_file(tmp_path: Path) -> None:
    content = XML.format(OBJECT.format("zebra", 5) + OBJECT.format("ape", 5))
    split = read_dataset(write_xml(tmp_path, content, with_map=True), "all")
    found = [(split.class_names[a.label], a.box.tolist()) for a in split.images[0].annotations]
    assert found == [("zebra", [0, 0, 10, 10]), ("ape", [20, 20, 30, 30])]


def test_voc_class_names_with_an_empty_line_are_refused(tmp_path: Path) -> None:
    write_xml(tmp_path, XML.format(""), with_map=True)
    (tmp_path / "class_names.txt").write_text("_background_\ncat\n\ndog\n\n")
    with pytest.raises(InputError, match=r"class_names\.txt: line 3 is empty\. Name its class, or remove the line\."):
        read_dataset(tmp_path, "all")


def test_voc_colors_are_those_of_the_label_map(tmp_path: Path) -> None:
    write_xml(tmp_path, XML.format(""), with_map=True)
    colors = np.zeros((*SIZE, 3), np.uint8)
    colors[:10, :10], colors[20:30, 20:30] = (250, 50, 83), (51, 221, 255)
    (tmp_path / "SegmentationClass").mkdir()
    Image.fromarray(colors).save(tmp_path / "SegmentationClass" / "a.png")
    labels = "# label:color_rgb:parts:actions\nbackground:0,0,0::\nship:51,221,255::\ntree:250,50,83::\n"
    (tmp_path / "labelmap.txt").write_text(labels)
    split = read_dataset(tmp_path, "all")
    assert split.class_names == ("ship", "tree")
    assert [split.class_names[a.label] for a in split.images[0].annotations] == ["tree", "ship"]


BOMB = '<!DOCTYPE a [<!ENTITY b "bb"><!ENTITY c "&b;&b;">]>'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (BOMB + XML.format("&c;"), "a document type, which could define entities"),
        ("<a>" * 500, "nested more than 100 deep"),
        ("<annotation>", "not XML that can be read"),
        (XML.format("<object/>"), "an object without a name"),
        (XML.format(OBJECT.format("cat", "five")), "its bndbox is"),
        (XML.format(OBJECT.format("cat", "nan")), "not a coordinate of an image"),
    ],
)
def test_voc_malformed_xml_is_named(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_dataset(write_xml(tmp_path, content), "all")


def test_panoptic_regions_without_entry_or_pixels_are_counted(tmp_path: Path) -> None:
    folder = write_panoptic(tmp_path)
    path = folder / "annotations" / "panoptic_train.json"
    document = json.loads(path.read_text())
    regions = document["annotations"][0]["segments_info"]
    regions[0]["id"] = 123
    regions[1]["iscrowd"] = 1
    regions.append({"id": 5})
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match="a region without 'id' or 'category_id'"):
        read_dataset(folder, "train")
    split = read_dataset(folder, "train", problems={})
    assert [a.crowd for a in split.images[0].annotations] == [True, False]
    assert (split.notes[kinds.NO_ENTRY], split.notes[kinds.NO_SHAPE]) == (1, 1)


def test_panoptic_names_do_not_lead_outside_of_the_data_folder(tmp_path: Path) -> None:
    folder = write_panoptic(tmp_path / "data")
    path = folder / "annotations" / "panoptic_train.json"
    write_image(tmp_path / "secret.png")
    path.write_text(path.read_text().replace('"train_0.png"', '"../../secret.png"'))
    with pytest.raises(InputError, match=r"image '\.\./\.\./secret\.png' is not in"):
        read_dataset(folder, "train")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, bool])
def test_id_maps_of_every_depth_are_read_exactly(tmp_path: Path, dtype: type) -> None:
    random = np.random.default_rng(0)
    largest = {np.uint8: 255, np.uint16: 65_535, np.int32: 2**30, bool: 1}[dtype]
    ids = random.integers(0, largest, (9, 7), endpoint=True).astype(dtype)
    suffix = "tif" if dtype == np.int32 else "png"
    Image.fromarray(ids).save(tmp_path / f"a.{suffix}")
    assert np.array_equal(read_id_map(tmp_path / f"a.{suffix}"), ids)


@pytest.mark.parametrize(
    ("value", "message"), [(-1.0, "pixels below 0"), (0.5, "not whole numbers"), (np.inf, "not whole")]
)
def test_id_maps_of_other_numbers_are_refused(tmp_path: Path, value: float, message: str) -> None:
    Image.fromarray(np.full(SIZE, value, np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(InputError, match=message):
        read_id_map(tmp_path / "a.tif")


@pytest.mark.parametrize("factor", [1, 256, 100_000])
def test_crop_objects_matches_a_loop_over_ids(factor: int) -> None:
    ids = factor * np.random.default_rng(1).integers(0, 5, (11, 13), np.int32)
    found = {object_id: (bits, x, y) for object_id, bits, x, y in crop_objects(ids)}
    assert list(found) == present_ids(ids).tolist() == [factor, 2 * factor, 3 * factor, 4 * factor]
    for object_id, (bits, x, y) in found.items():
        whole = np.zeros(ids.shape, bool)
        whole[y : y + bits.shape[0], x : x + bits.shape[1]] = bits
        assert np.array_equal(whole, ids == object_id)
        assert bits.any(0)[[0, -1]].all()
        assert bits.any(1)[[0, -1]].all()


def test_masks_without_splits_are_drawn(tmp_path: Path) -> None:
    write_masks(tmp_path / "split")
    for split in SPLITS:
        for name in image_names(split):
            for kind in ("images", "masks"):
                (tmp_path / "flat" / kind).mkdir(parents=True, exist_ok=True)
                (tmp_path / "split" / split / kind / f"{name}.png").rename(tmp_path / "flat" / kind / f"{name}.png")
    assert [len(read_dataset(tmp_path / "flat", name).images) for name in list_splits(tmp_path / "flat")] == [5, 1]
