"""Arithmetic on box-local masks: what two have in common, several united, several voted on. Numpy only.

Every result is as large as the window it is about, never as the image. A window is ``x1 y1 x2 y2`` in whole pixels of
the image, end exclusive; one without pixels has x2 <= x1 or y2 <= y1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sais.results.cropped_mask import CroppedMask

Window = tuple[int, int, int, int]


def mask_window(patch: CroppedMask) -> Window:
    """The pixels that a patch speaks of; outside of them its object is not."""
    height, width = patch.shape
    return patch.x, patch.y, patch.x + width, patch.y + height


def intersect_windows(first: Window, second: Window) -> Window:
    """The pixels of both windows."""
    return max(first[0], second[0]), max(first[1], second[1]), min(first[2], second[2]), min(first[3], second[3])


def is_empty(window: Window) -> bool:
    """Whether a window has no pixel."""
    return window[2] <= window[0] or window[3] <= window[1]


def count_pixels(patch: CroppedMask, window: Window) -> int:
    """How many pixels of the object lie in the window."""
    inside = intersect_windows(mask_window(patch), window)
    return 0 if is_empty(inside) else int(np.count_nonzero(_cut(patch, inside)))


def intersection_area(first: CroppedMask, second: CroppedMask, window: Window | None = None) -> int:
    """How many pixels both objects have; with a window, how many there."""
    inside = intersect_windows(mask_window(first), mask_window(second))
    if window is not None:
        inside = intersect_windows(inside, window)
    return 0 if is_empty(inside) else int(np.count_nonzero(_cut(first, inside) & _cut(second, inside)))


def union(patches: Sequence[CroppedMask]) -> CroppedMask:
    """One object of the pixels of all, in the smallest window around them.

    Args:
        patches: at least one.
    """
    window = _hull(patches)
    bits = np.zeros((window[3] - window[1], window[2] - window[0]), bool)
    for patch in patches:
        if is_empty(mask_window(patch)):
            continue
        part = _place(bits, window, patch)
        part |= patch.bits
    return CroppedMask(window[0], window[1], bits)


def vote(patches: Sequence[CroppedMask], weights: Sequence[float]) -> CroppedMask:
    """The pixels that at least half of the weight votes for, in the smallest window around all patches.

    Half is enough, so that of two equal votes neither is lost: a pixel too many costs as much IoU as one too few.

    Args:
        patches: at least one; outside its window a patch votes against.
        weights: one for each, positive.
    """
    window = _hull(patches)
    votes = np.zeros((window[3] - window[1], window[2] - window[0]), np.float32)
    for patch, weight in zip(patches, weights, strict=True):
        if is_empty(mask_window(patch)):
            continue
        part = _place(votes, window, patch)
        part += np.float32(weight) * patch.bits
    # In single precision a sum of many weights ends a little beside its true value: a vote of half is still half.
    half = 0.5 * float(np.sum(weights, dtype=np.float64)) * (1 - 1e-6)
    return CroppedMask(window[0], window[1], votes >= half)


def hflip(patch: CroppedMask, width: int) -> CroppedMask:
    """The patch in the image of that width seen in a mirror: left is right."""
    return CroppedMask(width - patch.x - patch.shape[1], patch.y, patch.bits[:, ::-1])


def _hull(patches: Sequence[CroppedMask]) -> Window:
    """The smallest window around all patches that have a pixel; that of the first where none has."""
    windows = [mask_window(p) for p in patches if not is_empty(mask_window(p))] or [mask_window(patches[0])]
    x1, y1, x2, y2 = zip(*windows, strict=True)
    return min(x1), min(y1), max(x2), max(y2)


def _cut(patch: CroppedMask, window: Window) -> np.ndarray:
    """The bits of a window that lies in the patch's."""
    x1, y1, x2, y2 = window
    return patch.bits[y1 - patch.y : y2 - patch.y, x1 - patch.x : x2 - patch.x]


def _place(array: np.ndarray, window: Window, patch: CroppedMask) -> np.ndarray:
    """The part of an array over `window` where the patch lies."""
    (height, width), y, x = patch.shape, patch.y - window[1], patch.x - window[0]
    return array[y : y + height, x : x + width]
