"""Repair of a split: what is removed, what is corrected, and that the pixels of a traced outline stay the same."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sais.data.annotations import Annotation, DatasetSplit, ImageRecord, make_annotation, object_mask
from sais.data.doctor import repair as repairs
from sais.data.doctor.check import check_across, check_dataset
from sais.data.doctor.repair import RepairedSplit, repair
from sais.ops.outlines import crop_shape
from sais.ops.rasterize import CutMask
from tests.data.formats.coco_samples import square_outline, write_noise

SIZE = (96, 128)


def rectangle(number: int, x: float, y: float, width: float, height: float, **changes: object) -> Annotation:
    """Return a rectangular object, with changes that no reader would make."""
    annotation = make_annotation(number, 0, segmentation=square_outline(x, y, width, height))  # type: ignore[arg-type]
    return replace(annotation, **changes)  # type: ignore[arg-type]


def write_record(folder: Path, number: int, *objects: Annotation, copy_of: int | None = None) -> ImageRecord:
    """Write an image, or a copy of an earlier one, and return it with its objects."""
    path = folder / f"{number}.png"
    if copy_of is None:
        write_noise(path, SIZE, number)
    else:
        shutil.copyfile(folder / f"{copy_of}.png", path)
    return ImageRecord(number, path, SIZE, objects)


def repaired(*records: ImageRecord, name: str = "train") -> RepairedSplit:
    """Check and repair a split of one class."""
    return repair([check_dataset(DatasetSplit(name, ("part",), images=records))])[0]


def pixels(annotation: Annotation, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Return the pixels of an object, (H, W) bool."""
    shape = object_mask(annotation, size)
    assert shape is not None
    assert not isinstance(shape, CutMask)
    bits, x, y = crop_shape(shape, size)
    full = np.zeros(size, bool)
    full[y : y + bits.shape[0], x : x + bits.shape[1]] = bits
    return full


def test_repair_corrects_boxes_and_areas_and_leaves_healthy_objects(tmp_path: Path) -> None:
    healthy = rectangle(1, 10, 10, 40, 30)
    record = write_record(
        tmp_path,
        1,
        healthy,
        rectangle(2, 60, 10, 40, 30, box=np.array([60, 10, 80, 25], np.float32)),
        rectangle(3, 60, 60, 20, 20, box=np.array([40, 40, 110, 90], np.float32)),
        rectangle(4, 10, 60, 20, 20, area=90_000.0),
        rectangle(5, 34, 60, 20, 20, area=40.0),
    )
    result = repaired(record)
    assert result.changes == {repairs.CORRECTED_BOXES: 2, repairs.CORRECTED_AREAS: 2}
    objects = {annotation.id: annotation for annotation in result.split.images[0].annotations}
    assert objects[1] is healthy
    assert [objects[i].box.tolist() for i in (2, 3)] == [[60, 10, 100, 40], [60, 60, 80, 80]]
    assert [objects[i].area for i in (4, 5)] == [400, 400]


@pytest.mark.parametrize(
    "outline",
    [
        [10, 10, 60, 60, 60, 10, 10, 60],  # two triangles
        [10, 10, 60, 10, 60, 60, 30, 60, 30, 30, 80, 30, 80, 80, 10, 80],
    ],
)
def test_repair_traces_the_pixels_of_an_outline_that_crosses_itself(tmp_path: Path, outline: list[float]) -> None:
    crossed = make_annotation(1, 0, segmentation=[outline])  # type: ignore[list-item]
    result = repaired(write_record(tmp_path, 1, crossed))
    assert result.changes == {repairs.TRACED: 1}
    [traced] = result.split.images[0].annotations
    np.testing.assert_array_equal(pixels(traced), pixels(crossed))
    assert traced.area == pixels(crossed).sum()
    report = check_dataset(result.split)
    assert report.findings == {}


def test_repair_removes_doubled_empty_and_malformed_objects(tmp_path: Path) -> None:
    record = write_record(
        tmp_path,
        1,
        rectangle(1, 10, 10, 40, 30),
        rectangle(2, 10, 10, 40, 31),
        rectangle(3, 10, 10, 40, 30),
        make_annotation(4, 0, box=[60, 60, 70, 70], segmentation=square_outline(60.6, 60.6, 0.2, 0.2)),  # type: ignore[arg-type]
        replace(rectangle(5, 90, 60, 20, 20), segmentation={"size": [5, 5], "counts": [0, 25]}),
    )
    result = repaired(record)
    assert [annotation.id for annotation in result.split.images[0].annotations] == [1]
    assert result.changes == {
        repairs.REMOVED_DUPLICATES: 2, repairs.REMOVED_EMPTY: 1, repairs.REMOVED_MALFORMED: 1,
    }  # fmt: skip


def test_repair_removes_a_copy_only_if_the_other_has_its_objects(tmp_path: Path) -> None:
    first, second = rectangle(1, 10, 10, 40, 30), rectangle(2, 60, 10, 40, 30)
    original = write_record(tmp_path, 1, first)
    same = write_record(tmp_path, 2, replace(first, id=3), copy_of=1)
    more = write_record(tmp_path, 3, replace(first, id=4), second, copy_of=1)
    other = write_record(tmp_path, 4, rectangle(5, 10, 60, 20, 20), copy_of=1)

    def left(*records: ImageRecord) -> list[int]:
        return [record.id for record in repaired(*records).split.images]

    assert left(original, same) == [1]
    assert left(original, more) == [3]
    assert left(original, other) == [1, 4]
    assert left(original, same, more) == [3]


def test_repair_merges_the_entries_of_a_file(tmp_path: Path) -> None:
    """Two annotators labeled one image, and one object twice."""
    first = write_record(tmp_path, 1, rectangle(1, 10, 10, 40, 30))
    entry = ImageRecord(2, first.source, SIZE, (rectangle(2, 10, 10, 40, 31), rectangle(3, 60, 60, 20, 20)))
    result = repaired(first, entry)
    assert [[a.id for a in record.annotations] for record in result.split.images] == [[1, 3]]
    assert result.changes == {repairs.MERGED_ENTRIES: 1, repairs.REMOVED_DUPLICATES: 1}


def test_repair_corrects_sizes_that_fit_and_removes_other_images(tmp_path: Path) -> None:
    wider = replace(write_record(tmp_path, 1, rectangle(1, 10, 10, 40, 30)), size=(96, 140))
    outside = replace(write_record(tmp_path, 2, rectangle(2, 200, 10, 40, 30)), size=(96, 300))
    (tmp_path / "3.png").write_bytes(b"no image")
    broken = ImageRecord(3, tmp_path / "3.png", SIZE, (rectangle(4, 10, 10, 40, 30),))
    result = repaired(wider, outside, broken)
    assert [(record.id, record.size) for record in result.split.images] == [(1, SIZE)]
    assert result.changes == {
        repairs.CORRECTED_SIZES: 1, repairs.REMOVED_OTHER_SIZE: 1, repairs.REMOVED_UNREADABLE: 1,
    }  # fmt: skip


def test_repair_removes_training_images_from_the_validation_split(tmp_path: Path) -> None:
    objects = (rectangle(1, 10, 10, 40, 30),)
    train = DatasetSplit("train", ("part",), images=(write_record(tmp_path, 1, *objects),))
    images = (write_record(tmp_path, 2, *objects), write_record(tmp_path, 3, *objects, copy_of=1))
    reports = [check_dataset(train), check_dataset(DatasetSplit("valid", ("part",), images=images))]
    check_across(reports)
    assert [[record.id for record in result.split.images] for result in repair(reports)] == [[1], [2]]
    assert [result.changes for result in repair(reports)] == [{}, {repairs.REMOVED_SHARED: 1}]


def test_repair_keeps_a_copy_whose_objects_have_other_masks_or_are_in_several_entries(tmp_path: Path) -> None:
    """Boxes alone were compared, and a copy was removed before the entries of its file were merged."""
    halves = [[10.0, 10, 60, 10, 10, 60], [60.0, 10, 60, 60, 10, 60]]  # the triangles of one box
    triangles = [make_annotation(number, 0, segmentation=[half]) for number, half in enumerate(halves, 1)]
    first = write_record(tmp_path, 1, triangles[0])
    copy = write_record(tmp_path, 2, triangles[1], copy_of=1)
    assert len(repaired(first, copy).split.images) == 2
    entries = [replace(first, annotations=(rectangle(3, 10, 10, 40, 30),)), replace(first, id=3)]
    copy = replace(copy, annotations=(rectangle(4, 10, 10, 40, 30), rectangle(5, 60, 50, 40, 30)))
    images = repaired(*entries, copy).split.images
    assert [[a.id for a in record.annotations] for record in images] == [[3, 1], [4, 5]]
