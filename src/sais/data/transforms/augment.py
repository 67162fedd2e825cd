"""Augmentation of a training sample: the built-in steps in a literal table, then the user's own.

All randomness comes from the generator passed in, so that a sample depends on (seed, epoch, image) alone. A step whose
option is off draws nothing from the generator: adding an option leaves the samples of other runs unchanged. Steps that
are off by default are imported when they are on.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from sais.config import AugmentConfig, InputConfig
from sais.data.transforms.geometric import flip, resize_sample, zoom
from sais.errors import ConfigError
from sais.resolve import resolve
from sais.structures import Sample

DrawSample = Callable[[np.random.Generator, bool], Sample | None]
"""(generator, whether the sample needs objects) -> another sample of the data set; None if none can be read."""

ExtraAugmentation = Callable[[Sample, np.random.Generator], Sample]
"""An augmentation of `AugmentConfig.extra`: (sample on its canvas, generator) -> sample with the same canvas size."""


@dataclass(frozen=True)
class AugmentContext:
    """What the augmentation steps need in addition to the sample."""

    settings: InputConfig
    """Mode and size of the canvas."""
    options: AugmentConfig
    """Probabilities and ranges of the steps."""
    draw_sample: DrawSample
    """Source of other samples for mosaic and copy-paste."""
    flip_labels: np.ndarray | None = None
    """(C,) label of each class in a mirrored image (`sais.data.flip_pairs`); None if no label changes."""


def _flip_step(sample: Sample, context: AugmentContext, random: np.random.Generator) -> Sample:
    return flip(sample, context.flip_labels) if random.random() < context.options.flip else sample


def _mosaic_step(sample: Sample, context: AugmentContext, random: np.random.Generator) -> Sample:
    if not context.options.mosaic > 0 or not random.random() < context.options.mosaic:
        return sample
    from sais.data.transforms.mosaic_copy_paste import mosaic

    others = [other for _ in range(3) if (other := context.draw_sample(random, False)) is not None]
    if len(others) < 3:
        return sample
    return mosaic([sample, *(_flip_step(other, context, random) for other in others)], context.settings, random)


def _copy_paste_step(sample: Sample, context: AugmentContext, random: np.random.Generator) -> Sample:
    if not context.options.copy_paste > 0 or not random.random() < context.options.copy_paste:
        return sample
    from sais.data.transforms.mosaic_copy_paste import copy_paste

    other = context.draw_sample(random, True)
    return sample if other is None else copy_paste(sample, _flip_step(other, context, random), random)


def _expand_crop_step(sample: Sample, context: AugmentContext, random: np.random.Generator) -> Sample:
    if not (context.options.expand > 0 or context.options.crop > 0):
        return sample
    from sais.data.transforms.expand_crop import expand_and_crop

    return expand_and_crop(sample, context.options, random)


def _resize_step(sample: Sample, context: AugmentContext, random: np.random.Generator) -> Sample:
    low, high = context.options.scale_jitter
    if low == high == 1:
        return resize_sample(sample, context.settings)
    return zoom(sample, context.settings, random, low, high)


def _photometric_step(sample: Sample, context: AugmentContext, random: np.random.Generator) -> Sample:
    if not context.options.photometric > 0:
        return sample
    from sais.data.transforms.photometric import photometric_distort

    return replace(sample, image=photometric_distort(sample.image, context.options.photometric, random))


def _color_jitter_step(sample: Sample, context: AugmentContext, random: np.random.Generator) -> Sample:
    if not context.options.color_jitter > 0:
        return sample
    from sais.data.transforms.photometric import color_jitter

    return replace(sample, image=color_jitter(sample.image, context.options.color_jitter, random))


AUGMENTATIONS: dict[str, Callable[[Sample, AugmentContext, np.random.Generator], Sample]] = {
    "flip": _flip_step,
    "mosaic": _mosaic_step,
    "copy_paste": _copy_paste_step,
    "expand_crop": _expand_crop_step,
    "resize": _resize_step,
    "photometric": _photometric_step,
    "color_jitter": _color_jitter_step,
}
"""The built-in steps in the order in which they are applied; from "resize" on, the image is the canvas."""


def augment(
    sample: Sample,
    settings: InputConfig,
    options: AugmentConfig,
    random: np.random.Generator,
    draw_sample: DrawSample,
    flip_labels: np.ndarray | None = None,
) -> Sample:
    """Augment a sample and place it on its canvas; with the defaults, flip only.

    Args:
        sample: The sample as read from its file.
        settings: Mode and size of the canvas.
        options: Probabilities and ranges of the steps.
        random: Source of randomness.
        draw_sample: Source of other samples for mosaic and copy-paste.
        flip_labels: (C,) label of each class in a mirrored image; None if no label changes.

    Raises:
        ConfigError: An augmentation of `options.extra` is missing or returns an invalid sample.
    """
    context = AugmentContext(settings, options, draw_sample, flip_labels)
    for step in AUGMENTATIONS.values():
        sample = step(sample, context, random)
    for name in options.extra:
        augmented = resolve_augmentation(name)(sample, random)
        _check_extra(name, sample, augmented)
        sample = augmented
    return sample


@functools.cache
def resolve_augmentation(name: str) -> ExtraAugmentation:
    """Return the augmentation called ``module:function``.

    Raises:
        ConfigError: The module or function does not exist, or it is not callable.
    """
    function: ExtraAugmentation = resolve(name, {}, "augmentation")
    if not callable(function):
        raise ConfigError(f"augmentation {name!r}: not callable. Name a function of (Sample, Generator) -> Sample.")
    return function


def _check_extra(name: str, before: Sample, after: object) -> None:
    """Raise ConfigError unless the sample returned by an augmentation is consistent and has the same canvas."""
    problem = ""
    if not isinstance(after, Sample):
        problem = f"returned {type(after).__name__}, not a Sample"
    elif after.image.shape != before.image.shape or after.image.dtype != np.uint8:
        expected = f"{before.image.shape} uint8"
        problem = f"returned an image {after.image.shape} {after.image.dtype}, expected {expected}"
    elif after.boxes.shape != (len(after.labels), 4) or len(after.masks) != len(after.labels):
        lengths = f"{len(after.boxes)} boxes, {len(after.labels)} labels and {len(after.masks)} masks"
        problem = f"returned {lengths}"
    elif after.boxes.dtype != np.float32 or after.labels.dtype != np.int64:
        problem = f"returned boxes {after.boxes.dtype} and labels {after.labels.dtype}, expected float32 and int64"
    if problem:
        raise ConfigError(f"augmentation {name!r}: {problem}. Return a valid Sample with the same canvas size.")
