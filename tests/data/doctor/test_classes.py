"""Findings about classes: rare ones, those that a split lacks, unused ones and gaps in the ids."""

from __future__ import annotations

from pathlib import Path

from sais.data.annotations import DatasetSplit, ImageRecord, make_annotation
from sais.data.doctor import kinds
from sais.data.doctor.classes import check_classes
from sais.data.doctor.report import CheckReport

NAMES = ("cat", "dog", "owl", "yak")


def report(name: str, counts: tuple[int, ...], category_ids: tuple[int, ...] = ()) -> CheckReport:
    """Return the report of a split with a number of objects of each class."""
    labels = [label for label, count in enumerate(counts) for _ in range(count)]
    annotations = tuple(make_annotation(i, label, box=[1, 1, 9, 9]) for i, label in enumerate(labels))
    record = ImageRecord(1, Path("a.jpg"), (10, 10), annotations)
    return CheckReport(DatasetSplit(name, NAMES, category_ids, (record,)))


def test_check_classes_names_rare_classes_and_those_that_a_split_lacks() -> None:
    train, valid = report("train", (20, 9, 1, 0)), report("valid", (3, 0, 1, 0))
    check_classes([train, valid])
    assert [case.text for case in train.findings[kinds.RARE_CLASS]] == ["dog: 9 objects", "owl: 1 object"]
    assert list(train.findings) == [kinds.RARE_CLASS]
    assert [case.text for case in valid.findings[kinds.MISSING_IN_SPLIT]] == ["dog: 9 in train"]
    remarks = {finding.kind: finding.remark for finding in valid.all_findings()}
    assert remarks[kinds.EMPTY_CLASS] == "yak"  # not the dog, which is named already


def test_check_classes_of_a_split_without_labels_finds_nothing() -> None:
    train, test = report("train", (20, 20, 20, 20)), report("test", (0, 0, 0, 0))
    check_classes([train, test])
    assert train.findings == {}
    assert test.findings == {}


def test_gaps_in_the_category_ids_are_a_note() -> None:
    findings = {f.kind: f for f in report("train", (9, 9, 9, 9), (1, 2, 5, 9)).all_findings()}
    gaps = findings[kinds.ID_GAPS]
    assert (gaps.severity, gaps.count, gaps.remark) == ("NOTE", 5, "1 to 9 without 3, 4, 6, 7, 8")
    assert kinds.ID_GAPS not in {f.kind for f in report("train", (9, 9, 9, 9), (4, 3, 2, 1)).all_findings()}


def test_gaps_between_billions_of_category_ids_are_counted_without_listing_them() -> None:
    """A set of all numbers between two ids needed 20 GB."""
    findings = {f.kind: f for f in report("train", (9, 9, 9, 9), (1, 2, 2**40, 2**62)).all_findings()}
    assert findings[kinds.ID_GAPS].count == 2**62 - 4
    assert findings[kinds.ID_GAPS].remark == f"1 to {2**62} without 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, ..."
