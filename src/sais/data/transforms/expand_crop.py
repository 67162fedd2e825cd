"""Random expansion and random crop of a sample, as windows on its image. The pixels are copied once for both."""

from __future__ import annotations

import math

import numpy as np

from sais.config import AugmentConfig
from sais.data.transforms.geometric import crop_to_window
from sais.ops.letterbox import PADDING
from sais.ops.numpy_boxes import Window
from sais.structures import Sample

CROP_TRIES = 10
"""Number of crops tried until one contains enough of an object; otherwise the image is not cropped."""


def expand_and_crop(sample: Sample, options: AugmentConfig, random: np.random.Generator) -> Sample:
    """Expand a sample's image with probability `options.expand`, then crop it with probability `options.crop`."""
    height, width = sample.image.shape[:2]
    window = full = (0, 0, width, height)
    fill = PADDING
    if options.expand > 0 and random.random() < options.expand:
        window = random_expand_window(window, options.expand_max, random)
        if options.expand_fill == "mean":
            red, green, blue = np.rint(sample.image.mean((0, 1))).astype(int).tolist()
            fill = red, green, blue
    if options.crop > 0 and random.random() < options.crop:
        for _ in range(CROP_TRIES):
            crop = crop_to_window(sample, random_crop_window(window, sample.boxes, options.crop_min, random), fill)
            if len(crop.boxes) or not len(sample.boxes):
                return crop
    return sample if window == full else crop_to_window(sample, window, fill)


def random_expand_window(window: Window, max_factor: float, random: np.random.Generator) -> Window:
    """Draw a window of the same aspect ratio that contains `window` at a random position.

    Args:
        window: The window to expand.
        max_factor: Maximum side, in sides of `window`.
        random: Source of randomness.
    """
    x1, y1, x2, y2 = window
    factor = random.uniform(1, max_factor)
    width, height = round((x2 - x1) * factor), round((y2 - y1) * factor)
    left, top = x1 - int(random.integers(0, width - x2 + x1 + 1)), y1 - int(random.integers(0, height - y2 + y1 + 1))
    return left, top, left + width, top + height


def random_crop_window(window: Window, boxes: np.ndarray, min_fraction: float, random: np.random.Generator) -> Window:
    """Draw a window inside `window` that contains the center of a random object, if there are objects.

    Args:
        window: The window to crop.
        boxes: (N, 4) objects.
        min_fraction: Minimum side, as a fraction of the side of `window`.
        random: Source of randomness.
    """
    x1, y1, x2, y2 = window
    width, height = (max(1, round(side * random.uniform(min_fraction, 1))) for side in (x2 - x1, y2 - y1))
    if len(boxes):
        box = boxes[random.integers(len(boxes))].astype(np.float64)
        x = _random_start((box[0] + box[2]) / 2, width, (x1, x2), random)
        y = _random_start((box[1] + box[3]) / 2, height, (y1, y2), random)
    else:
        x, y = int(random.integers(x1, x2 - width + 1)), int(random.integers(y1, y2 - height + 1))
    return x, y, x + width, y + height


def _random_start(center: float, length: int, limits: tuple[int, int], random: np.random.Generator) -> int:
    """Draw the start of an interval of `length` pixels inside `limits` that contains the coordinate `center`."""
    low = max(limits[0], math.ceil(center) - length)
    high = min(limits[1] - length, math.floor(center))
    return int(random.integers(low, high + 1))
