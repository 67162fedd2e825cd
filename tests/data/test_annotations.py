"""Annotations built in Python: boxes and masks in every form, and the check of a split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sais.data.annotations import DatasetSplit, ImageRecord, make_annotation, object_mask
from sais.data.split_checks import check_split
from sais.errors import InputError
from sais.ops.rasterize import inside
from sais.ops.rle import encode

MASK = np.zeros((40, 60), bool)
MASK[10:20, 15:45] = True
POLYGON = [15.0, 10.0, 45.0, 10.0, 45.0, 20.0, 15.0, 20.0]


@pytest.mark.parametrize(
    "segmentation", [MASK, MASK.astype(np.uint8), encode(MASK), [POLYGON], [np.array(POLYGON).reshape(-1, 2)]]
)
def test_make_annotation_accepts_bitmaps_polygons_and_rle(segmentation: object) -> None:
    annotation = make_annotation(7, 1, segmentation=segmentation)  # type: ignore[arg-type]
    np.testing.assert_array_equal(annotation.box, [15, 10, 45, 20])
    assert annotation.box.dtype == np.float32
    assert annotation.area == 300
    assert not annotation.crowd
    mask = object_mask(annotation, (40, 60))
    assert mask is not None
    np.testing.assert_array_equal(inside(mask, (0, 0, 60, 40)), MASK)


def test_make_annotation_with_a_box_only() -> None:
    annotation = make_annotation(7, 1, box=(1, 2, 4, 6), crowd=True)
    assert (annotation.segmentation, annotation.area, annotation.crowd) == (None, 12, True)
    assert make_annotation(7, 1, box=(1, 2, 4, 6), area=5.0).area == 5
    with pytest.raises(InputError, match="annotation 7"):
        make_annotation(7, 1)


def test_image_record_reads_files_arrays_and_functions(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (8, 9, 3), np.uint8)
    from PIL import Image

    Image.fromarray(image).save(tmp_path / "a.png")
    for source in (tmp_path / "a.png", image, lambda: image, lambda: tmp_path / "a.png"):
        np.testing.assert_array_equal(ImageRecord(3, source, (8, 9)).read(), image)
    assert ImageRecord(3, image, (8, 9)).name == "image 3"
    with pytest.raises(InputError, match="image 3"):
        ImageRecord(3, image, (8, 9)).path  # noqa: B018


def test_dataset_split_numbers_categories_by_default() -> None:
    assert DatasetSplit("train", ("bear", "deer")).category_ids == (1, 2)


@pytest.mark.parametrize(
    ("boxes", "labels", "message"),
    [
        ([(0, 0, 61, 5)], [0], "box"),
        ([(5, 0, 5, 5)], [0], "box"),
        ([(0, 0, float("nan"), 5)], [0], "box"),
        ([(0, 0, 5, 5)], [2], "label 2"),
        ([(0, 0, 5, 5)] * 2, [0, 0], "annotation id 1"),
    ],
)
def test_check_split_names_invalid_annotations(boxes: list, labels: list[int], message: str) -> None:
    annotations = tuple(make_annotation(1, label, box=box) for box, label in zip(boxes, labels, strict=True))
    record = ImageRecord(3, np.zeros((40, 60, 3), np.uint8), (40, 60), annotations)
    with pytest.raises(InputError, match=message):
        check_split(DatasetSplit("train", ("bear", "deer"), images=(record,)))
