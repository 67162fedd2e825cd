"""Boxes and windows in numpy: against torchvision, and empty windows."""

from __future__ import annotations

import numpy as np
import torch
from torchvision.ops import box_iou as torchvision_box_iou

from sais.ops.numpy_boxes import (
    box_area,
    box_intersection,
    box_iou,
    boxes_overlap,
    intersect_windows,
    is_empty,
    window_slices,
)


def test_box_iou_equals_torchvision() -> None:
    random = np.random.default_rng(0)
    corners = random.uniform(0, 50, (2, 40, 2)).astype(np.float32)
    boxes = np.concatenate([corners, corners + random.uniform(1, 40, (2, 40, 2)).astype(np.float32)], 2)
    first, second = boxes
    expected = torchvision_box_iou(torch.from_numpy(first), torch.from_numpy(second)).numpy()
    iou = box_iou(first[:, None], second)
    assert iou.dtype == np.float32
    np.testing.assert_array_equal(iou, expected)
    np.testing.assert_array_equal(boxes_overlap(first[:, None], second), expected > 0)


def test_box_intersection_of_disjoint_and_touching_boxes_is_zero() -> None:
    box = np.array([0.0, 0, 10, 10])
    others = np.array([[10.0, 0, 20, 10], [20, 20, 30, 30], [-5, 2, 5, 4]])
    np.testing.assert_array_equal(box_intersection(box, others), [0, 0, 10])
    np.testing.assert_array_equal(boxes_overlap(box, others), [False, False, True])
    assert box_area(box) == 100


def test_windows_intersect_and_index_images() -> None:
    window = intersect_windows((0, 0, 5, 4), (2, 1, 9, 9))
    assert window == (2, 1, 5, 4)
    assert np.arange(20).reshape(4, 5)[window_slices(window)].tolist() == [[7, 8, 9], [12, 13, 14], [17, 18, 19]]
    assert is_empty(intersect_windows((0, 0, 5, 4), (5, 0, 9, 9)))
    assert not is_empty(window)
