"""COCO run lengths: masks as runs of pixels, column by column, in exactly the compressed strings of pycocotools.

A run-length mask is ``{"size": [H, W], "counts": ...}``. The counts are the lengths of the runs of 0, 1, 0, 1, ...
going down the columns, starting with 0 (a first count of 0 where the first pixel is set). They come as a list
(uncompressed) or as text (compressed): each count but the first three is written as its difference to the one two
before, in groups of five bits, lowest first, bit 5 saying that more follow, plus 48 to be printable.

Numpy only. Malformed input raises ValueError; the callers know which file to name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

_MOST_GROUPS = 12
"""Groups of five bits of one count: 60 bits, more than any image needs, and no overflow of int64."""


def encode(mask: np.ndarray) -> dict[str, Any]:
    """The run lengths of mask (H, W) bool: ``{"size": [H, W], "counts": str}``."""
    if mask.ndim != 2:
        raise ValueError(f"a mask has two dimensions, got shape {mask.shape}")
    return encode_patch(mask, 0, 0, (mask.shape[0], mask.shape[1]))


def encode_patch(bits: np.ndarray, x: int, y: int, size: tuple[int, int]) -> dict[str, Any]:
    """The run lengths of a whole image that is empty but for one patch, without ever making the image.

    Args:
        bits: (h, w) bool, the patch.
        x: column of the patch's left pixels in the image.
        y: row of the patch's top pixels in the image.
        size: (H, W) of the image.

    Returns:
        ``{"size": [H, W], "counts": str}``.

    Raises:
        ValueError: the patch is not two-dimensional or reaches beyond the image.
    """
    counts = _patch_counts(bits, x, y, size)
    return {"size": [int(size[0]), int(size[1])], "counts": to_string(counts)}


def _patch_counts(bits: np.ndarray, x: int, y: int, size: tuple[int, int]) -> np.ndarray:
    if bits.ndim != 2:
        raise ValueError(f"a patch has two dimensions, got shape {bits.shape}")
    (h, w), (height, width) = bits.shape, size
    if x < 0 or y < 0 or x + w > width or y + h > height:
        raise ValueError(f"a patch of {h} x {w} at row {y}, column {x} reaches beyond an image of {height} x {width}")
    # One empty pixel before everything and below each column: every run starts and ends inside its column.
    padded = np.zeros(1 + w * (h + 1), dtype=bool)
    padded[1:].reshape(w, h + 1)[:, :h] = bits.T
    column, row = np.divmod(np.flatnonzero(padded[1:] != padded[:-1]), h + 1)
    edges = (x + column) * height + y + row  # start, end, start, end, ...
    if h == height and len(edges) > 2:  # a run down to the last row may go on at the top of the next column
        joined = np.flatnonzero(edges[1:-1:2] == edges[2::2])
        edges = np.delete(edges, np.concatenate([2 * joined + 1, 2 * joined + 2]))
    counts = np.diff(edges, prepend=0, append=height * width)
    return counts[:-1] if len(counts) > 1 and counts[-1] == 0 else counts


def decode(rle: dict[str, Any]) -> np.ndarray:
    """The mask (H, W) bool of run lengths, compressed or not.

    Raises:
        ValueError: no run lengths, or their sum is not H * W.
    """
    (height, width), counts = parse(rle)
    values = np.arange(len(counts)) % 2 == 1
    return np.ascontiguousarray(np.repeat(values, counts).reshape(width, height).T)


def decode_patch(rle: dict[str, Any]) -> tuple[np.ndarray, int, int]:
    """The tight crop (h, w) bool of the mask's set pixels with its left column x and top row y; memory O(H * w).

    An empty mask gives a patch of (0, 0) at 0, 0.

    Raises:
        ValueError: as `decode`.
    """
    (height, _), counts = parse(rle)
    edges = np.cumsum(counts)
    starts, ends = edges[0:-1:2], edges[1::2]
    filled = ends > starts  # counts of 0 are allowed inside
    starts, ends = starts[filled], ends[filled]
    if len(starts) == 0:
        return np.zeros((0, 0), dtype=bool), 0, 0
    left, right = int(starts[0]) // height, (int(ends[-1]) - 1) // height + 1
    runs = np.stack([starts, ends], 1).ravel() - left * height
    lengths = np.diff(runs, prepend=0, append=(right - left) * height)
    values = np.arange(len(lengths)) % 2 == 1
    columns = np.repeat(values, lengths).reshape(right - left, height)
    rows = np.flatnonzero(columns.any(0))
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    return np.ascontiguousarray(columns[:, top:bottom].T), left, top


def area(rle: dict[str, Any]) -> int:
    """How many pixels of the mask are set.

    Raises:
        ValueError: as `decode`.
    """
    return int(parse(rle)[1][1::2].sum())


def parse(rle: dict[str, Any]) -> tuple[tuple[int, int], np.ndarray]:
    """The size (H, W) and the counts, int64 (R,), of run lengths, compressed or not.

    Raises:
        ValueError: keys are missing, counts are negative or malformed, or their sum is not H * W.
    """
    try:
        height, width = (int(side) for side in rle["size"])
        counts = rle["counts"]
    except (KeyError, TypeError, ValueError):
        raise ValueError("run lengths need 'size' [height, width] and 'counts'") from None
    if isinstance(counts, (str, bytes)):
        runs = from_string(counts)
    else:
        try:
            runs = np.asarray(counts)
        except ValueError:
            raise ValueError("run lengths: counts are not a flat list") from None
        # Whole numbers written as 12.0 are common in converted files; NaN and halves are not whole.
        if runs.ndim != 1 or runs.dtype.kind not in "iuf" or (runs.size and not np.all(runs == np.floor(runs))):
            raise ValueError("run lengths: counts are not a flat list of whole numbers")
        runs = runs.astype(np.int64)
    if height < 0 or width < 0 or (runs < 0).any():
        raise ValueError("run lengths: negative size or count")
    total = sum(runs.tolist())  # numpy's sum could overflow and come out right
    if total != height * width:
        raise ValueError(f"run lengths add up to {total} pixels, the size {height} x {width} has {height * width}")
    return (height, width), runs


def to_string(counts: np.ndarray | Sequence[int]) -> str:
    """Counts (R,) in the compressed text of COCO."""
    counts = np.asarray(counts, dtype=np.int64)
    differences = counts.copy()
    differences[3:] -= counts[1:-2]
    # A signed number fits n groups when it lies in [-2^(5n-1), 2^(5n-1)); ~d mirrors the negative side.
    magnitude = np.where(differences < 0, ~differences, differences)
    most = 1
    while magnitude.size and int(magnitude.max()) >= 1 << (5 * most - 1):
        most += 1
    limits = np.left_shift(np.int64(1), 5 * np.arange(1, most, dtype=np.int64) - 1)
    groups = 1 + np.searchsorted(limits, magnitude, side="right")  # (R,)
    order = np.arange(most)
    parts = (differences[:, None] >> (5 * order)) & 0x1F  # (R, most)
    parts |= (order < groups[:, None] - 1) << 5
    return bytes((parts[order < groups[:, None]] + 48).astype(np.uint8)).decode("ascii")


def from_string(text: str | bytes) -> np.ndarray:
    """The counts, int64 (R,), of a compressed text.

    Raises:
        ValueError: a character outside the format, or a text cut short.
    """
    try:
        raw = text.encode("ascii") if isinstance(text, str) else text
    except UnicodeEncodeError:
        raise ValueError("run lengths: a character that is not of the compressed format") from None
    codes = np.frombuffer(raw, dtype=np.uint8).astype(np.int64) - 48
    if len(codes) == 0:
        return codes
    if codes.min() < 0 or codes.max() > 0x3F:
        raise ValueError("run lengths: a character that is not of the compressed format")
    last = np.flatnonzero(codes & 0x20 == 0)  # where each number ends
    if len(last) == 0 or last[-1] != len(codes) - 1:
        raise ValueError("run lengths: the compressed text is cut short")
    first = np.concatenate([[0], last[:-1] + 1])
    lengths = last - first + 1
    if lengths.max() > _MOST_GROUPS:
        raise ValueError("run lengths: a count too large for any image")
    order = np.arange(len(codes)) - np.repeat(first, lengths)
    counts = np.add.reduceat((codes & 0x1F) << (5 * order), first)
    counts -= ((codes[last] >> 4) & 1) << (5 * lengths)  # sign
    counts[1::2] = np.cumsum(counts[1::2])  # index 3 on is a difference to two before; 1 and 2 stand alone
    counts[2::2] = np.cumsum(counts[2::2])
    return counts
