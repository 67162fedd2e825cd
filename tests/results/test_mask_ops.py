"""Arithmetic on patches against the same on whole images."""

from __future__ import annotations

import numpy as np
import pytest

from sais.results.cropped_mask import CroppedMask
from sais.results.mask_ops import (
    count_pixels,
    hflip,
    intersect_windows,
    intersection_area,
    is_empty,
    union,
    vote,
    mask_window,
)

SIZE = (23, 31)


def random_patch(random: np.random.Generator) -> CroppedMask:
    """Anywhere in an image of SIZE, also without a row or a column."""
    height, width = random.integers(0, 12, 2)
    y, x = random.integers(0, SIZE[0] - height + 1), random.integers(0, SIZE[1] - width + 1)
    return CroppedMask(x, y, random.random((height, width)) < 0.6)


def full(patch: CroppedMask) -> np.ndarray:
    """The mask in the whole image."""
    mask = np.zeros(SIZE, bool)
    height, width = patch.shape
    mask[patch.y : patch.y + height, patch.x : patch.x + width] = patch.bits
    return mask


@pytest.mark.parametrize("seed", range(20))
def test_as_on_whole_images(seed: int) -> None:
    random = np.random.default_rng(seed)
    patches = [random_patch(random) for _ in range(5)]
    dense = np.stack([full(p) for p in patches])
    x1, x2 = sorted(random.integers(0, SIZE[1], 2).tolist())
    y1, y2 = sorted(random.integers(0, SIZE[0], 2).tolist())
    for one, mask in zip(patches, dense, strict=True):
        assert count_pixels(one, (x1, y1, x2, y2)) == mask[y1:y2, x1:x2].sum()
        for other, second in zip(patches, dense, strict=True):
            assert intersection_area(one, other) == (mask & second).sum()
            assert intersection_area(one, other, (x1, y1, x2, y2)) == (mask & second)[y1:y2, x1:x2].sum()
        assert (full(hflip(one, SIZE[1])) == mask[:, ::-1]).all()
        assert (full(hflip(hflip(one, SIZE[1]), SIZE[1])) == mask).all()
    assert (full(union(patches)) == dense.any(0)).all()
    weights = random.integers(1, 9, 5) / 8  # exact in binary, so that half is half
    votes = (dense * weights[:, None, None]).sum(0) >= weights.sum() / 2
    assert (full(vote(patches, weights.tolist())) == votes).all()


def test_votes_by_hand() -> None:
    row = [
        CroppedMask(0, 0, np.array([[1, 1, 0, 0]])),
        CroppedMask(1, 0, np.array([[1, 1, 0]])),
        CroppedMask(1, 0, np.array([[0, 1, 1]])),
    ]
    assert vote(row, [1, 1, 1]).bits.tolist() == [[False, True, True, False]]
    assert vote(row, [5, 1, 1]).bits.tolist() == [[True, True, False, False]]
    assert vote(row[:2], [1, 1]).bits.tolist() == [[True, True, True, False]]  # half is enough
    assert vote([row[0]] * 10, [0.1] * 10).area == 2
    assert (
        vote([row[0], *[CroppedMask(3, 0, np.array([[1]]))] * 10], [1, *[0.1] * 10]).area == 3
    )  # half in spite of rounding


def test_results_are_as_large_as_the_window_around_them() -> None:
    one, other, none = (
        CroppedMask(5, 2, np.ones((3, 4))),
        CroppedMask(20, 10, np.ones((5, 6))),
        CroppedMask(0, 0, np.ones((0, 7))),
    )
    assert mask_window(union([one, none, other])) == (5, 2, 26, 15)
    assert mask_window(vote([none, one, other], [1, 1, 1])) == (5, 2, 26, 15)
    assert union([none, none]).area == vote([none], [1]).area == 0
    assert intersect_windows(mask_window(one), mask_window(other)) == (20, 10, 9, 5)
    assert is_empty((20, 10, 9, 5))
    assert not is_empty((5, 2, 6, 3))


def test_a_moved_patch_is_the_same_elsewhere() -> None:
    patch = CroppedMask(2, 3, np.array([[1, 0, 1], [0, 1, 1]]))
    moved = patch.moved(10, -3)
    assert (moved.x, moved.y, moved.shape, moved.area) == (12, 0, (2, 3), 4)
    assert (moved.bits == patch.bits).all()
    assert (patch.x, patch.y) == (2, 3)
