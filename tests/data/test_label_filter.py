"""Choice of labels by class, size, image name and finding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sais.data.annotations import DatasetSplit, ImageRecord, make_annotation
from sais.data.doctor.findings import Case, Finding, ImageReference
from sais.data.label_filter import (
    LabelFilter,
    case_order,
    cases_of,
    check_class_names,
    choose_labels,
    places_of,
    sample_images,
)
from sais.errors import InputError

SIDES = (31, 32, 95, 96)


@pytest.fixture
def split() -> DatasetSplit:
    """Return an image with squares of two classes and four sizes, one with a crowd, and one without objects."""
    squares = tuple(make_annotation(i, i % 2, box=(0, 0, side, side)) for i, side in enumerate(SIDES))
    crowd = make_annotation(9, 0, box=(0, 0, 50, 50), crowd=True)
    records = (
        ImageRecord(1, Path("photos/IMG_1.jpg"), (100, 100), squares),
        ImageRecord(2, Path("photos/IMG_2.png"), (100, 100), (crowd,)),
        ImageRecord(3, Path("other/x.jpg"), (100, 100)),
    )
    return DatasetSplit("train", ("cat", "dog"), images=records)


def ids(records: list[ImageRecord]) -> dict[int, list[int]]:
    return {record.id: [a.id for a in record.annotations] for record in records}


def test_without_a_filter_everything_is_chosen(split: DatasetSplit) -> None:
    assert ids(choose_labels(split, LabelFilter())) == {1: [0, 1, 2, 3], 2: [9], 3: []}


@pytest.mark.parametrize(
    ("label_filter", "expected"),
    [
        (LabelFilter(size="small"), {1: [0]}),
        (LabelFilter(size="medium"), {1: [1, 2], 2: [9]}),
        (LabelFilter(size="large"), {1: [3]}),
        (LabelFilter(classes=("dog",)), {1: [1, 3]}),
        (LabelFilter(classes=("dog",), size="medium"), {1: [1]}),
        (LabelFilter(min_area=32.0**2, max_area=95.0**2), {1: [1, 2], 2: [9]}),
        (LabelFilter(images=("IMG_*",)), {1: [0, 1, 2, 3], 2: [9]}),
        (LabelFilter(images=("x.jpg", "*.png")), {2: [9], 3: []}),
        (LabelFilter(images=("photos/*.jpg",)), {1: [0, 1, 2, 3]}),
        (LabelFilter(images=("img_1.jpg",)), {}),
    ],
)
def test_choose_labels_by_filter(
    split: DatasetSplit, label_filter: LabelFilter, expected: dict[int, list[int]]
) -> None:
    assert ids(choose_labels(split, label_filter)) == expected


def test_choose_labels_by_finding_and_filter(split: DatasetSplit) -> None:
    references = [ImageReference("train", number, "", None) for number in (1, 2, 3)]
    cases = [
        Case("a", references[0], (1,)),
        Case("b", references[0], (2,)),
        Case("c", references[1], (9,)),
        Case("d", ImageReference("valid", 3, "", None), others=(references[2],)),
        Case("e"),
    ]
    places = places_of(cases, "train")
    assert places == {1: {1, 2}, 2: {9}, 3: None}
    assert list(case_order(cases)) == [("train", 1), ("train", 2), ("valid", 3), ("train", 3)]
    chosen = choose_labels(split, LabelFilter(), places)
    assert ids(chosen) == {1: [1, 2], 2: [9], 3: []}
    assert not chosen[1].annotations[0].crowd  # it is what the finding is about
    assert ids(choose_labels(split, LabelFilter(classes=("cat",)), places)) == {1: [2], 2: [9]}
    whole = places_of([*cases, Case("f", references[0])], "train")
    assert ids(choose_labels(split, LabelFilter(), whole))[1] == [0, 1, 2, 3]


def test_cases_of_a_part_of_a_kind() -> None:
    findings = [Finding("WARNING", "Duplicate objects", 1, (Case("a"),)), Finding("NOTE", "near-duplicates", 1)]
    assert [case.text for case in cases_of("duplicate", findings)] == ["a"]
    with pytest.raises(InputError, match="Duplicate objects; near-duplicates"):
        cases_of("tiny", findings)


def test_unknown_classes_are_an_error_with_a_suggestion(split: DatasetSplit) -> None:
    check_class_names(["cat"], [split])
    with pytest.raises(InputError, match="did you mean 'dog'"):
        check_class_names(["dogs"], [split])


def test_sample_images_is_seeded_and_in_order() -> None:
    images = list(range(50))
    sample = sample_images(images, 10, 3)
    assert sample == sorted(sample) == sample_images(images, 10, 3)
    assert len(set(sample)) == 10
    assert sample != sample_images(images, 10, 4)
    assert sample_images(images, 50, 0) == images
    assert np.array_equal(sample_images(images, 99, 0), images)
