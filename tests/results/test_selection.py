"""Detections.filter: classes, scores, areas, boxes and regions, against dense masks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sais.errors import InputError
from sais.results.detections import Detections
from tests.results.detection_samples import random_detections, random_image, squares


def test_filter_by_class_score_and_area() -> None:
    d = random_detections(20)
    for classes, labels in (("deer", [1]), (["bear", 2], [0, 2]), (1, [1]), ([], [])):
        expected = [i for i, label in enumerate(d.labels) if label in labels]
        np.testing.assert_array_equal(d.filter(classes=classes).scores, d.scores[expected])
    middle = float(d.scores[9])
    np.testing.assert_array_equal(d.filter(score=middle).scores, d.scores[:10])
    np.testing.assert_array_equal(d.filter(score=(None, middle)).scores, d.scores[9:])
    np.testing.assert_array_equal(d.filter(area=(40, 90)).area, [a for a in d.area if 40 <= a <= 90])
    both = d.filter(classes="deer", area=50)
    assert both.labels.tolist() == [1] * len(both)
    assert (both.area >= 50).all()
    assert len(d.filter()) == 20


def test_filter_keeps_the_reference_to_the_image() -> None:
    d = squares((5, 7), (30, 20))
    d.image = random_image()
    assert d.filter(score=0.7).image is d.image
    assert d[1].image is d.image


@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.5, 1.0])
def test_filter_by_box_and_region_equals_dense_masks(fraction: float) -> None:
    d = random_detections(25, seed=3)
    y, x = np.mgrid[:60, :80] + 0.5
    triangle = np.array([[10.2, 5.3], [70.1, 20.8], [25.7, 55.9]])
    cross = (triangle - np.roll(triangle, -1, 0)) @ np.array([[0.0, 1.0], [-1.0, 0.0]])
    in_triangle = np.all([(np.stack([x, y], -1) - p) @ c >= 0 for p, c in zip(triangle, cross, strict=True)], axis=0)
    in_triangle |= np.all([(np.stack([x, y], -1) - p) @ c <= 0 for p, c in zip(triangle, cross, strict=True)], axis=0)
    box = (12.2, 8.6, 51.4, 40.5)
    in_box = (x >= box[0]) & (x < box[2]) & (y >= box[1]) & (y < box[3])
    hole = np.array([[30.0, 20], [30, 30], [40, 30], [40, 20]])
    in_hole = (x > 30) & (x < 40) & (y > 20) & (y < 30)
    cases: list[tuple[dict[str, Any], np.ndarray]] = [
        ({"box": box}, in_box),
        ({"region": triangle}, in_triangle),
        ({"region": triangle.tolist()}, in_triangle),
        ({"region": [triangle, hole]}, in_triangle ^ in_hole),
        ({"region": in_triangle}, in_triangle),
    ]
    for arguments, pixels in cases:
        shares = np.array([(mask & pixels).sum() / mask.sum() for mask in d.masks()])
        expected = (shares >= fraction) & (shares > 0)
        assert 0 < expected.sum() < 25 or fraction == 1.0
        np.testing.assert_array_equal(d.filter(**arguments, min_fraction=fraction).scores, d.scores[expected])


def test_filter_of_boxes_in_a_box_is_exact_and_in_a_region_by_pixels() -> None:
    d = squares((0, 0), (5, 0), (20, 20), masks=False)
    assert d.filter(box=(0, 0, 10.5, 10)).scores.tolist() == d.scores[:2].tolist()
    assert len(d.filter(box=(0, 0, 9.9, 10), min_fraction=0.5)) == 1
    assert len(d.filter(box=(0, 0, 10, 10), min_fraction=1.0)) == 1
    half = np.zeros((60, 80), bool)
    half[:, 10:] = True
    assert d.filter(region=half).scores.tolist() == d.scores[1:].tolist()
    tiny = Detections((60, 80), [[10.2, 10.2, 10.4, 10.4]], [0.5], [0], ("a",))
    assert len(tiny.filter(region=np.array([[5.0, 5], [15, 5], [15, 15], [5, 15.5]]))) == 1


def test_filter_by_the_polygons_of_another_object() -> None:
    d = squares((0, 0), (2, 3), (40, 40))
    assert len(d[1:].filter(region=d[0].polygons()[0])) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": "dear"}, "unknown class 'dear', did you mean 'deer' or 'bear'"),
        ({"classes": [3]}, "unknown class 3. Use 0 to 2"),
        ({"box": (1, 2, 3)}, "x1 y1 x2 y2"),
        ({"box": (5, 2, 3, 4)}, "x1 < x2"),
        ({"region": [[1, 2], [3, 4]]}, "malformed region"),
        ({"region": np.zeros((3, 3), bool)}, r"Use its \(H, W\)"),
        ({"region": "everything"}, "malformed region"),
        ({"region": [[0, 0], [float("nan"), 9], [5, 5]]}, "malformed region"),
        ({"region": np.ones((60, 80), np.uint8)}, r"mask \(H, W\) bool"),
        ({"score": (0.1, 0.5, 0.9)}, "a minimum and a maximum"),
        ({"area": [100]}, r"area \[100\]. Give a minimum"),
    ],
)
def test_filter_names_what_is_wrong(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        squares((0, 0), (2, 3), (40, 40)).filter(**arguments)


@pytest.mark.parametrize("masks", [True, False])
def test_filter_of_no_objects(masks: bool) -> None:
    empty = random_detections(masks=masks)[:0]
    region = np.array([[0.0, 0], [9, 0], [0, 9]])
    assert len(empty.filter(["bear"], 0.5, (1, 2), box=(0, 0, 5, 5), region=region)) == 0
