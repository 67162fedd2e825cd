"""Packed images: the same records, columns and samples as Python objects, also in other processes."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sais.config import AugmentConfig, InputConfig
from sais.data import packed_annotations
from sais.data.annotations import DatasetSplit, ImageRecord
from sais.data.class_selection import choose_classes, with_classes_of_model
from sais.data.dataset import AugmentedSamples, SampleKey, canvas_batches
from sais.data.formats import read_dataset
from sais.data.objects import select_classes
from sais.data.options import DataOptions, apply_options
from sais.data.packed_annotations import (
    AnnotationTable,
    PackedImages,
    image_sizes,
    map_images,
    object_columns,
    unpack_small,
)
from sais.data.packed_records import pack_records
from sais.data.remarks import describe_split
from sais.data.split_summary import summarize
from sais.errors import InputError
from sais.io.array_file import write_arrays
from tests.data.formats.coco_samples import make_document, write_split


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data set with polygons of several parts, integers, RLE, crowds, objects without a mask and none."""
    document = make_document(6)
    document["categories"] = [{"id": 5, "name": "cat"}, {"id": 7, "name": "dog"}]
    for number, entry in enumerate(document["annotations"]):
        entry["category_id"] = (5, 7)[number % 2]
    entries = document["annotations"]
    entries[0]["segmentation"] = [[10, 20.0, 50, 20, 50, 50.5, 10, 50], [12.25, 22, 20, 22, 20, 30]]
    entries[1]["segmentation"] = []
    runs = [96 * 20 + 30, 20, 76, 20, 96 * 106 - 50]
    entries[2] |= {"segmentation": {"size": [96, 128], "counts": [*runs[:4], 96 * 128 - sum(runs[:4])]}, "iscrowd": 1}
    entries[3]["segmentation"] = [[-500, 10, 400, 10, 400, 60, -500, 60]]
    document["annotations"] = [*reversed(entries[:8]), *entries[10:]]
    folder = tmp_path_factory.mktemp("packed")
    write_split(folder, "train", document)
    return folder


@pytest.fixture
def plain(folder: Path) -> DatasetSplit:
    return read_dataset(folder, "train")


@pytest.fixture
def packed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> DatasetSplit:
    monkeypatch.setattr(packed_annotations, "MIN_PACKED", 0)
    split = read_dataset(folder, "train")
    assert isinstance(split.images, PackedImages)
    return split


def describe(record: ImageRecord) -> str:
    """Return all of a record, with the types of its values."""
    objects = [
        (a.id, type(a.label), a.label, a.box.dtype, a.box.tolist(), a.segmentation, a.crowd, a.area, type(a.area))
        for a in record.annotations
    ]
    return repr((record.id, record.source, record.size, objects))


def assert_same(first: DatasetSplit, second: DatasetSplit) -> None:
    assert list(map(describe, first.images)) == list(map(describe, second.images))
    assert replace(first, images=()).__dict__ == replace(second, images=()).__dict__


def test_packed_split_equals_the_split_of_objects(plain: DatasetSplit, packed: DatasetSplit) -> None:
    assert isinstance(plain.images, tuple)
    assert isinstance(plain.images[0].annotations, tuple)
    assert_same(plain, packed)
    assert sum(len(record.annotations) for record in packed.images) == 10
    assert packed.images[4].annotations == ()


def test_packed_images_are_a_sequence(plain: DatasetSplit, packed: DatasetSplit) -> None:
    images = packed.images
    assert len(images) == 6
    for chosen in (slice(None), slice(1, 4), slice(None, None, -2), slice(5, 2)):
        assert list(map(describe, images[chosen])) == list(map(describe, plain.images[chosen]))
    assert describe(images[-1]) == describe(plain.images[-1])
    with pytest.raises(IndexError):
        images[6]
    annotations = images[0].annotations
    assert len(annotations) == 2
    assert [a.id for a in annotations] == [annotations[0].id, annotations[-1].id] == [2, 1]
    assert [a.id for a in annotations[1:]] == [1]


def test_boxes_can_be_changed_without_changing_the_table(packed: DatasetSplit) -> None:
    first = packed.images[0].annotations[0]
    first.box[:] = 0
    assert packed.images[0].annotations[0].box.any()


def test_columns_equal_those_of_objects(plain: DatasetSplit, packed: DatasetSplit) -> None:
    first, second = object_columns(plain.images), object_columns(packed.images)
    for name in ("images", "labels", "crowds", "outlined", "boxes", "areas"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
        assert getattr(first, name).dtype == getattr(second, name).dtype
    np.testing.assert_array_equal(image_sizes(plain.images), image_sizes(packed.images))
    assert object_columns(()).boxes.shape == (0, 4)
    assert image_sizes(()).shape == (0, 2)
    assert summarize(plain) == summarize(packed)
    for use in ("train", "evaluate"):
        assert describe_split(plain, use) == describe_split(packed, use)


def test_classes_are_chosen_as_of_objects(plain: DatasetSplit, packed: DatasetSplit) -> None:
    for classes in (["dog"], ["pet=cat+dog"], ["dog", "cat"], ["big=dog", "*"]):
        assert_same(choose_classes(plain, classes), choose_classes(packed, classes))
    names = ("bird", "dog", "cat")
    assert_same(with_classes_of_model(plain, names), with_classes_of_model(packed, names))
    assert_same(select_classes(plain, ("dog",)), select_classes(packed, ("dog",)))
    chosen = choose_classes(packed, ["dog"])
    assert isinstance(chosen.images, PackedImages)
    assert chosen.images.table.polygons is packed.images.table.polygons  # type: ignore[attr-defined]


def test_options_change_packed_images_as_objects(plain: DatasetSplit, packed: DatasetSplit) -> None:
    for options in (DataOptions(crowds_as_objects=True), DataOptions(merge_duplicate_images=True)):
        assert_same(apply_options(plain, options), apply_options(packed, options))


def test_training_samples_are_the_same_to_the_bit(plain: DatasetSplit, packed: DatasetSplit) -> None:
    settings, options = InputConfig(size=(64, 64)), AugmentConfig(mosaic=0.5, copy_paste=0.5)
    readers = [AugmentedSamples(split, settings, options, 3) for split in (plain, packed)]
    assert readers[1].records is packed.images  # not copied
    for position in range(6):
        (first, _), (second, _) = (reader.read(SampleKey(0, position)) for reader in readers)
        np.testing.assert_array_equal(first.image, second.image)
        np.testing.assert_array_equal(first.boxes, second.boxes)
        np.testing.assert_array_equal(first.labels, second.labels)
        assert repr(first.masks) == repr(second.masks)
    assert canvas_batches(plain, settings, 2) == canvas_batches(packed, settings, 2)
    assert all(record.annotations == () for record in pack_records(packed.images, with_annotations=False))


def test_digest_of_the_data_is_the_same(plain: DatasetSplit, packed: DatasetSplit) -> None:
    """The digest covers whether a coordinate is an integer in the file."""
    pytest.importorskip("torch")
    from sais.paper.runs import describe_data

    first, second = (describe_data(split, split, "data") for split in (plain, packed))
    assert first == second
    assert 20 in plain.images[0].annotations[1].segmentation[0]  # type: ignore[index]


def test_copies_do_not_need_the_table(packed: DatasetSplit) -> None:
    record = packed.images[0]
    copied = pickle.loads(pickle.dumps(record))
    assert describe(copied) == describe(record)
    assert isinstance(copied.annotations, tuple)
    assert describe(copy.deepcopy(record)) == describe(record)
    assert_same(pickle.loads(pickle.dumps(packed)), packed)


def describe_all(images: PackedImages) -> list[str]:
    """Return all records, in a new process."""
    return list(map(describe, images))


def test_mapped_images_are_sent_to_processes_by_name(packed: DatasetSplit, tmp_path: Path) -> None:
    assert isinstance(packed.images, PackedImages)
    file = tmp_path / "a.arrays"
    write_arrays(file, {}, packed.images.table.arrays())
    images = map_images(file)
    assert len(pickle.dumps(images)) < 300
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(describe_all, (images,)) == describe_all(packed.images)
    bare = pickle.loads(pickle.dumps(images.without_annotations()))
    assert [len(record.annotations) for record in bare] == [0] * 6
    message = pickle.dumps(images)
    file.unlink()
    assert describe_all(images) == describe_all(packed.images)  # still mapped
    with pytest.raises(InputError, match="SAIS_CACHE=off"):
        pickle.loads(message)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("object_ends", np.array([1, 0, 9, 10, 10, 10])),
        ("object_ends", np.array([1, 2, 3, 4, 5, 11])),
        ("first_parts", np.full(10, 99)),
        ("first_parts", np.full(10, -1)),
        ("part_counts", np.full(10, -2, np.int32)),
        ("labels", np.zeros(3, np.int32)),
        ("path_ends", np.arange(6)),
        ("polygon_ends", np.array([5])),
        ("polygon_integers", np.zeros(1, bool)),
        ("image_ids", np.arange(3)),
        ("image_ids", np.arange(6.0)),
        ("boxes", np.zeros((10, 3), np.float32)),
        ("ids", np.zeros((10, 1), np.int64)),
    ],
)
def test_contradicting_arrays_are_refused(packed: DatasetSplit, name: str, value: np.ndarray) -> None:
    assert isinstance(packed.images, PackedImages)
    arrays = packed.images.table.arrays()
    AnnotationTable.from_arrays(dict(arrays))
    with pytest.raises(ValueError):
        AnnotationTable.from_arrays(arrays | {name: value})
    del arrays[name]
    with pytest.raises(KeyError):
        AnnotationTable.from_arrays(arrays)


def test_unpacked_images_are_tuples_of_tuples(
    plain: DatasetSplit, packed: DatasetSplit, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(packed.images, PackedImages)
    monkeypatch.setattr(packed_annotations, "MIN_PACKED", 10**6)
    records = unpack_small(packed.images)
    assert list(map(describe, records)) == list(map(describe, plain.images))
    assert all(isinstance(record.annotations, tuple) for record in records)
