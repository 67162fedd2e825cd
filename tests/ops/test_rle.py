"""Run-length encoding: equal to pycocotools, and lossless."""

from __future__ import annotations

import time

import numpy as np
import pytest

from sais.ops import rle
from tests.ops.mask_samples import random_masks

mask_util = pytest.importorskip("pycocotools.mask")


def pycocotools_rle(mask: np.ndarray) -> dict:
    """Return the RLE that pycocotools computes."""
    rle_dict = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(rle_dict["size"]), "counts": rle_dict["counts"].decode("ascii")}


def test_encode_and_decode_equal_pycocotools() -> None:
    for mask in random_masks(0, 300):
        encoded, expected = rle.encode(mask), pycocotools_rle(mask)
        assert encoded == expected
        assert rle.area(encoded) == mask.sum()
        np.testing.assert_array_equal(rle.decode(expected), mask)
        np.testing.assert_array_equal(rle.decode(expected | {"counts": expected["counts"].encode()}), mask)
        counts = rle.from_string(expected["counts"])
        assert rle.to_string(counts) == expected["counts"]
        np.testing.assert_array_equal(rle.decode({"size": expected["size"], "counts": counts.tolist()}), mask)


def test_encode_large_counts() -> None:
    mask = np.zeros((4000, 5000), bool)
    mask[3000, 4990] = mask[0, 0] = mask[10:3990, 100] = True
    assert rle.encode(mask) == pycocotools_rle(mask)
    np.testing.assert_array_equal(rle.decode(pycocotools_rle(mask)), mask)


def test_encode_cropped_equals_encode_of_the_full_mask() -> None:
    generator = np.random.default_rng(1)
    for bits in random_masks(2, 200):
        (h, w), (top, left, bottom, right) = bits.shape, generator.integers(0, 4, 4)
        full = np.zeros((top + h + bottom, left + w + right), bool)
        full[top : top + h, left : left + w] = bits
        encoded = rle.encode_cropped(bits, int(left), int(top), full.shape)
        assert encoded == pycocotools_rle(full)
        crop, x, y = rle.decode_cropped(encoded)
        pasted = np.zeros_like(full)
        pasted[y : y + crop.shape[0], x : x + crop.shape[1]] = crop
        np.testing.assert_array_equal(pasted, full)
        if full.any():
            assert crop[0].any()
            assert crop[-1].any()
            assert crop[:, 0].any()
            assert crop[:, -1].any()


def test_encode_cropped_of_an_empty_crop() -> None:
    assert rle.encode_cropped(np.zeros((0, 0), bool), 3, 2, (5, 6)) == pycocotools_rle(np.zeros((5, 6), bool))
    assert rle.encode_cropped(np.zeros((0, 4), bool), 0, 5, (5, 6)) == pycocotools_rle(np.zeros((5, 6), bool))


def test_decode_cropped_accepts_zero_counts() -> None:
    crop, x, y = rle.decode_cropped({"size": [4, 4], "counts": [5, 0, 1, 2, 0, 1, 7]})
    full = rle.decode({"size": [4, 4], "counts": [5, 0, 1, 2, 0, 1, 7]})
    np.testing.assert_array_equal(full[y : y + crop.shape[0], x : x + crop.shape[1]], crop)
    assert crop.sum() == full.sum() == 3


@pytest.mark.parametrize(
    "malformed",
    [
        {"size": [2, 2], "counts": [1, 1]},
        {"size": [2, 2], "counts": [5, -1]},
        {"size": [2, 2], "counts": [1.5, 2.5]},
        {"size": [2, 2], "counts": [[4]]},
        {"size": [2, 2], "counts": [[4], [1, 2]]},
        {"size": [2, 2], "counts": [float("nan")]},
        {"size": [2, 2], "counts": None},
        {"size": [2, 2], "counts": "P"},
        {"size": [2, 2], "counts": "\u00e9"},
        {"size": [2, 2], "counts": "!"},
        {"size": [2, 2], "counts": "o" * 20 + "0"},
        {"size": [2], "counts": "4"},
        {"size": ["a", 2], "counts": "4"},
        {"counts": "4"},
    ],
)
def test_decode_rejects_malformed_rle(malformed: dict) -> None:
    with pytest.raises(ValueError, match="RLE"):
        rle.decode(malformed)


def test_encode_cropped_outside_the_image_raises() -> None:
    for x, y in ((-1, 0), (0, -1), (4, 0), (0, 4)):
        with pytest.raises(ValueError, match="beyond"):
            rle.encode_cropped(np.ones((2, 2), bool), x, y, (5, 5))


def test_encode_cropped_is_independent_of_the_image_size() -> None:
    grid_y, grid_x = np.mgrid[:150, :150]
    bits = (grid_y - 75) ** 2 + (grid_x - 75) ** 2 < 70**2
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        for k in range(100):
            rle.encode_cropped(bits, 3 * k, 2 * k, (3000, 4000))
        best = min(best, time.perf_counter() - start)
    assert best < 0.1  # 10 ms on a quiet core
