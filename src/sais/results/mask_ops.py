"""Operations on box-local masks: intersection, union, majority vote and mirroring. Numpy only.

Every result is as large as the masks' common window, never as large as the image.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sais.ops.numpy_boxes import Window, intersect_windows, is_empty
from sais.results.cropped_mask import CroppedMask


def mask_window(mask: CroppedMask) -> Window:
    """Return the window of the image that a mask covers; outside it the mask is empty."""
    height, width = mask.shape
    return mask.x, mask.y, mask.x + width, mask.y + height


def count_pixels(mask: CroppedMask, window: Window) -> int:
    """Return the number of the mask's pixels in a window."""
    common = intersect_windows(mask_window(mask), window)
    return 0 if is_empty(common) else int(np.count_nonzero(_crop(mask, common)))


def intersection_area(first: CroppedMask, second: CroppedMask, window: Window | None = None) -> int:
    """Return the number of pixels that two masks share, in a window or in the whole image."""
    common = intersect_windows(mask_window(first), mask_window(second))
    if window is not None:
        common = intersect_windows(common, window)
    return 0 if is_empty(common) else int(np.count_nonzero(_crop(first, common) & _crop(second, common)))


def union(masks: Sequence[CroppedMask]) -> CroppedMask:
    """Return the union of at least one mask, in the smallest window that contains all of them."""
    window = _enclosing_window(masks)
    bits = np.zeros((window[3] - window[1], window[2] - window[0]), bool)
    for mask in masks:
        if is_empty(mask_window(mask)):
            continue
        region = _region(bits, window, mask)
        region |= mask.bits
    return CroppedMask(window[0], window[1], bits)


def majority_vote(masks: Sequence[CroppedMask], weights: Sequence[float]) -> CroppedMask:
    """Return the pixels with at least half of the total weight, in the smallest window that contains all masks.

    Half is sufficient, so that of two masks with equal weights neither is lost: an extra pixel costs as much IoU as a
    missing pixel.

    Args:
        masks: N masks, at least one; a mask votes against all pixels outside its window.
        weights: N positive weights.
    """
    window = _enclosing_window(masks)
    votes = np.zeros((window[3] - window[1], window[2] - window[0]), np.float32)
    for mask, weight in zip(masks, weights, strict=True):
        if is_empty(mask_window(mask)):
            continue
        region = _region(votes, window, mask)
        region += np.float32(weight) * mask.bits
    # The float32 sum of many weights differs slightly from its true value; the tolerance still accepts exactly half.
    half = 0.5 * float(np.sum(weights, dtype=np.float64)) * (1 - 1e-6)
    return CroppedMask(window[0], window[1], votes >= half)


def hflip(mask: CroppedMask, width: int) -> CroppedMask:
    """Mirror a mask left to right in an image of `width` pixels."""
    return CroppedMask(width - mask.x - mask.shape[1], mask.y, mask.bits[:, ::-1])


def dense_masks(masks: Sequence[CroppedMask], size: tuple[int, int]) -> np.ndarray:
    """Return D masks at the size (H, W) of their image, (D, H, W) bool."""
    stack = np.zeros((len(masks), *size), dtype=bool)
    for dense, mask in zip(stack, masks, strict=True):
        height, width = mask.shape
        dense[mask.y : mask.y + height, mask.x : mask.x + width] = mask.bits
    return stack


def _enclosing_window(masks: Sequence[CroppedMask]) -> Window:
    """Return the smallest window around all non-empty windows; that of the first mask if all are empty."""
    windows = [mask_window(mask) for mask in masks if not is_empty(mask_window(mask))] or [mask_window(masks[0])]
    x1, y1, x2, y2 = zip(*windows, strict=True)
    return min(x1), min(y1), max(x2), max(y2)


def _crop(mask: CroppedMask, window: Window) -> np.ndarray:
    """Return the bits (h, w) in a window that is inside the mask's window."""
    x1, y1, x2, y2 = window
    return mask.bits[y1 - mask.y : y2 - mask.y, x1 - mask.x : x2 - mask.x]


def _region(array: np.ndarray, window: Window, mask: CroppedMask) -> np.ndarray:
    """Return the view (h, w) of an array over `window` that corresponds to the mask's window."""
    (height, width), y, x = mask.shape, mask.y - window[1], mask.x - window[0]
    return array[y : y + height, x : x + width]
