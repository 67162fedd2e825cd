"""Data sets by folder, object and format: layouts, ``module:attribute`` names, and readers of the user's own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sais.data.annotations import DatasetSplit, ImageRecord, make_annotation
from sais.data.formats import list_splits, read_dataset, read_dataset_files
from sais.data.objects import UNKNOWN_CLASS, select_classes
from sais.data.paths import DataPaths
from sais.errors import ConfigError, InputError
from tests.data.formats.coco_samples import DOCUMENT, write_images
from tests.data.formats.label_samples import write_coco, write_yolo


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
def test_read_dataset_finds_every_layout(tmp_path: Path, annotations: str, images: str, split: str) -> None:
    write_images(tmp_path / images)
    (tmp_path / annotations).parent.mkdir(exist_ok=True)
    (tmp_path / annotations).write_text(json.dumps(DOCUMENT))
    (tmp_path / "annotations").mkdir(exist_ok=True)
    (tmp_path / "annotations" / f"captions_{split}.json").write_text("{}")
    dataset_split = read_dataset(tmp_path, split)
    assert dataset_split.name == split
    assert all(record.path.is_file() for record in dataset_split.images)
    assert len(list_splits(tmp_path)) == 1
    assert len(read_dataset(tmp_path, list_splits(tmp_path)[0]).images) == 2
    assert len(read_dataset_files(tmp_path / annotations, tmp_path / images).images) == 2


def test_read_dataset_names_missing_data(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such data folder"):
        read_dataset(tmp_path / "gone", "train")
    with pytest.raises(InputError, match=r"split 'train' in annotations/train\.json"):
        read_dataset(tmp_path, "train")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "train.json").write_text(json.dumps(DOCUMENT))
    with pytest.raises(InputError, match="test.*Available splits: train"):
        read_dataset(tmp_path, "test")
    with pytest.raises(InputError, match=r"its images \(a\.png \.\.\.\) are not in .*images/train"):
        read_dataset(tmp_path, "train")
    for name in ("fold_1_test", "fold_2_test"):
        (tmp_path / "annotations" / f"{name}.json").write_text(json.dumps(DOCUMENT))
    with pytest.raises(InputError, match="fold_1_test, fold_2_test"):
        read_dataset(tmp_path, "test")


def test_splits_of_two_formats_are_not_mixed(tmp_path: Path) -> None:
    write_yolo(write_coco(tmp_path))
    (tmp_path / "annotations" / "valid.json").unlink()
    assert read_dataset(tmp_path, "train").origin.startswith("COCO")
    with pytest.raises(InputError, match=r"Available splits: train\. Choose one of them\.$"):
        read_dataset(tmp_path, "valid")
    assert read_dataset(tmp_path, "valid", format="yolo").origin.startswith("YOLO")


OWN_MODULE = """
import numpy as np
from sais.data.annotations import DatasetSplit, ImageRecord, make_annotation


def split(name, count=2):
    annotation = make_annotation(1, 0, box=(1, 2, 11, 12))
    image = np.zeros((20, 30, 3), np.uint8)
    records = [ImageRecord(i, image, (20, 30), (annotation,) * (i == 0)) for i in range(count)]
    return DatasetSplit(name, ("bear", "deer"), images=records)


both = {"train": split("train"), "valid": split("valid", 1)}


def make():
    return both


def reader(folder, name):
    return split(f"{folder.name}/{name}")


broken = DatasetSplit("broken", ("bear",), images=[ImageRecord(1, "a", (9, 9)), ImageRecord(1, "b", (9, 9))])
number = 3
"""


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Return a function from an attribute to its full name in a module with own data sets."""
    name = f"own_data_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(OWN_MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return lambda attribute: f"{name}:{attribute}"


@pytest.mark.parametrize("attribute", ["both", "make"])
def test_data_set_objects_are_read_by_name(own_module: Callable[[str], str], attribute: str) -> None:
    name = own_module(attribute)
    paths = DataPaths(Path(name))
    assert paths.name == name.replace(":", ".")
    train, valid = paths.read_train(), paths.read_valid(("bear", "deer"))
    assert valid is not None
    assert (len(train.images), len(valid.images)) == (2, 1)
    assert (train.class_names, train.category_ids) == (("bear", "deer"), (1, 2))
    assert list_splits(name) == ["train", "valid"]
    assert read_dataset(name, "val").name == "valid"
    with pytest.raises(InputError, match="train, valid"):
        read_dataset(name, "test")


def test_invalid_data_set_objects_raise(own_module: Callable[[str], str]) -> None:
    with pytest.raises(InputError, match="image id 1"):
        read_dataset(own_module("broken"), "train")
    with pytest.raises(InputError, match="int, not a data set"):
        read_dataset(own_module("number"), "train")
    with pytest.raises(ConfigError, match=r"called with no arguments \(missing a required argument: 'folder'\)"):
        read_dataset(own_module("reader"), "train")
    with pytest.raises(ConfigError):
        read_dataset(own_module("missing"), "train")


def test_read_dataset_with_a_reader_of_the_users_own(own_module: Callable[[str], str], tmp_path: Path) -> None:
    split = read_dataset(tmp_path, "train", ("deer", "bear"), format=own_module("reader"))
    assert split.name == f"{tmp_path.name}/train"
    assert split.images[0].annotations[0].label == 1
    with pytest.raises(ConfigError, match="format"):
        read_dataset(tmp_path, "train", format="unknown")


def test_select_classes_reorders_labels_and_counts_dropped_objects() -> None:
    annotations = tuple(make_annotation(i, label, box=(0, 0, 5, 5)) for i, label in enumerate((0, 1, 2, 1)))
    image = ImageRecord(1, np.zeros((9, 9, 3), np.uint8), (9, 9), annotations)
    split = DatasetSplit("train", ("bear", "deer", "fox"), (5, 7, 9), (image,))
    selected = select_classes(split, ("fox", "bear"))
    assert [a.label for a in selected.images[0].annotations] == [1, 0]
    assert selected.category_ids == (9, 5)
    assert selected.notes == {UNKNOWN_CLASS: 2}
    with pytest.raises(InputError, match="cow"):
        select_classes(split, ("cow",))


@pytest.mark.parametrize("name", ["", ".", "/tmp/train", "../train", "a" * 300, "tr\0ain"])
def test_read_dataset_refuses_what_is_no_name_of_a_split(shapes: Path, name: str) -> None:
    """An absolute path once raised a ValueError of pathlib, and an empty name one of its patterns."""
    with pytest.raises(InputError, match="not the name of a split"):
        read_dataset(shapes, name)


@pytest.mark.parametrize("name", ["**", "[", "*", "tr?in", "[a-z]*", "*/train"])
def test_a_name_of_a_split_is_no_pattern(shapes: Path, name: str) -> None:
    with pytest.raises(InputError, match="no annotations of split"):
        read_dataset(shapes, name)
