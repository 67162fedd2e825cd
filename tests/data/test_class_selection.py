"""Chosen and merged classes: labels, ids, counts and errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from sais.data.annotations import DatasetSplit, ImageRecord, make_annotation
from sais.data.class_selection import MERGED, NOT_CHOSEN, choose_classes, name_others, with_classes_of_model
from sais.data.paths import DataPaths
from sais.errors import InputError
from tests.data.formats.coco_samples import make_document, write_split

NAMES = ("car", "cat", "truck", "a+b", "polar bear")


@pytest.fixture
def split() -> DatasetSplit:
    """Return two images with one object of each class, in order."""
    objects = tuple(make_annotation(n + 1, n, box=(n, 0, n + 5, 5)) for n in range(5))
    images = (ImageRecord(1, Path("a.jpg"), (9, 9), objects[:2]), ImageRecord(2, Path("b.jpg"), (9, 9), objects[2:]))
    return DatasetSplit("train", NAMES, (10, 20, 30, 40, 50), images)


def labels(split: DatasetSplit) -> list[list[tuple[int, int]]]:
    """Return (annotation id, label) of each object of each image."""
    return [[(a.id, a.label) for a in record.annotations] for record in split.images]


def test_choose_classes_drops_and_counts_the_others(split: DatasetSplit) -> None:
    chosen = choose_classes(split, ["truck", "cat"])
    assert (chosen.class_names, chosen.category_ids) == (("truck", "cat"), (30, 20))
    assert labels(chosen) == [[(2, 1)], [(3, 0)]]
    assert chosen.notes == {NOT_CHOSEN: 3}
    assert split.notes == {}


def test_choose_classes_merges_under_a_new_name(split: DatasetSplit) -> None:
    chosen = choose_classes(split, ["vehicle=truck + car", "bear=polar bear"])
    assert (chosen.class_names, chosen.category_ids) == (("vehicle", "bear"), (30, 50))
    assert labels(chosen) == [[(1, 0)], [(3, 0), (5, 1)]]
    assert chosen.notes == {NOT_CHOSEN: 2, MERGED: 3}


def test_choose_classes_takes_all_others(split: DatasetSplit) -> None:
    assert choose_classes(split, ["vehicle=car+truck", "*"]).class_names == ("vehicle", "cat", "a+b", "polar bear")
    everything = choose_classes(split, ["object=*"])
    assert everything.class_names == ("object",)
    assert labels(everything) == [[(1, 0), (2, 0)], [(3, 0), (4, 0), (5, 0)]]


def test_choose_classes_takes_a_name_with_signs_as_it_is(split: DatasetSplit) -> None:
    assert choose_classes(split, ["a+b"]).class_names == ("a+b",)
    assert labels(choose_classes(split, ["both=a+b"])) == [[], [(4, 0)]]


def test_choose_classes_without_a_choice_is_the_split_itself(split: DatasetSplit) -> None:
    assert choose_classes(split, ()) is split


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["cats"], r"train: no class 'cats', did you mean 'cat'"),
        (["vehicle=car+van"], r"train: no class 'van'"),
        (["cat", "cat"], r"cat is chosen twice"),
        (["cat", "pet=cat"], r"'cat': chosen twice"),
        (["vehicle="], r"a name is missing"),
        (["vehicle=car++truck"], r"a name is missing"),
        (["cat=car", "*"], r"'cat': also the name of another class"),
    ],
)
def test_choose_classes_names_the_mistake(split: DatasetSplit, classes: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        choose_classes(split, classes)


def test_choose_classes_of_a_validation_split_may_lack_a_class(split: DatasetSplit) -> None:
    chosen = choose_classes(split, ["vehicle=car+van", "dog"], allow_missing=True)
    assert (chosen.class_names, chosen.category_ids) == (("vehicle", "dog"), (10, 51))


def test_with_classes_of_model_leaves_the_other_classes_without_objects(split: DatasetSplit) -> None:
    followed = with_classes_of_model(choose_classes(split, ["cat", "truck"]), ("truck", "dog", "cat"))
    assert (followed.class_names, followed.category_ids) == (("truck", "dog", "cat"), (30, 31, 20))
    assert labels(followed) == [[(2, 2)], [(3, 0)]]
    with pytest.raises(InputError, match=r"the model has no class 'cat', did you mean 'cats'"):
        with_classes_of_model(choose_classes(split, ["cat"]), ("cats",))


def test_data_paths_choose_classes_in_both_splits(shapes: Path) -> None:
    everything = DataPaths(shapes).read_train()
    first, second, *_ = everything.class_names
    paths = DataPaths(shapes, classes=(f"both={second}+{first}",))
    train = paths.read_train()
    valid = paths.read_valid(train.class_names)
    assert valid is not None
    assert train.class_names == valid.class_names == ("both",)
    count = sum(a.label < 2 for record in everything.images for a in record.annotations)
    assert sum(len(record.annotations) for record in train.images) == count


def test_read_valid_takes_all_others_of_the_training_split(tmp_path: Path) -> None:
    document = make_document()
    write_split(tmp_path, "valid", document)
    document["categories"].append({"id": 2, "name": "rare"})  # missing in the validation split
    write_split(tmp_path, "train", document)
    paths = DataPaths(tmp_path, classes=("new=part", "*"))
    class_names = paths.read_train().class_names
    assert class_names == ("new", "rare")
    valid = paths.read_valid(class_names)
    assert valid is not None
    assert valid.class_names == class_names
    assert len(labels(valid)[0]) == 2
    assert name_others(("new=a", "*"), ("new", "b", "c")) == ("new=a", "b", "c")
