"""Records collected one by one: arrays from a number on, with the same content as Python objects."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sais.data import packed_annotations
from sais.data.annotations import ImageRecord, make_annotation
from sais.data.formats import list_splits, read_dataset
from sais.data.packed_annotations import AnnotationTable, PackedImages
from sais.data.record_collector import RecordCollector
from sais.errors import InputError
from tests.data.formats import label_samples
from tests.data.test_packed_annotations import assert_same, describe

WRITERS = (
    label_samples.write_yolo,
    label_samples.write_labelme,
    label_samples.write_masks,
    label_samples.write_bowl,
    label_samples.write_voc,
    label_samples.write_cityscapes,
    label_samples.write_panoptic,
)


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_every_format_is_packed_without_a_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], Path]
) -> None:
    folder = write(tmp_path / "data")
    for name in list_splits(folder):
        monkeypatch.undo()
        plain = read_dataset(folder, name)
        assert isinstance(plain.images, tuple)
        monkeypatch.setattr(packed_annotations, "MIN_PACKED", 3)  # reached in the middle
        packed = read_dataset(folder, name)
        assert isinstance(packed.images, PackedImages)
        AnnotationTable.from_arrays(packed.images.table.arrays())
        assert_same(plain, packed)


def test_masks_of_all_forms_are_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    masks = [
        [[1.0, 2.5, 9.0, 2.5, 9.0, 8.0], [1.5, 1.5, 4.0, 1.5, 4.0, 3.0]],
        [[1, 2, 9, 2, 9, 8.5]],
        {"size": [10, 10], "counts": [5, 10, 85]},
        {"size": [10, 10], "counts": "5:Y2"},
        None,
    ]
    box = [1, 1, 9, 9]
    objects = [
        make_annotation(number, number % 2, box=box, area=number + 0.1, crowd=number == 3)
        for number in range(len(masks))
    ]
    for annotation, mask in zip(objects, masks, strict=True):
        object.__setattr__(annotation, "segmentation", mask)
    records = [
        ImageRecord(9, Path("a/é.png"), (10, 12), tuple(objects[:3])),
        ImageRecord(-1, Path("b.png"), (10, 10)),
        ImageRecord(2**40, Path("c.png"), (10, 10), tuple(objects[3:])),
    ]
    for limit in (0, 4, 10**6):
        monkeypatch.setattr(packed_annotations, "MIN_PACKED", limit)
        collector = RecordCollector()
        for number, record in enumerate(records, 1):
            collector.append(record)
            assert len(collector) == number
        images = collector.finish()
        assert isinstance(images, tuple if limit > 100 else PackedImages)
        assert list(map(describe, images)) == list(map(describe, records))


def test_image_id_beyond_64_bits_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_annotations, "MIN_PACKED", 0)
    with pytest.raises(InputError, match=r"a\.png: image id 1000"):
        RecordCollector().append(ImageRecord(10**30, Path("a.png"), (10, 10)))
