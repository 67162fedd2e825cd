"""Objects that are partly hidden: where the whole object is, given the part of it that a frame shows.

The box of a visible part moves and shrinks with whatever is in front, so that a filter of such boxes learns a motion
that is not the object's. Here the mask that is remembered of the object is moved until it explains the frame: its
pixels should be those of the detection, or be hidden by other detections or outside of the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sais.ops.numpy_boxes import Window, intersect_windows, is_empty
from sais.results.cropped_mask import CroppedMask
from sais.results.mask_ops import mask_window, union

PART = 0.8
"""Fraction of the area of the whole object below which a detection is a part of it."""
TOUCHING_PART = 0.98
"""The same for a detection next to others: what is hidden a little more in each frame stays a part."""
MIN_HIDDEN = 0.05
"""Fraction of the object's pixels above which hidden pixels are added to a detection."""
BORDER = 4.5
"""The same in square roots of the object's area: about a pixel all along its border, which is not exact."""
EXPLAINED = 0.5
"""Fraction of the missing pixels that must be hidden; else why the object is smaller is not known."""
REACH = 10
"""Maximum distance of the object from where it is expected, in steps of `_stride` pixels."""
MAX_SIDE = 128
"""Number of steps in a side of a mask; larger masks are compared at every second, third, ... pixel."""


@dataclass(frozen=True)
class HiddenObject:
    """An object of which a detection is a part."""

    move: tuple[int, int]
    """x y from where the object was expected to where it is, in pixels."""
    mask: CroppedMask | None
    """The detection and the hidden pixels that are remembered. None if these are few, or if most missing pixels are not
    hidden: the remembered mask is better then."""


def find_hidden(
    whole: CroppedMask, part: CroppedMask, others: Sequence[CroppedMask], size: tuple[int, int]
) -> HiddenObject | None:
    """Return where an object is of which a detection may be a part; None if the detection is the whole object.

    Args:
        whole: Remembered mask of the object, where it is expected; parts may be outside of the image.
        part: Mask of the detection.
        others: Masks of the other detections of the frame.
        size: (H, W) of the image.
    """
    area, visible = whole.area, part.area
    near = [other for other in others if not is_empty(intersect_windows(mask_window(whole), mask_window(other)))]
    if visible >= (TOUCHING_PART if near else PART) * area:
        return None
    if not visible:
        return HiddenObject((0, 0), None)
    x, y = move = _best_move(whole, part, others, size)
    moved = whole.shift(x, y)
    window = mask_window(moved)
    hidden = np.ones(moved.shape, bool)  # outside of the image
    _region(hidden, window, (0, 0, size[1], size[0]))[:] = False
    for other in others:
        _paint(hidden, window, other, True)
    covered = np.zeros(moved.shape, bool)
    _paint(covered, window, part, True)
    missing = moved.bits & ~covered
    hidden &= missing
    count = int(np.count_nonzero(hidden))
    if count <= max(MIN_HIDDEN * area, BORDER * np.sqrt(area)) or count < EXPLAINED * np.count_nonzero(missing):
        return HiddenObject(move, None)
    return HiddenObject(move, union([part, _trimmed(CroppedMask(moved.x, moved.y, hidden))]))


def _best_move(
    whole: CroppedMask, part: CroppedMask, others: Sequence[CroppedMask], size: tuple[int, int]
) -> tuple[int, int]:
    """Return the move x y of `whole` in pixels that explains a frame best; arguments as for `find_hidden`.

    A pixel of the object counts 2 on the detection (which must be covered, and not by the background), -1 on the
    background, and 0 where others hide it or outside of the image. Between moves of about the same count, the shorter
    one wins.
    """
    height, width = whole.shape
    stride = _stride(whole.shape)
    reach = REACH * stride
    window = (whole.x - reach, whole.y - reach, whole.x + width + reach, whole.y + height + reach)
    gain = np.zeros((height + 2 * reach, width + 2 * reach), np.float32)
    _region(gain, window, (0, 0, size[1], size[0]))[:] = -1
    for other in others:
        _paint(gain, window, other, 0)
    _paint(gain, window, part, 2)
    gain, bits = gain[::stride, ::stride], whole.bits[::stride, ::stride]
    # The correlation of both: the sum of the gains of the object's pixels for each move.
    spectrum = np.fft.rfft2(gain) * np.conj(np.fft.rfft2(bits, gain.shape))
    steps = np.arange(-REACH, REACH + 1)
    total = np.fft.irfft2(spectrum, gain.shape)[: len(steps), : len(steps)]
    distance = (steps[:, None] ** 2 + steps**2) / REACH**2
    row, column = divmod(int((total - distance * np.sqrt(part.area) / stride).argmax()), len(steps))
    return int(steps[column]) * stride, int(steps[row]) * stride


def _stride(shape: tuple[int, int]) -> int:
    """Return the number of pixels of a step, for a mask of a shape (h, w)."""
    return -(-max(shape) // MAX_SIDE)


def _region(grid: np.ndarray, window: Window, part: Window) -> np.ndarray:
    """Return the view of a grid (h, w), which covers `window` of an image, that is in another window."""
    x1, y1, x2, y2 = intersect_windows(window, part)
    return grid[y1 - window[1] : max(y1, y2) - window[1], x1 - window[0] : max(x1, x2) - window[0]]


def _paint(grid: np.ndarray, window: Window, mask: CroppedMask, value: float) -> None:
    """Set the pixels of a mask in a grid (h, w), which covers `window` of the image."""
    common = intersect_windows(window, mask_window(mask))
    if not is_empty(common):
        x1, y1, x2, y2 = common
        bits = mask.bits[y1 - mask.y : y2 - mask.y, x1 - mask.x : x2 - mask.x]
        _region(grid, window, common)[bits] = value


def _trimmed(mask: CroppedMask) -> CroppedMask:
    """Return a mask with at least one pixel in its smallest window."""
    bits = mask.bits
    rows, columns = np.flatnonzero(bits.any(1)), np.flatnonzero(bits.any(0))
    crop = bits[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return CroppedMask(mask.x + int(columns[0]), mask.y + int(rows[0]), crop)
