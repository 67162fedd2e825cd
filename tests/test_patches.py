"""Arithmetic on patches against the same on whole pictures."""

from __future__ import annotations

import numpy as np
import pytest

from sais.detections import Patch
from sais.patches import common, is_empty, mirrored, pixels_in, shared_pixels, united, voted, window_of

SIZE = (23, 31)


def random_patch(random: np.random.Generator) -> Patch:
    """Anywhere in a picture of SIZE, also without a row or a column."""
    height, width = random.integers(0, 12, 2)
    y, x = random.integers(0, SIZE[0] - height + 1), random.integers(0, SIZE[1] - width + 1)
    return Patch(x, y, random.random((height, width)) < 0.6)


def full(patch: Patch) -> np.ndarray:
    """The mask in the whole picture."""
    mask = np.zeros(SIZE, bool)
    height, width = patch.shape
    mask[patch.y : patch.y + height, patch.x : patch.x + width] = patch.bits
    return mask


@pytest.mark.parametrize("seed", range(20))
def test_as_on_whole_pictures(seed: int) -> None:
    random = np.random.default_rng(seed)
    patches = [random_patch(random) for _ in range(5)]
    dense = np.stack([full(p) for p in patches])
    x1, x2 = sorted(random.integers(0, SIZE[1], 2).tolist())
    y1, y2 = sorted(random.integers(0, SIZE[0], 2).tolist())
    for one, mask in zip(patches, dense, strict=True):
        assert pixels_in(one, (x1, y1, x2, y2)) == mask[y1:y2, x1:x2].sum()
        for other, second in zip(patches, dense, strict=True):
            assert shared_pixels(one, other) == (mask & second).sum()
            assert shared_pixels(one, other, (x1, y1, x2, y2)) == (mask & second)[y1:y2, x1:x2].sum()
        assert (full(mirrored(one, SIZE[1])) == mask[:, ::-1]).all()
        assert (full(mirrored(mirrored(one, SIZE[1]), SIZE[1])) == mask).all()
    assert (full(united(patches)) == dense.any(0)).all()
    weights = random.integers(1, 9, 5) / 8  # exact in binary, so that half is half
    votes = (dense * weights[:, None, None]).sum(0) >= weights.sum() / 2
    assert (full(voted(patches, weights.tolist())) == votes).all()


def test_votes_by_hand() -> None:
    row = [
        Patch(0, 0, np.array([[1, 1, 0, 0]])),
        Patch(1, 0, np.array([[1, 1, 0]])),
        Patch(1, 0, np.array([[0, 1, 1]])),
    ]
    assert voted(row, [1, 1, 1]).bits.tolist() == [[False, True, True, False]]
    assert voted(row, [5, 1, 1]).bits.tolist() == [[True, True, False, False]]
    assert voted(row[:2], [1, 1]).bits.tolist() == [[True, True, True, False]]  # half is enough
    assert voted([row[0]] * 10, [0.1] * 10).area == 2
    assert (
        voted([row[0], *[Patch(3, 0, np.array([[1]]))] * 10], [1, *[0.1] * 10]).area == 3
    )  # half in spite of rounding


def test_results_are_as_large_as_the_window_around_them() -> None:
    one, other, none = Patch(5, 2, np.ones((3, 4))), Patch(20, 10, np.ones((5, 6))), Patch(0, 0, np.ones((0, 7)))
    assert window_of(united([one, none, other])) == (5, 2, 26, 15)
    assert window_of(voted([none, one, other], [1, 1, 1])) == (5, 2, 26, 15)
    assert united([none, none]).area == voted([none], [1]).area == 0
    assert common(window_of(one), window_of(other)) == (20, 10, 9, 5)
    assert is_empty((20, 10, 9, 5))
    assert not is_empty((5, 2, 6, 3))


def test_a_moved_patch_is_the_same_elsewhere() -> None:
    patch = Patch(2, 3, np.array([[1, 0, 1], [0, 1, 1]]))
    moved = patch.moved(10, -3)
    assert (moved.x, moved.y, moved.shape, moved.area) == (12, 0, (2, 3), 4)
    assert (moved.bits == patch.bits).all()
    assert (patch.x, patch.y) == (2, 3)
