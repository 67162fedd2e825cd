"""Parts of an image with one object each: rectangular crops, and cutouts with transparency."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sais.errors import ConfigError, InputError
from sais.ops.numpy_boxes import Window, is_empty, window_slices
from sais.results.mask_ops import mask_window
from sais.results.selection import pixel_window

if TYPE_CHECKING:
    from sais.results.detections import Detections


def find_image(detections: Detections, image: Any = None) -> np.ndarray:
    """Return the image of detections, (H, W, 3) uint8 RGB: the given one, or the one that they refer to.

    Args:
        detections: The detections.
        image: Path, Pillow image, array (H, W, 3) or others that `sais.io.images.as_image` converts; None for
            `detections.image`.

    Raises:
        InputError: There is no image, it cannot be read, or it has another size.
    """
    image = detections.image if image is None else image
    if image is None:
        raise InputError("detections: no image. Give it as an argument, or predict with keep_image=True.")
    from sais.io.images import LARGE_IMAGE_PIXELS, as_image

    array = as_image(image, LARGE_IMAGE_PIXELS)
    if array.shape[:2] != detections.image_size:
        raise InputError(
            f"detections: image of {array.shape[:2]} for detections in an image of {detections.image_size} (H, W). "
            "Give the image that was predicted."
        )
    return array


def crop(detections: Detections, image: Any = None, margin: int = 0) -> list[np.ndarray]:
    """Return the part of the image around each object.

    Args:
        detections: D detections.
        image: As for `find_image`.
        margin: Pixels around the box and the mask, where the image has them.

    Returns:
        D copies (h, w, 3) uint8 RGB.

    Raises:
        ConfigError: The margin is negative.
        InputError: There is no image.
    """
    array = find_image(detections, image)
    return [array[window_slices(window)].copy() for window in object_windows(detections, margin)]


def cutouts(detections: Detections, image: Any = None, margin: int = 0) -> list[np.ndarray]:
    """Return each object on a transparent background.

    Args:
        detections: D detections.
        image: As for `find_image`.
        margin: Pixels around the box and the mask, where the image has them.

    Returns:
        D arrays (h, w, 4) uint8 RGBA with the alpha 255 at the pixels of the mask and 0 elsewhere, of the same parts
        of the image as `crop`. The colors of transparent pixels are those of the image.

    Raises:
        ConfigError: The margin is negative.
        InputError: There is no image, or the model has no masks.
    """
    if len(detections) and not detections.cropped_masks:
        raise InputError("detections: no masks. Use a model that predicts masks (model.masks=True).")
    array = find_image(detections, image)
    results = []
    for mask, window in zip(detections.cropped_masks, object_windows(detections, margin), strict=True):
        x1, y1, x2, y2 = window
        cutout = np.zeros((y2 - y1, x2 - x1, 4), np.uint8)
        cutout[:, :, :3] = array[window_slices(window)]
        if not is_empty(mask_window(mask)):
            (height, width), left, top = mask.shape, mask.x - x1, mask.y - y1
            cutout[top : top + height, left : left + width, 3] = mask.bits.view(np.uint8) * np.uint8(255)
        results.append(cutout)
    return results


def object_windows(detections: Detections, margin: int = 0) -> list[Window]:
    """Return the windows of the image that contain the box and the mask of each object.

    Args:
        detections: D detections.
        margin: Pixels around them, where the image has them.

    Raises:
        ConfigError: The margin is negative.
    """
    if margin < 0 or margin != int(margin):
        raise ConfigError(f"margin: {margin} pixels. Use a whole number from 0.")
    margin = int(margin)
    height, width = detections.image_size
    windows = []
    for i, box in enumerate(detections.boxes):
        x1, y1, x2, y2 = pixel_window(box, detections.image_size)
        if detections.cropped_masks and not is_empty(mask_window(detections.cropped_masks[i])):
            left, top, right, bottom = mask_window(detections.cropped_masks[i])
            x1, y1, x2, y2 = min(x1, left), min(y1, top), max(x2, right), max(y2, bottom)
        x1, y1 = max(0, x1 - margin), max(0, y1 - margin)
        windows.append((x1, y1, min(width, x2 + margin), min(height, y2 + margin)))
    return windows
