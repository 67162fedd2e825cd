"""Multi-scale training: the input size of each batch, drawn from (seed, epoch, batch)."""

from __future__ import annotations

import math

import numpy as np

from sais.config import AugmentConfig, InputConfig
from sais.ops.letterbox import CANVAS_MULTIPLE

_STREAM = 1
"""Last element of the seed sequence; separates the sizes of batches from the augmentation of samples."""


def batch_input_size(
    settings: InputConfig, options: AugmentConfig, seed: int, epoch: int, batch: int
) -> tuple[int, int]:
    """Draw the input size of a batch from the range `options.multi_scale`, in multiples of 32.

    Args:
        settings: Mode and size of the canvas; with "keep_ratio", the short side is drawn.
        options: The range of factors.
        seed: Seed of the run.
        epoch: Epoch number.
        batch: Batch number in the epoch.

    Returns:
        A size with the meaning of `InputConfig.size`, identical in every worker process.
    """
    if options.multi_scale == (1, 1):
        return settings.size
    low, high = _multiple_range(settings, options)
    multiple = int(np.random.default_rng([seed, epoch, batch, _STREAM]).integers(low, high + 1))
    return _size_of_side(settings, multiple * CANVAS_MULTIPLE)


def max_input_size(settings: InputConfig, options: AugmentConfig) -> tuple[int, int]:
    """Return the maximum size that `batch_input_size` can draw."""
    if options.multi_scale == (1, 1):
        return settings.size
    return _size_of_side(settings, _multiple_range(settings, options)[1] * CANVAS_MULTIPLE)


def _multiple_range(settings: InputConfig, options: AugmentConfig) -> tuple[int, int]:
    """Return the minimum and maximum of the first side of `InputConfig.size`, in multiples of 32."""
    low, high = (factor * settings.size[0] / CANVAS_MULTIPLE for factor in options.multi_scale)
    minimum = max(1, math.ceil(low - 1e-6))
    return minimum, max(minimum, math.floor(high + 1e-6))


def _size_of_side(settings: InputConfig, first: int) -> tuple[int, int]:
    """Return the size with this first side and the aspect ratio of `settings.size`."""
    second = round(settings.size[1] * first / settings.size[0])
    if settings.mode == "fixed":
        second = max(1, round(second / CANVAS_MULTIPLE)) * CANVAS_MULTIPLE
    return first, second
