"""Options of reading and remarks: crowds of an export format, images listed twice, images of two splits, EXIF."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sais.data.annotations import DatasetSplit, ImageRecord, make_annotation, trainable
from sais.data.dataset import read_sample
from sais.data.formats import read_dataset
from sais.data.options import CROWDS_READ, MERGED_IMAGES, REPEATED_OBJECTS, DataOptions
from sais.data.paths import DataPaths
from sais.data.remarks import describe_overlap, describe_split
from sais.errors import InputError
from sais.ops.rle import encode
from tests.data.formats.coco_samples import make_document, write_split


def crowd_document(every: int) -> dict[str, Any]:
    """Return the sample document with every n-th object as an RLE with iscrowd 1."""
    document = make_document()
    for annotation in document["annotations"][::every]:
        x, y, w, h = annotation["bbox"]
        bits = np.zeros((96, 128), bool)
        bits[y : y + h, x : x + w] = True
        annotation.update(iscrowd=1, segmentation=encode(bits))
    return document


@pytest.mark.parametrize(("every", "crowds"), [(1, 12), (2, 6)])
def test_crowds_of_the_export_format_are_reported_and_read_as_objects(tmp_path: Path, every: int, crowds: int) -> None:
    write_split(tmp_path, "train", crowd_document(every))
    split = read_dataset(tmp_path, "train")
    expected = f"train: {crowds} of 12 objects are crowds and are not trained on; if iscrowd 1 comes from the export"
    assert any(line.startswith(expected) and "crowds_as_objects" in line for line in describe_split(split))
    assert any("ignored in the evaluation" in line for line in describe_split(split, "evaluate"))
    for changed in (
        read_dataset(tmp_path, "train", options=DataOptions(crowds_as_objects=True)),
        DataPaths(tmp_path, crowds_as_objects=True).read_train(),
    ):
        assert sum(len(trainable(record, with_masks=True)) for record in changed.images) == 12
        assert changed.notes == {CROWDS_READ: crowds}
        assert not any("not trained on" in line for line in describe_split(changed))


def test_few_crowds_are_counted_without_advice() -> None:
    annotations = [make_annotation(i, 0, box=(0, 0, 5, 5), crowd=i == 0) for i in range(40)]
    split = DatasetSplit("train", ("a",), images=(ImageRecord(1, np.zeros((9, 9, 3)), (9, 9), tuple(annotations)),))
    assert describe_split(split) == ["train: 1 of 40 objects are crowds and are not trained on"]


def split_entries(document: dict[str, Any]) -> dict[str, Any]:
    """Return a document in which each image is listed twice, with one of its two objects in each entry."""
    twice = {**document, "images": [], "annotations": []}
    for annotation in document["annotations"]:
        image = document["images"][annotation["image_id"] - 1]
        twice["images"].append(image | {"id": annotation["id"]})
        twice["annotations"].append(annotation | {"image_id": annotation["id"]})
    return twice


def test_images_listed_twice_are_reported_and_merged(tmp_path: Path) -> None:
    document = split_entries(make_document())
    write_split(tmp_path, "train", document)
    split = read_dataset(tmp_path, "train")
    assert any("6 image files are listed more than once, in 12 entries" in line for line in describe_split(split))
    merged = DataPaths(tmp_path, merge_duplicate_images=True).read_train()
    assert [len(record.annotations) for record in merged.images] == [2] * 6
    assert merged.notes == {MERGED_IMAGES: 6}
    assert not any("are listed more than once" in line for line in describe_split(merged))
    document["annotations"].append(document["annotations"][0] | {"id": 99, "image_id": 2})  # one object in both
    write_split(tmp_path, "train", document)
    merged = read_dataset(tmp_path, "train", options=DataOptions(merge_duplicate_images=True))
    assert merged.notes == {MERGED_IMAGES: 6, REPEATED_OBJECTS: 1}


def test_images_of_two_splits_are_reported_by_path_and_content(tmp_path: Path) -> None:
    document = make_document()
    write_split(tmp_path, "train", document)
    valid = {**document, "images": document["images"][:2], "annotations": []}
    (tmp_path / "annotations/valid.json").write_text(json.dumps(valid))
    shutil.copy(tmp_path / "images/5.png", tmp_path / "images/copy.png")
    copied = valid | {"images": [*valid["images"], document["images"][0] | {"id": 9, "file_name": "copy.png"}]}
    (tmp_path / "annotations/copied.json").write_text(json.dumps(copied))
    train = read_dataset(tmp_path, "train")
    [line] = describe_overlap(train, read_dataset(tmp_path, "valid"))
    assert line.startswith("valid: 2 of 2 images are also in train (the first: 0.png)")
    [line] = describe_overlap(train, read_dataset(tmp_path, "copied"))
    assert line.startswith("copied: 3 of 3 images")
    other = make_document()
    write_split(tmp_path / "other", "valid", other)
    assert describe_overlap(train, read_dataset(tmp_path / "other", "valid")) == []


def test_classes_without_objects_are_reported(tmp_path: Path) -> None:
    document = make_document()
    document["categories"] += [{"id": i, "name": f"class {i}"} for i in range(2, 10)]
    write_split(tmp_path, "train", document)
    [line] = describe_split(read_dataset(tmp_path, "train"))
    assert line.startswith("train: 8 of 9 classes without objects: class 2, class 3")
    assert line.endswith("and 3 more")


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_images_turned_by_exif_are_read_in_the_frame_of_their_labels(tmp_path: Path, orientation: int) -> None:
    stored = np.zeros((40, 60, 3), np.uint8)
    stored[5:20, 10:30] = (250, 100, 20)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    annotation = make_annotation(1, 0, box=(10, 5, 30, 20))
    record = ImageRecord(1, tmp_path / "a.png", (40, 60), (annotation,))
    np.testing.assert_array_equal(read_sample(record).image, stored)
    upright = ImageRecord(1, tmp_path / "a.png", (60, 40))
    assert upright.read().shape == (60, 40, 3)
    split = DatasetSplit("train", ("a",), images=(record,))
    assert "train: 1 of 1 images examined are turned by EXIF but annotated as stored" in describe_split(split)[0]
    Image.fromarray(stored.swapaxes(0, 1)).save(tmp_path / "b.png")
    with pytest.raises(InputError, match="40 x 60 pixels, but 60 x 40"):
        read_sample(ImageRecord(1, tmp_path / "b.png", (40, 60)))
