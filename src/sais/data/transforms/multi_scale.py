"""Input size of each batch: random (multi-scale training), growing over the first epochs, or both.

The random factor is drawn from (seed, epoch, batch), the growth depends on the epoch alone. So every worker process and
every resumed run has the same sizes.
"""

from __future__ import annotations

import math

import numpy as np

from sais.config import AugmentConfig, InputConfig
from sais.ops.letterbox import CANVAS_MULTIPLE

_STREAM = 1
"""Last element of the seed sequence; separates the sizes of batches from the augmentation of samples."""


def has_one_size(options: AugmentConfig) -> bool:
    """Return whether all batches of a run have the size of the input settings."""
    return options.multi_scale == (1, 1) and growth_factor(options, 0) == 1


def growth_factor(options: AugmentConfig, epoch: int) -> float:
    """Return the factor on the input size in an epoch: from `initial_size` linearly to 1 after `size_growth_epochs`."""
    if epoch >= options.size_growth_epochs:
        return 1.0
    return options.initial_size + (1 - options.initial_size) * epoch / options.size_growth_epochs


def relative_pixels(options: AugmentConfig, batches: int, per_epoch: int) -> float:
    """Return the pixels of the first batches of a run, in batches of the input size that it ends with.

    Args:
        options: The growth.
        batches: Number of batches.
        per_epoch: Number of batches per epoch, at least 1.
    """
    epochs, remainder = divmod(batches, per_epoch)
    grown = max(0, epochs - options.size_growth_epochs)
    growing = sum(growth_factor(options, epoch) ** 2 for epoch in range(epochs - grown))
    return (growing + grown) * per_epoch + remainder * growth_factor(options, epochs) ** 2


def batch_input_size(
    settings: InputConfig, options: AugmentConfig, seed: int, epoch: int, batch: int
) -> tuple[int, int]:
    """Return the input size of a batch: the size of its epoch times a random factor, in multiples of 32.

    Args:
        settings: Mode and size of the canvas; with "keep_ratio", the short side is scaled.
        options: The range of random factors, and the growth.
        seed: Seed of the run.
        epoch: Epoch number.
        batch: Batch number in the epoch.

    Returns:
        A size with the meaning of `InputConfig.size`, identical in every worker process.
    """
    growth = growth_factor(options, epoch)
    if options.multi_scale == (1, 1):
        multiple = max(1, round(growth * settings.size[0] / CANVAS_MULTIPLE))
        return settings.size if growth == 1 else _size_of_side(settings, multiple * CANVAS_MULTIPLE)
    low, high = _multiple_range(settings, options, growth)
    multiple = int(np.random.default_rng([seed, epoch, batch, _STREAM]).integers(low, high + 1))
    return _size_of_side(settings, multiple * CANVAS_MULTIPLE)


def max_input_size(settings: InputConfig, options: AugmentConfig) -> tuple[int, int]:
    """Return the maximum size that `batch_input_size` can return."""
    if options.multi_scale == (1, 1):
        return settings.size
    return _size_of_side(settings, _multiple_range(settings, options)[1] * CANVAS_MULTIPLE)


def _multiple_range(settings: InputConfig, options: AugmentConfig, growth: float = 1.0) -> tuple[int, int]:
    """Return the minimum and maximum of the first side of `InputConfig.size`, in multiples of 32."""
    low, high = (factor * growth * settings.size[0] / CANVAS_MULTIPLE for factor in options.multi_scale)
    minimum = max(1, math.ceil(low - 1e-6))
    return minimum, max(minimum, math.floor(high + 1e-6))


def _size_of_side(settings: InputConfig, first: int) -> tuple[int, int]:
    """Return the size with this first side and the aspect ratio of `settings.size`."""
    second = round(settings.size[1] * first / settings.size[0])
    if settings.mode == "fixed":
        second = max(1, round(second / CANVAS_MULTIPLE)) * CANVAS_MULTIPLE
    return first, second
