"""Paired bootstrap over images: how certain a difference of AP between two models is.

The images of a split are drawn with replacement, as many as there are, many times. Each time, COCO AP of both models is
computed on the same drawn images (`sais.evaluation.coco_matches`). The 95 % interval of a difference is between the 2.5
and the 97.5 percentile of its values (percentile bootstrap; Efron and Tibshirani: *An Introduction to the Bootstrap*,
1993). p is two-sided: twice the smaller fraction of draws in which the difference is not above, or not below, 0, each
with one draw added, so that it is never 0. It states how much another choice of images may change the result, not how
much another training would.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sais.evaluation.coco_matches import AREAS, IOUS, ClassMatches, weighted_ap

RESAMPLES = 1000
"""Default number of draws."""
NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl")
"""Figures over all classes that are compared."""
_MAX_CELLS = 4_000_000
"""Maximum number of (draw, image, detection or AP) pairs that are held in memory."""
_VALUES = len(AREAS) * len(IOUS)
"""Number of AP values of a class and draw."""


@dataclass(frozen=True)
class Difference:
    """A figure of two models; fractions of 1, NaN where it is undefined."""

    first: float
    second: float
    low: float
    """Lower limit of the 95 % interval of the second minus the first."""
    high: float
    p: float
    """Two-sided p of no difference."""

    @property
    def value(self) -> float:
        """The second minus the first."""
        return self.second - self.first

    @property
    def is_significant(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as a dictionary for JSON, with None for NaN."""
        numbers = {"first": self.first, "second": self.second, "difference": self.value}
        numbers |= {"low": self.low, "high": self.high, "p": self.p}
        return {name: None if np.isnan(value) else float(value) for name, value in numbers.items()}


@dataclass(frozen=True)
class Differences:
    """The compared figures of two models."""

    figures: dict[str, Difference]
    """One of `NAMES` -> its difference."""
    classes: dict[str, Difference]
    """Class name -> difference of its AP."""
    images: int
    """Number of images of a draw."""
    resamples: int
    """Number of draws."""

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as a dictionary for JSON."""
        parts = {"figures": self.figures, "per_class": self.classes}
        dictionaries = {key: {name: d.to_dict() for name, d in part.items()} for key, part in parts.items()}
        return dictionaries | {"images": self.images, "resamples": self.resamples}


def bootstrap_differences(
    first: Sequence[ClassMatches],
    second: Sequence[ClassMatches],
    class_names: Sequence[str],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Differences:
    """Compare the AP of two models on the same images.

    Args:
        first: matches of the first model, one for each of C classes.
        second: matches of the second model.
        class_names: C names.
        resamples: number of draws.
        seed: seed of the draws; the same seed gives the same result.
    """
    images = first[0].objects.shape[1] if first else 0
    random = np.random.default_rng(seed)
    whole = np.ones((1, images), np.int64)
    measured = [summarize(first, whole), summarize(second, whole)]
    widest = max([images, len(first) * _VALUES, *(len(matches.images) for matches in (*first, *second))])
    step = max(1, _MAX_CELLS // max(1, widest))
    drawn: list[list[np.ndarray]] = [[], []]
    for start in range(0, resamples, step):
        weights = draw_images(random, min(step, resamples - start), images)
        for values, matches in zip(drawn, (first, second), strict=True):
            values.append(summarize(matches, weights))
    all_first, all_second = (np.concatenate(values) for values in drawn)
    names = [*NAMES, *class_names]
    differences = [
        _difference(measured[0][0, i], measured[1][0, i], all_second[:, i] - all_first[:, i]) for i in range(len(names))
    ]
    by_name = dict(zip(names[: len(NAMES)], differences, strict=False))
    classes = dict(zip(class_names, differences[len(NAMES) :], strict=True))
    return Differences(by_name, classes, images, resamples)


def draw_images(random: np.random.Generator, resamples: int, images: int) -> np.ndarray:
    """Draw images with replacement: return how often each is drawn, (R, I) int64.

    Args:
        random: generator of random numbers.
        resamples: number of draws R.
        images: number of images I.
    """
    counts: np.ndarray = random.multinomial(images, np.full(images, 1 / max(1, images)), resamples)
    return counts


def summarize(matches: Sequence[ClassMatches], weights: np.ndarray) -> np.ndarray:
    """Compute `NAMES` and the AP of each class with each image a number of times, (R, 6 + C) float64.

    Args:
        matches: matches of C classes in I images.
        weights: (R, I) number of times that each image is in each of R data sets.
    """
    per_class = np.stack([weighted_ap(part, weights) for part in matches], axis=1)  # (R, C, A, T)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # means of NaN only: no class has objects
        sizes = np.nanmean(per_class.mean(-1), axis=1)  # (R, A)
        at_iou = np.nanmean(per_class[:, :, 0], axis=1)  # (R, T)
    figures = np.stack([sizes[:, 0], at_iou[:, 0], at_iou[:, 5], *sizes[:, 1:].T], axis=1)
    return np.concatenate([figures, per_class[:, :, 0].mean(-1)], axis=1)


def _difference(first: float, second: float, drawn: np.ndarray) -> Difference:
    """Return the difference of two values with its interval; `drawn` (R,) has the differences of all draws."""
    defined = drawn[~np.isnan(drawn)]
    if not len(defined) or np.isnan(second - first):
        return Difference(float(first), float(second), np.nan, np.nan, np.nan)
    low, high = np.percentile(defined, (2.5, 97.5))
    smaller = min((defined <= 0).sum(), (defined >= 0).sum())
    p = min(1.0, 2 * (1 + int(smaller)) / (len(defined) + 1))
    return Difference(float(first), float(second), float(low), float(high), p)
