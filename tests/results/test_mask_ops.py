"""Operations on cropped masks, compared with the same operations on dense masks."""

from __future__ import annotations

import numpy as np
import pytest

from sais.ops.numpy_boxes import intersect_windows, is_empty
from sais.results.cropped_mask import CroppedMask
from sais.results.mask_ops import count_pixels, hflip, intersection_area, majority_vote, mask_window, union

SIZE = (23, 31)


def random_mask(random: np.random.Generator) -> CroppedMask:
    """Return a random mask in an image of SIZE, possibly with no row or no column."""
    height, width = random.integers(0, 12, 2)
    y, x = random.integers(0, SIZE[0] - height + 1), random.integers(0, SIZE[1] - width + 1)
    return CroppedMask(x, y, random.random((height, width)) < 0.6)


def to_dense(mask: CroppedMask) -> np.ndarray:
    """Return the mask at image size, (H, W) bool."""
    dense = np.zeros(SIZE, bool)
    height, width = mask.shape
    dense[mask.y : mask.y + height, mask.x : mask.x + width] = mask.bits
    return dense


@pytest.mark.parametrize("seed", range(20))
def test_mask_ops_equal_dense_masks(seed: int) -> None:
    random = np.random.default_rng(seed)
    masks = [random_mask(random) for _ in range(5)]
    dense = np.stack([to_dense(mask) for mask in masks])
    x1, x2 = sorted(random.integers(0, SIZE[1], 2).tolist())
    y1, y2 = sorted(random.integers(0, SIZE[0], 2).tolist())
    for first, first_dense in zip(masks, dense, strict=True):
        assert count_pixels(first, (x1, y1, x2, y2)) == first_dense[y1:y2, x1:x2].sum()
        for second, second_dense in zip(masks, dense, strict=True):
            common = first_dense & second_dense
            assert intersection_area(first, second) == common.sum()
            assert intersection_area(first, second, (x1, y1, x2, y2)) == common[y1:y2, x1:x2].sum()
        assert (to_dense(hflip(first, SIZE[1])) == first_dense[:, ::-1]).all()
        assert (to_dense(hflip(hflip(first, SIZE[1]), SIZE[1])) == first_dense).all()
    assert (to_dense(union(masks)) == dense.any(0)).all()
    weights = random.integers(1, 9, 5) / 8  # exact in binary, so that half is exact
    votes = (dense * weights[:, None, None]).sum(0) >= weights.sum() / 2
    assert (to_dense(majority_vote(masks, weights.tolist())) == votes).all()


def test_majority_vote_of_one_row() -> None:
    masks = [
        CroppedMask(0, 0, np.array([[1, 1, 0, 0]])),
        CroppedMask(1, 0, np.array([[1, 1, 0]])),
        CroppedMask(1, 0, np.array([[0, 1, 1]])),
    ]
    assert majority_vote(masks, [1, 1, 1]).bits.tolist() == [[False, True, True, False]]
    assert majority_vote(masks, [5, 1, 1]).bits.tolist() == [[True, True, False, False]]
    assert majority_vote(masks[:2], [1, 1]).bits.tolist() == [[True, True, True, False]]  # half is sufficient
    assert majority_vote([masks[0]] * 10, [0.1] * 10).area == 2
    pixel = CroppedMask(3, 0, np.array([[1]]))
    assert majority_vote([masks[0], *[pixel] * 10], [1, *[0.1] * 10]).area == 3  # half, despite rounding


def test_union_and_vote_cover_the_common_window_only() -> None:
    first, second = CroppedMask(5, 2, np.ones((3, 4))), CroppedMask(20, 10, np.ones((5, 6)))
    empty = CroppedMask(0, 0, np.ones((0, 7)))
    assert mask_window(union([first, empty, second])) == (5, 2, 26, 15)
    assert mask_window(majority_vote([empty, first, second], [1, 1, 1])) == (5, 2, 26, 15)
    assert union([empty, empty]).area == majority_vote([empty], [1]).area == 0
    assert intersect_windows(mask_window(first), mask_window(second)) == (20, 10, 9, 5)
    assert is_empty((20, 10, 9, 5))
    assert not is_empty((5, 2, 6, 3))
