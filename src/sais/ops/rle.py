"""COCO run-length encoding (RLE) of masks; compressed strings are identical to those of pycocotools. Numpy only.

An RLE is ``{"size": [H, W], "counts": ...}``. The counts are the lengths of the runs of 0, 1, 0, 1, ... down the
columns, starting with 0 (the first count is 0 where the first pixel is set). They are a list (uncompressed) or a string
(compressed): each count after the third is stored as the difference to the count two before, in groups of five bits,
lowest group first, with bit 5 set if another group follows, plus 48 to be printable.

Malformed input raises ValueError; callers name the file. R is the number of runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sais import input_limits

_MAX_GROUPS = 12
"""Maximum number of five-bit groups of a count: 60 bits, more than any image needs, without overflow of int64."""
_CHUNK_PIXELS = 2**22
"""Number of pixels decoded at once."""


def encode(mask: np.ndarray) -> dict[str, Any]:
    """Encode a mask (H, W) bool as ``{"size": [H, W], "counts": str}``."""
    if mask.ndim != 2:
        raise ValueError(f"mask: expected two dimensions, got shape {mask.shape}")
    return encode_cropped(mask, 0, 0, (mask.shape[0], mask.shape[1]))


def encode_cropped(bits: np.ndarray, x: int, y: int, size: tuple[int, int]) -> dict[str, Any]:
    """Encode a mask given by a crop, without creating the full mask.

    Args:
        bits: (h, w) bool, the crop; the mask is empty outside it.
        x: Left column of the crop in the image.
        y: Top row of the crop in the image.
        size: (H, W) of the image.

    Returns:
        ``{"size": [H, W], "counts": str}``.

    Raises:
        ValueError: The crop is not two-dimensional or extends beyond the image.
    """
    counts = _cropped_counts(bits, x, y, size)
    return {"size": [int(size[0]), int(size[1])], "counts": to_string(counts)}


def _cropped_counts(bits: np.ndarray, x: int, y: int, size: tuple[int, int]) -> np.ndarray:
    if bits.ndim != 2:
        raise ValueError(f"cropped mask: expected two dimensions, got shape {bits.shape}")
    (h, w), (height, width) = bits.shape, size
    if x < 0 or y < 0 or x + w > width or y + h > height:
        raise ValueError(
            f"cropped mask: {h} x {w} at row {y}, column {x} extends beyond the image of {height} x {width}"
        )
    # One empty pixel at the start and below each column: every run starts and ends inside its column.
    padded = np.zeros(1 + w * (h + 1), dtype=bool)
    padded[1:].reshape(w, h + 1)[:, :h] = bits.T
    column, row = np.divmod(np.flatnonzero(padded[1:] != padded[:-1]), h + 1)
    edges = (x + column) * height + y + row  # start, end, start, end, ...
    if h == height and len(edges) > 2:  # a run that ends in the last row may continue at the top of the next column
        joined = np.flatnonzero(edges[1:-1:2] == edges[2::2])
        edges = np.delete(edges, np.concatenate([2 * joined + 1, 2 * joined + 2]))
    counts = np.diff(edges, prepend=0, append=height * width)
    return counts[:-1] if len(counts) > 1 and counts[-1] == 0 else counts


def decode(rle: dict[str, Any]) -> np.ndarray:
    """Decode a compressed or uncompressed RLE to a mask (H, W) bool.

    Raises:
        ValueError: The RLE is malformed, its counts do not add up to H * W, or it has too many pixels.
    """
    (height, width), counts = parse(rle)
    _check_pixels(height * width)
    values = np.arange(len(counts)) % 2 == 1
    return np.ascontiguousarray(np.repeat(values, counts).reshape(width, height).T)


def decode_cropped(rle: dict[str, Any]) -> tuple[np.ndarray, int, int]:
    """Decode an RLE to the tight crop of its set pixels; memory O(R + h * w).

    Returns:
        The crop (h, w) bool, its left column x and its top row y; an empty mask gives (0, 0) at 0, 0.

    Raises:
        ValueError: As for `decode`.
    """
    (height, _), counts = parse(rle)
    starts, ends = _filled_runs(counts)
    left, top, right, bottom = _extent(starts, ends, height)
    _check_pixels((right - left) * (bottom - top))
    if (right - left) * height <= _CHUNK_PIXELS:
        columns = _decode_columns(starts, ends, left, right, height)
        return np.ascontiguousarray(columns[:, top:bottom].T), left, top
    bits = np.empty((bottom - top, right - left), dtype=bool)
    step = max(1, _CHUNK_PIXELS // height)
    for first in range(left, right, step):
        last = min(first + step, right)
        # Runs that reach into these columns, cut to them.
        runs = slice(np.searchsorted(ends, first * height, "right"), np.searchsorted(starts, last * height))
        inner = starts[runs].clip(first * height), ends[runs].clip(None, last * height)
        bits[:, first - left : last - left] = _decode_columns(*inner, first, last, height)[:, top:bottom].T
    return bits, left, top


def bounds(rle: dict[str, Any]) -> tuple[int, int, int, int]:
    """Return x1 y1 x2 y2 of the set pixels of an RLE without decoding it; zeros for an empty mask.

    Raises:
        ValueError: The RLE is malformed.
    """
    (height, _), counts = parse(rle)
    return _extent(*_filled_runs(counts), height)


def _filled_runs(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return starts and ends (n,) of the runs of set pixels of counts (R,); counts of 0 are valid."""
    edges = np.cumsum(counts)
    starts, ends = edges[0:-1:2], edges[1::2]
    filled = ends > starts
    return starts[filled], ends[filled]


def _extent(starts: np.ndarray, ends: np.ndarray, height: int) -> tuple[int, int, int, int]:
    """Return x1 y1 x2 y2 of runs (n,) in columns of `height` pixels."""
    if len(starts) == 0:
        return 0, 0, 0, 0
    first, top = np.divmod(starts, height)
    last, bottom = np.divmod(ends - 1, height)
    left, right = int(first[0]), int(last[-1]) + 1
    if (last > first).any():  # a run over the end of a column
        return left, 0, right, height
    return left, int(top.min()), right, int(bottom.max()) + 1


def _decode_columns(starts: np.ndarray, ends: np.ndarray, first: int, last: int, height: int) -> np.ndarray:
    """Decode runs (n,) that are in the columns `first` to `last`, end exclusive: (columns, height) bool."""
    runs = np.stack([starts, ends], 1).ravel() - first * height
    lengths = np.diff(runs, prepend=0, append=(last - first) * height)
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(last - first, height)


def _check_pixels(pixels: int) -> None:
    limit = input_limits.MAX_BITMAP_PIXELS
    if pixels > limit:
        raise ValueError(f"RLE: a mask of {pixels} pixels, above the limit of {limit}")


def area(rle: dict[str, Any]) -> int:
    """Return the number of set pixels of an RLE.

    Raises:
        ValueError: As for `decode`.
    """
    return int(parse(rle)[1][1::2].sum())


def parse(rle: dict[str, Any]) -> tuple[tuple[int, int], np.ndarray]:
    """Return the size (H, W) and the counts (R,) int64 of a compressed or uncompressed RLE.

    Raises:
        ValueError: Keys are missing, counts are negative or malformed, or they do not add up to H * W.
    """
    try:
        height, width = (int(side) for side in rle["size"])
        counts = rle["counts"]
    except (KeyError, TypeError, ValueError, OverflowError):
        raise ValueError("RLE: 'size' [height, width] or 'counts' is missing") from None
    if isinstance(counts, (str, bytes)):
        runs = from_string(counts)
    else:
        try:
            runs = np.asarray(counts)
        except ValueError:
            raise ValueError("RLE: counts are not a flat list") from None
        # Converted files often contain whole numbers written as 12.0; NaN and fractions are invalid.
        if runs.ndim != 1 or runs.dtype.kind not in "iuf" or (runs.size and not np.all(runs == np.floor(runs))):
            raise ValueError("RLE: counts are not a flat list of whole numbers")
        runs = runs.astype(np.int64)
    if height < 0 or width < 0 or (runs < 0).any():
        raise ValueError("RLE: negative size or count")
    total = sum(runs.tolist())  # numpy's sum could overflow to the expected value
    if total != height * width:
        raise ValueError(
            f"RLE: counts add up to {total} pixels, expected {height * width} for the size {height} x {width}"
        )
    return (height, width), runs


def with_integers(rle: dict[str, Any]) -> dict[str, Any]:
    """Return an RLE whose size and counts are integers and text; the RLE itself if they are already.

    A round trip through tables or MATLAB writes 12 as 12.0, and `pycocotools.mask.encode` returns bytes. The evaluator
    takes neither.

    Args:
        rle: ``{"size": [H, W], "counts": counts}`` with a list or array (R,), text or bytes.

    Raises:
        ValueError: Keys are missing, or a number is not whole.
    """
    try:
        size, counts = rle["size"], rle["counts"]
        total = sum(size)
    except (KeyError, TypeError):
        raise ValueError("RLE: 'size' [height, width] or 'counts' is missing") from None
    if isinstance(counts, str):
        if type(total) is int:
            return rle
    elif isinstance(counts, bytes):
        counts = counts.decode("ascii", "replace")
    else:
        try:
            # The sum of numbers is an integer only if all are; the fastest check.
            if isinstance(counts, list) and type(sum(counts)) is int and type(total) is int:
                return rle
            counts = [_whole(count) for count in counts]
        except TypeError:
            raise ValueError("RLE: counts are not a flat list of whole numbers") from None
    return {"size": [_whole(side) for side in size], "counts": counts}


def _whole(value: Any) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"RLE: {value!r} is not a whole number") from None
    if number != value:
        raise ValueError(f"RLE: {value!r} is not a whole number")
    return number


def to_string(counts: np.ndarray | Sequence[int]) -> str:
    """Compress counts (R,) to the string of COCO."""
    counts = np.asarray(counts, dtype=np.int64)
    differences = counts.copy()
    differences[3:] -= counts[1:-2]
    # A signed number fits n groups if it is in [-2^(5n-1), 2^(5n-1)); ~d mirrors negative numbers.
    magnitude = np.where(differences < 0, ~differences, differences)
    max_groups = 1
    while magnitude.size and int(magnitude.max()) >= 1 << (5 * max_groups - 1):
        max_groups += 1
    limits = np.left_shift(np.int64(1), 5 * np.arange(1, max_groups, dtype=np.int64) - 1)
    groups = 1 + np.searchsorted(limits, magnitude, side="right")  # (R,)
    order = np.arange(max_groups)
    parts = (differences[:, None] >> (5 * order)) & 0x1F  # (R, max_groups)
    parts |= (order < groups[:, None] - 1) << 5
    return bytes((parts[order < groups[:, None]] + 48).astype(np.uint8)).decode("ascii")


def from_string(text: str | bytes) -> np.ndarray:
    """Decompress a string of COCO to counts (R,) int64.

    Raises:
        ValueError: The string has an invalid character or is truncated.
    """
    try:
        raw = text.encode("ascii") if isinstance(text, str) else text
    except UnicodeEncodeError:
        raise ValueError("RLE: invalid character in the compressed counts") from None
    codes = np.frombuffer(raw, dtype=np.uint8).astype(np.int64) - 48
    if len(codes) == 0:
        return codes
    if codes.min() < 0 or codes.max() > 0x3F:
        raise ValueError("RLE: invalid character in the compressed counts")
    last = np.flatnonzero(codes & 0x20 == 0)  # where each number ends
    if len(last) == 0 or last[-1] != len(codes) - 1:
        raise ValueError("RLE: the compressed counts are truncated")
    first = np.concatenate([[0], last[:-1] + 1])
    lengths = last - first + 1
    if lengths.max() > _MAX_GROUPS:
        raise ValueError("RLE: a count is too large for any image")
    order = np.arange(len(codes)) - np.repeat(first, lengths)
    counts = np.add.reduceat((codes & 0x1F) << (5 * order), first)
    counts -= ((codes[last] >> 4) & 1) << (5 * lengths)  # sign
    counts[1::2] = np.cumsum(counts[1::2])  # from index 3 on, differences to the count two before
    counts[2::2] = np.cumsum(counts[2::2])
    return counts
