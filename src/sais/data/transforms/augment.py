"""What training sees: an image from its file, changed by the options of `AugmentConfig`, on its canvas.

In this order: flip, mosaic, copy-paste, expand, crop, zoom and fit, colors. An option that is off draws nothing from
the generator, so that runs without it see what they always saw. Every random choice comes from the generator that is
handed in, so that a sample depends on (seed, epoch, image) alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from sais.config import AugmentConfig, InputConfig
from sais.data.transforms.geometric import Window, crop_to_window, flip, resize_sample, zoom
from sais.data.transforms.mosaic_copy_paste import copy_paste, mosaic
from sais.data.transforms.photometric import color_jitter, photometric_distort
from sais.ops.letterbox import CANVAS_MULTIPLE, PADDING
from sais.structures import Sample

Another = Callable[[np.random.Generator, bool], Sample | None]
"""(generator, whether it has to have objects) -> another sample of the data set; None where none can be read."""

TRIES = 10
"""Crops that are tried, until one has enough of an object in it, before an image stays as it was."""

_SIZES = 1
"""Sets the generator of a batch's size apart from that of an image's changes."""


def augment(
    sample: Sample, settings: InputConfig, options: AugmentConfig, random: np.random.Generator, another: Another
) -> Sample:
    """The sample on its canvas as training sees it; in the paper: flip only."""
    sample = _flipped_by_chance(sample, options, random)
    if options.mosaic > 0 and random.random() < options.mosaic:
        three = [other for _ in range(3) if (other := another(random, False)) is not None]
        if len(three) == 3:
            sample = mosaic([sample, *(_flipped_by_chance(one, options, random) for one in three)], settings, random)
    if options.copy_paste > 0 and random.random() < options.copy_paste:
        other = another(random, True)
        if other is not None:
            sample = copy_paste(sample, _flipped_by_chance(other, options, random), random)
    sample = _seen_through_a_window(sample, options, random)
    low, high = options.scale_jitter
    sample = zoom(sample, settings, random, low, high) if low != high or low != 1 else resize_sample(sample, settings)
    if options.photometric > 0:
        sample = replace(sample, image=photometric_distort(sample.image, options.photometric, random))
    if options.color_jitter > 0:
        sample = replace(sample, image=color_jitter(sample.image, options.color_jitter, random))
    return sample


def _flipped_by_chance(sample: Sample, options: AugmentConfig, random: np.random.Generator) -> Sample:
    return flip(sample) if random.random() < options.flip else sample


def _seen_through_a_window(sample: Sample, options: AugmentConfig, random: np.random.Generator) -> Sample:
    """Expanded and cropped by chance, the pixels copied once for both."""
    height, width = sample.image.shape[:2]
    window = whole = (0, 0, width, height)
    ground = PADDING
    if options.expand > 0 and random.random() < options.expand:
        window = random_expand_window(window, options.expand_max, random)
        if options.expand_fill == "mean":
            red, green, blue = np.rint(sample.image.mean((0, 1))).astype(int).tolist()
            ground = red, green, blue
    if options.crop > 0 and random.random() < options.crop:
        for _ in range(TRIES):
            seen = crop_to_window(sample, random_crop_window(window, sample.boxes, options.crop_min, random), ground)
            if len(seen.boxes) or not len(sample.boxes):
                return seen
    return sample if window == whole else crop_to_window(sample, window, ground)


def random_expand_window(window: Window, most: float, random: np.random.Generator) -> Window:
    """A window around this one, its sides up to `most` times as long, the same ratio, at a random place."""
    x1, y1, x2, y2 = window
    factor = random.uniform(1, most)
    width, height = round((x2 - x1) * factor), round((y2 - y1) * factor)
    left, top = x1 - int(random.integers(0, width - x2 + x1 + 1)), y1 - int(random.integers(0, height - y2 + y1 + 1))
    return left, top, left + width, top + height


def random_crop_window(window: Window, boxes: np.ndarray, least: float, random: np.random.Generator) -> Window:
    """A window inside this one, each of its sides at least the share `least`; it has the middle of some object in it
    where there are objects."""
    x1, y1, x2, y2 = window
    width, height = (max(1, round(side * random.uniform(least, 1))) for side in (x2 - x1, y2 - y1))
    if len(boxes):
        box = boxes[random.integers(len(boxes))].astype(np.float64)
        x = _containing((box[0] + box[2]) / 2, width, (x1, x2), random)
        y = _containing((box[1] + box[3]) / 2, height, (y1, y2), random)
    else:
        x, y = int(random.integers(x1, x2 - width + 1)), int(random.integers(y1, y2 - height + 1))
    return x, y, x + width, y + height


def _containing(middle: float, length: int, limits: tuple[int, int], random: np.random.Generator) -> int:
    """The start of a stretch of `length` pixels within `limits` that has the point `middle` in it."""
    low = max(limits[0], math.ceil(middle) - length)
    high = min(limits[1] - length, math.floor(middle))
    return int(random.integers(low, high + 1))


def batch_input_size(
    settings: InputConfig, options: AugmentConfig, seed: int, epoch: int, batch: int
) -> tuple[int, int]:
    """`InputConfig.size` for batch number `batch` of an epoch, whoever reads it: drawn by `AugmentConfig.multi_scale`
    among the multiples of 32 (with the ratio kept: of the short side)."""
    if options.multi_scale == (1, 1):
        return settings.size
    least, most = _sides(settings, options)
    drawn = int(np.random.default_rng([seed, epoch, batch, _SIZES]).integers(least, most + 1))
    return _of_side(settings, drawn * CANVAS_MULTIPLE)


def max_input_size(settings: InputConfig, options: AugmentConfig) -> tuple[int, int]:
    """The greatest that `batch_size` may draw."""
    if options.multi_scale == (1, 1):
        return settings.size
    return _of_side(settings, _sides(settings, options)[1] * CANVAS_MULTIPLE)


def _sides(settings: InputConfig, options: AugmentConfig) -> tuple[int, int]:
    """Least and greatest first side of `InputConfig.size` that may be drawn, in multiples of 32."""
    low, high = (factor * settings.size[0] / CANVAS_MULTIPLE for factor in options.multi_scale)
    least = max(1, math.ceil(low - 1e-6))
    return least, max(least, math.floor(high + 1e-6))


def _of_side(settings: InputConfig, drawn: int) -> tuple[int, int]:
    side, other = settings.size
    other = round(other * drawn / side)
    if settings.mode == "fixed":
        other = max(1, round(other / CANVAS_MULTIPLE)) * CANVAS_MULTIPLE
    return drawn, other
