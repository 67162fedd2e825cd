"""Boxes of a COCO file that contradict the outlines: replaced by the box of the outline, and counted."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sais.data.annotations import DatasetSplit
from sais.data.formats import notes
from sais.data.formats.coco import read_coco
from sais.errors import InputError
from sais.ops.rle import encode
from tests.data.formats.coco_samples import make_document

Box = list[float]


def corners(box: Box) -> Box:
    return [box[0], box[1], box[0] + box[2], box[1] + box[3]]


def fractions(box: Box) -> Box:
    return [box[0] / 128, box[1] / 96, box[2] / 128, box[3] / 96]


def fraction_corners(box: Box) -> Box:
    return fractions(corners(box))


def centers(box: Box) -> Box:
    return fractions([box[0] + box[2] / 2, box[1] + box[3] / 2, box[2], box[3]])


def whole(box: Box) -> Box:
    return [0, 0, 128, 96]


def doubled(box: Box) -> Box:
    return [2 * value for value in box]


def read_with(
    folder: Path, change: Callable[[Box], Box], edit: Callable[[dict[str, Any]], object] = bool
) -> DatasetSplit:
    """Read the sample document with every box changed, and each annotation edited."""
    document = make_document()
    for annotation in document["annotations"]:
        edit(annotation)
        annotation["bbox"] = change(annotation["bbox"])
    (folder / "train.json").write_text(json.dumps(document))
    return read_coco(folder / "train.json", None)


def boxes_of(split: DatasetSplit) -> np.ndarray:
    return np.array([a.box for record in split.images for a in record.annotations])


TRUE_BOXES = np.array([corners(a["bbox"]) for a in make_document()["annotations"]], np.float32)


@pytest.mark.parametrize(
    ("change", "note"),
    [
        (corners, notes.BOX_CORNERS),
        (fractions, notes.BOX_FRACTIONS),
        (fraction_corners, notes.BOX_FRACTIONS),
        (centers, notes.BOX_FRACTIONS),
        (whole, notes.BOX_WHOLE),
        (doubled, notes.BOX_ELSEWHERE),
    ],
)
@pytest.mark.parametrize("mask", ["polygon", "rle"])
def test_boxes_that_contradict_their_outlines_are_replaced(
    tmp_path: Path, change: Callable[[Box], Box], note: str, mask: str
) -> None:
    def as_rle(annotation: dict[str, Any]) -> None:
        if mask == "rle":
            x, y, w, h = annotation["bbox"]
            bits = np.zeros((96, 128), bool)
            bits[y : y + h, x : x + w] = True
            annotation["segmentation"] = encode(bits)

    split = read_with(tmp_path, change, as_rle)
    np.testing.assert_array_equal(boxes_of(split), TRUE_BOXES)
    assert split.notes[note] >= 10  # the few boxes at which both readings agree are not counted
    assert split.examples[note][0].startswith("annotation ")


def test_settle_boxes_leaves_healthy_and_loose_boxes(tmp_path: Path) -> None:
    split = read_with(tmp_path, lambda box: box)
    np.testing.assert_array_equal(boxes_of(split), TRUE_BOXES)
    assert split.notes == {}
    loose = read_with(tmp_path, lambda box: [box[0] - 5, box[1] - 5, box[2] + 10, box[3] + 10])
    np.testing.assert_array_equal(boxes_of(loose), TRUE_BOXES + np.array([-5, -5, 5, 5]))
    assert loose.notes == {}


def test_boxes_without_outline_follow_the_other_boxes(tmp_path: Path) -> None:
    def half(annotation: dict[str, Any]) -> None:
        if annotation["id"] % 3 == 0:
            annotation["segmentation"] = []

    split = read_with(tmp_path, corners, half)
    np.testing.assert_array_equal(boxes_of(split), TRUE_BOXES)
    assert split.notes[notes.BOX_CORNERS_READ] == 4


def test_fraction_boxes_without_outlines_are_scaled(tmp_path: Path) -> None:
    split = read_with(tmp_path, fractions, lambda annotation: annotation.pop("segmentation"))
    np.testing.assert_allclose(boxes_of(split), TRUE_BOXES, atol=1e-4)
    assert split.notes[notes.BOX_FRACTIONS_SCALED] == 12


def test_corner_boxes_without_outlines_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"of 12 boxes without an outline extend beyond the image.*x y width height"):
        read_with(tmp_path, corners, lambda annotation: annotation.pop("segmentation"))
    split = read_with(tmp_path, lambda box: box, lambda annotation: annotation.pop("segmentation"))
    np.testing.assert_array_equal(boxes_of(split), TRUE_BOXES)


@pytest.mark.parametrize("area", [0, -5.0])
def test_areas_that_are_not_positive_are_replaced(tmp_path: Path, area: float) -> None:
    split = read_with(tmp_path, lambda box: box, lambda annotation: annotation.update(area=area))
    assert {a.area for record in split.images for a in record.annotations} == {1200.0}
    assert split.notes == {notes.AREA_REPLACED: 12}


def test_fraction_outlines_are_scaled(tmp_path: Path) -> None:
    def scale(annotation: dict[str, Any]) -> None:
        part = np.array(annotation["segmentation"][0]).reshape(-1, 2) / (128, 96)
        annotation["segmentation"] = [part.ravel().tolist()]

    split = read_with(tmp_path, lambda box: box, scale)
    expected = copy.deepcopy(make_document()["annotations"][0]["segmentation"])
    np.testing.assert_allclose(split.images[0].annotations[0].segmentation, expected)  # type: ignore[arg-type]
    assert split.notes == {notes.FRACTION_OUTLINES: 12}
