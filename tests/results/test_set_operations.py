"""IoU of two sets, merge and subtract: against dense masks, and with neighbors that a careless merge would lose."""

from __future__ import annotations

import numpy as np
import pytest

from sais.errors import InputError
from sais.results.cropped_mask import CroppedMask
from sais.results.detections import Detections
from tests.results.detection_samples import random_detections, random_image, squares


def test_iou_equals_dense_masks() -> None:
    a, b = random_detections(15, 1), random_detections(12, 2)
    expected = [[(x & y).sum() / (x | y).sum() for y in b.masks()] for x in a.masks()]
    iou = a.iou(b)
    assert iou.shape == (15, 12)
    assert (iou > 0).any()
    np.testing.assert_allclose(iou, expected)
    np.testing.assert_allclose(a.iou(a).diagonal(), 1)


def test_iou_of_boxes_where_a_set_has_no_masks() -> None:
    a, b = squares((0, 0), (20, 20)), squares((5, 0), (0, 0), (50, 40), masks=False)
    np.testing.assert_allclose(a.iou(b), [[1 / 3, 1, 0], [0, 0, 0]])


def test_iou_of_empty_masks_and_degenerate_boxes_is_zero() -> None:
    nothing = Detections((9, 9), [[3, 3, 3, 3]], [0.5], [0], ("a",), [CroppedMask(2, 2, np.zeros((0, 0), bool))])
    boxes = Detections((9, 9), [[3, 3, 3, 3]], [0.5], [0], ("a",))
    assert nothing.iou(nothing).tolist() == boxes.iou(boxes).tolist() == [[0]]


def test_merge_takes_the_better_of_two_detections_of_one_object() -> None:
    a, b = squares((0, 0), (20, 20)), squares((40, 40), (21, 20), (0, 0))
    a.scores, b.scores = np.float32([0.9, 0.6]), np.float32([0.8, 0.7, 0.5])
    a.labels, b.labels = np.array([0, 1]), np.array([2, 1, 1])
    merged = a.merge(b)
    np.testing.assert_allclose(merged.scores, [0.9, 0.8, 0.7, 0.5])
    assert merged.boxes[:, 0].tolist() == [0, 40, 21, 0]  # the last has another class than the first
    assert len(merged.cropped_masks) == 4
    assert len(a.merge(b, class_agnostic=True)) == 3
    assert len(a.merge(b, iou=1.1)) == 5


def test_merge_loses_no_neighbor_of_an_object_that_is_left_out() -> None:
    """The middle square is a worse copy of the first; the third, in the first's set, overlaps only the middle one."""
    a, b = squares((0, 0), (4, 0)), squares((2, 0))
    a.scores, b.scores = np.float32([0.9, 0.7]), np.float32([0.8])
    a.labels, b.labels = np.array([0, 0]), np.array([0])
    np.testing.assert_allclose(a.merge(b).scores, [0.9, 0.7])
    np.testing.assert_allclose(b.merge(a).scores, [0.9, 0.7])


def test_merge_joins_classes_by_name() -> None:
    a, b = squares((0, 0), (20, 20)), squares((40, 40), (50, 0))
    b.class_names = ("wolf", "bear", "deer")
    b.image = random_image()
    merged = a.merge(b)
    assert merged.class_names == ("bear", "deer", "fox", "wolf")
    names = {(x, merged.class_names[label]) for x, label in zip(merged.boxes[:, 0], merged.labels, strict=True)}
    assert names == {(0, "bear"), (20, "deer"), (40, "wolf"), (50, "bear")}
    assert merged.image is b.image


def test_subtract_leaves_what_the_other_set_lacks() -> None:
    a, b = squares((0, 0), (20, 20), (40, 40)), squares((1, 0), (22, 24))
    assert a.subtract(b).boxes[:, 0].tolist() == [20, 40]
    assert a.subtract(b, iou=0.3).boxes[:, 0].tolist() == [40]
    b.labels = np.array([2, 2])
    assert len(a.subtract(b)) == 3
    assert len(a.subtract(b, class_agnostic=True)) == 2


def test_operations_with_no_objects() -> None:
    a, empty, boxes = squares((0, 0), (20, 20)), squares(), squares(masks=False)
    for other in (empty, boxes):
        assert a.iou(other).shape == (2, 0)
        assert other.iou(a).shape == (0, 2)
        assert len(a.merge(other)) == len(other.merge(a)) == len(a.subtract(other)) == 2
        assert len(other.subtract(a)) == len(other.merge(empty)) == 0


def test_operations_refuse_other_images_and_mixed_masks() -> None:
    a = squares((0, 0))
    other = Detections((60, 81), a.boxes, a.scores, a.labels, a.class_names, a.cropped_masks)
    for operation in (a.iou, a.merge, a.subtract):
        with pytest.raises(InputError, match=r"images of \(60, 80\) and \(60, 81\)"):
            operation(other)
    with pytest.raises(InputError, match="only one of two sets has masks"):
        a.merge(squares((0, 0), masks=False))
