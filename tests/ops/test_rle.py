"""Run lengths and outlines: equal to pycocotools string for string, and to the bits they came from."""

from __future__ import annotations

import time

import numpy as np
import pytest

from sais.ops import rle
from sais.ops.contours import contours

mask_util = pytest.importorskip("pycocotools.mask")


def judge(mask: np.ndarray) -> dict:
    """pycocotools' own run lengths of a mask."""
    found = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(found["size"]), "counts": found["counts"].decode("ascii")}


def random_masks(seed: int, number: int) -> list[np.ndarray]:
    """Masks of many sizes and densities: noise, blobs, empty, full, thin."""
    generator = np.random.default_rng(seed)
    masks = []
    for _ in range(number):
        h, w = generator.integers(1, 40, 2)
        mask = generator.random((h, w)) < generator.choice([0.0, 0.02, 0.3, 0.5, 0.9, 1.0])
        masks.append(np.kron(mask, np.ones(generator.integers(1, 9, 2), bool)).astype(bool))
    return [*masks, np.ones((1, 7), bool), np.ones((7, 1), bool), np.zeros((1, 9), bool), np.eye(33, dtype=bool)]


def test_equal_to_pycocotools() -> None:
    for mask in random_masks(0, 300):
        found, wanted = rle.encode(mask), judge(mask)
        assert found == wanted
        assert rle.area(found) == mask.sum()
        np.testing.assert_array_equal(rle.decode(wanted), mask)
        np.testing.assert_array_equal(rle.decode(wanted | {"counts": wanted["counts"].encode()}), mask)
        counts = rle.from_string(wanted["counts"])
        assert rle.to_string(counts) == wanted["counts"]
        np.testing.assert_array_equal(rle.decode({"size": wanted["size"], "counts": counts.tolist()}), mask)


def test_large_counts() -> None:
    mask = np.zeros((4000, 5000), bool)
    mask[3000, 4990] = mask[0, 0] = mask[10:3990, 100] = True
    assert rle.encode(mask) == judge(mask)
    np.testing.assert_array_equal(rle.decode(judge(mask)), mask)


def test_patch_equals_full_frame() -> None:
    generator = np.random.default_rng(1)
    for bits in random_masks(2, 200):
        (h, w), (top, left, bottom, right) = bits.shape, generator.integers(0, 4, 4)
        full = np.zeros((top + h + bottom, left + w + right), bool)
        full[top : top + h, left : left + w] = bits
        found = rle.encode_cropped(bits, int(left), int(top), full.shape)
        assert found == judge(full)
        crop, x, y = rle.decode_cropped(found)
        again = np.zeros_like(full)
        again[y : y + crop.shape[0], x : x + crop.shape[1]] = crop
        np.testing.assert_array_equal(again, full)
        if full.any():
            assert crop[0].any()
            assert crop[-1].any()
            assert crop[:, 0].any()
            assert crop[:, -1].any()


def test_empty_patch() -> None:
    assert rle.encode_cropped(np.zeros((0, 0), bool), 3, 2, (5, 6)) == judge(np.zeros((5, 6), bool))
    assert rle.encode_cropped(np.zeros((0, 4), bool), 0, 5, (5, 6)) == judge(np.zeros((5, 6), bool))


def test_patch_counts_of_zero_inside() -> None:
    crop, x, y = rle.decode_cropped({"size": [4, 4], "counts": [5, 0, 1, 2, 0, 1, 7]})
    full = rle.decode({"size": [4, 4], "counts": [5, 0, 1, 2, 0, 1, 7]})
    np.testing.assert_array_equal(full[y : y + crop.shape[0], x : x + crop.shape[1]], crop)
    assert crop.sum() == full.sum() == 3


@pytest.mark.parametrize(
    "bad",
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
def test_malformed(bad: dict) -> None:
    with pytest.raises(ValueError, match="RLE"):
        rle.decode(bad)


def test_patch_outside_the_image() -> None:
    for x, y in ((-1, 0), (0, -1), (4, 0), (0, 4)):
        with pytest.raises(ValueError, match="beyond"):
            rle.encode_cropped(np.ones((2, 2), bool), x, y, (5, 5))


def test_fast_enough() -> None:
    grid_y, grid_x = np.mgrid[:150, :150]
    bits = (grid_y - 75) ** 2 + (grid_x - 75) ** 2 < 70**2
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        for k in range(100):
            rle.encode_cropped(bits, 3 * k, 2 * k, (3000, 4000))
        best = min(best, time.perf_counter() - start)
    assert best < 0.1  # 10 ms on a quiet core


def fill(rings: list[np.ndarray], height: int, width: int) -> np.ndarray:
    """Slow even-odd filling: a pixel is set when a ray to the left from its center crosses an odd number of edges."""
    mask = np.zeros((height, width), bool)
    rows = np.arange(height) + 0.5
    for ring in rings:
        for (x1, y1), (x2, y2) in zip(ring, np.roll(ring, -1, 0), strict=True):
            if x1 == x2:
                hit = (rows > min(y1, y2)) & (rows < max(y1, y2))
                mask[np.ix_(hit, np.arange(width) + 0.5 > x1)] ^= True
    return mask


def signed_area(ring: np.ndarray) -> float:
    """Shoelace; positive is clockwise on the screen, where y points down."""
    x, y = ring.T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


def test_outlines_give_back_the_bits() -> None:
    for bits in random_masks(3, 150):
        rings = contours(bits)
        np.testing.assert_array_equal(fill(rings, *bits.shape), bits)
        assert sum(signed_area(ring) for ring in rings) == bits.sum()
        for ring in rings:
            steps = np.roll(ring, -1, 0) - ring
            assert ((steps == 0).sum(1) == 1).all()  # each side lies along one axis ...
            assert ((steps[:, 0] == 0) != (np.roll(steps, -1, 0)[:, 0] == 0)).all()  # ... and corners really turn


def test_outlines_of_a_ring_and_a_diagonal() -> None:
    ring = np.ones((5, 6), bool)
    ring[1:4, 2:4] = False
    outer, hole = contours(ring)
    assert signed_area(outer) == 30
    assert signed_area(hole) == -6
    assert outer.tolist() == [[0, 0], [6, 0], [6, 5], [0, 5]]
    assert len(contours(np.eye(3, dtype=bool))) == 3  # pixels meeting at a corner are parts of their own
    assert contours(np.zeros((4, 4), bool)) == []
    assert contours(np.zeros((0, 0), bool)) == []
