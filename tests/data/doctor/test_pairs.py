"""Pairs of objects: labeled twice, one inside the other, contradicting classes, and pairs that are healthy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sais.data.annotations import Annotation, DatasetSplit, ImageRecord, make_annotation
from sais.data.doctor import kinds
from sais.data.doctor.pairs import check_pairs
from sais.data.doctor.report import CheckReport


def rectangle(number: int, label: int, x1: float, y1: float, x2: float, y2: float, crowd: bool = False) -> Annotation:
    """Return a rectangular object with a mask."""
    return make_annotation(number, label, segmentation=[[x1, y1, x2, y1, x2, y2, x1, y2]], crowd=crowd)  # type: ignore[list-item]


def bitmap(number: int, bits: np.ndarray) -> Annotation:
    """Return an object of class 0 with a mask (H, W)."""
    return make_annotation(number, 0, segmentation=bits)


def found(*objects: Annotation) -> dict[str, list[tuple[int, ...]]]:
    """Return the annotation ids of the cases of each finding."""
    record = ImageRecord(1, Path("a.jpg"), (100, 100), objects)
    report = CheckReport(DatasetSplit("train", ("cat", "dog"), images=(record,)))
    check_pairs(report, record)
    return {kind: [case.annotation_ids for case in cases] for kind, cases in report.findings.items()}


OBJECT = rectangle(1, 0, 10, 10, 60, 60)


@pytest.mark.parametrize(
    ("other", "kind"),
    [
        (rectangle(2, 0, 10, 10, 60, 61), kinds.DUPLICATE_OBJECT),
        (rectangle(2, 0, 12, 12, 60, 60), kinds.DUPLICATE_OBJECT),
        (rectangle(2, 1, 10, 11, 60, 60), kinds.SUSPICIOUS_CLASS),
        (rectangle(2, 0, 20, 20, 40, 40), kinds.HIDDEN_OBJECT),
        (rectangle(2, 0, 0, 0, 90, 90), kinds.HIDDEN_OBJECT),
    ],
)
def test_check_pairs_names_both_objects(other: Annotation, kind: str) -> None:
    assert found(OBJECT, other) == {kind: [(1, 2)]}


@pytest.mark.parametrize(
    "other",
    [
        rectangle(2, 1, 20, 20, 40, 40),  # a cat in front of a dog
        rectangle(2, 0, 40, 40, 90, 90),
        rectangle(2, 0, 10, 10, 60, 60, crowd=True),
        make_annotation(2, 0, box=[20, 20, 40, 40]),
    ],
)
def test_check_pairs_accepts_healthy_pairs(other: Annotation) -> None:
    assert found(OBJECT, other) == {}


def test_check_pairs_compares_masks_and_not_boxes() -> None:
    """Two crossed bars have the same box, and a ring contains the box of what is inside it."""
    diagonal = np.abs(np.subtract.outer(np.arange(100), np.arange(100))) < 6
    assert found(bitmap(1, diagonal), bitmap(2, diagonal[:, ::-1])) == {}
    ring = np.zeros((100, 100), bool)
    ring[10:90, 10:90] = True
    ring[30:70, 30:70] = False
    inner = np.zeros((100, 100), bool)
    inner[40:60, 40:60] = True
    assert found(bitmap(1, ring), bitmap(2, inner)) == {}


def test_check_pairs_of_boxes_without_masks() -> None:
    first = make_annotation(1, 0, box=[10, 10, 60, 60])
    assert found(first, make_annotation(2, 0, box=[10, 10, 60, 61])) == {kinds.DUPLICATE_OBJECT: [(1, 2)]}
    assert found(first, make_annotation(2, 1, box=[10, 10, 60, 61])) == {kinds.SUSPICIOUS_CLASS: [(1, 2)]}
    assert found(first, make_annotation(2, 0, box=[13, 10, 60, 60])) == {}  # IoU 0.94
