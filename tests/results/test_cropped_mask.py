"""Cropped masks: memory, immutability and shifting."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from sais.results.cropped_mask import CroppedMask


def test_cropped_mask_takes_one_bit_per_pixel_and_is_read_only() -> None:
    bits = np.random.default_rng(0).random((101, 203)) < 0.4
    mask = CroppedMask(3, 4, bits)
    np.testing.assert_array_equal(mask.bits, bits)
    assert (mask.shape, mask.area) == ((101, 203), bits.sum())
    assert len(pickle.dumps(mask)) < bits.size / 8 + 500
    with pytest.raises(ValueError, match="read-only"):
        mask.bits[0, 0] = True
    empty = CroppedMask(0, 0, np.zeros((0, 5), bool))
    assert (empty.bits.shape, empty.area) == ((0, 5), 0)
    with pytest.raises(ValueError, match="two dimensions"):
        CroppedMask(0, 0, np.zeros(5, bool))


def test_shift_moves_the_position_and_shares_the_bits() -> None:
    mask = CroppedMask(2, 3, np.array([[1, 0, 1], [0, 1, 1]]))
    shifted = mask.shift(10, -3)
    assert (shifted.x, shifted.y, shifted.shape, shifted.area) == (12, 0, (2, 3), 4)
    assert (shifted.bits == mask.bits).all()
    assert (mask.x, mask.y) == (2, 3)
