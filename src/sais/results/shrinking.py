"""Detections at a smaller scale, for previews of large images."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from sais.results.cropped_mask import CroppedMask

if TYPE_CHECKING:
    from sais.results.detections import Detections


def shrunk_size(image_size: tuple[int, int], max_side: int | None) -> tuple[int, int]:
    """Return the size (H, W) of an image whose longer side has at most `max_side` pixels; None for no limit."""
    longer = max(image_size)
    if max_side is None or longer <= max_side:
        return image_size
    height, width = (max(1, round(side * max_side / longer)) for side in image_size)
    return height, width


def shrink_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return an image (H, W, 3) uint8 at a smaller size (h, w); the image itself if that is its size."""
    if image.shape[:2] == size:
        return image
    # reducing_gap averages whole blocks first: five times as fast for photographs of 12 megapixels.
    small = Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return np.asarray(small)


def shrink(detections: Detections, size: tuple[int, int]) -> Detections:
    """Return detections in the image at a smaller size (h, w), without the image.

    A pixel is in a mask if the pixel of the large image at its center is. Of a mask that would have none, the pixel at
    its center remains: small objects do not disappear from drawings of large images.

    Args:
        detections: D detections.
        size: (h, w), each at most that of the image.
    """
    if detections.image_size == size:
        return detections
    scale_y, scale_x = size[0] / detections.image_size[0], size[1] / detections.image_size[1]
    boxes = detections.boxes * np.array([scale_x, scale_y, scale_x, scale_y], np.float32)
    masks = [_shrink_mask(mask, scale_x, scale_y) for mask in detections.cropped_masks]
    return replace(detections, image_size=size, boxes=boxes, cropped_masks=masks, image=None)


def _shrink_mask(mask: CroppedMask, scale_x: float, scale_y: float) -> CroppedMask:
    (height, width), bits = mask.shape, mask.bits
    x, columns = _samples(mask.x, width, scale_x)
    y, rows = _samples(mask.y, height, scale_y)
    small = bits[rows][:, columns]
    if not small.any() and bits.any():
        x, y = int((mask.x + width / 2) * scale_x), int((mask.y + height / 2) * scale_y)
        small = np.ones((1, 1), bool)
    return CroppedMask(x, y, small)


def _samples(start: int, length: int, scale: float) -> tuple[int, np.ndarray]:
    """Return the first small pixel whose center is in a window, and the indices (n,) of their centers in the window."""
    first, end = int(np.ceil(start * scale - 0.5)), int(np.ceil((start + length) * scale - 0.5))
    first = max(0, first)
    centers = np.floor((np.arange(first, max(first, end)) + 0.5) / scale).astype(np.int64) - start
    return first, centers.clip(0, max(0, length - 1))
