"""Calibration: whether a score is the probability that a detection is correct.

Detections are put into bins of equal width by score. In a calibrated model, the fraction of correct detections in a
bin equals their mean score. The *expected calibration error* is the mean difference of both, weighted by the number of
detections in each bin (Naeini, Cooper, Hauskrecht: *Obtaining Well Calibrated Probabilities Using Bayesian Binning*,
AAAI 2015), as it is used for detectors by Küppers et al. (*Multivariate Confidence Calibration for Object Detection*,
CVPR workshops 2020). A detection is correct if it is matched at an IoU of 0.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from sais.evaluation.error_analysis import CORRECT, IGNORED, ErrorAnalysis

BINS = 10
"""Number of bins between a score of 0 and of 1."""
MIN_DETECTIONS = 100
"""Minimum number of detections of a class that has a calibration of its own."""


@dataclass(frozen=True)
class ReliabilityBin:
    """The detections whose scores are in one range."""

    low: float
    high: float
    detections: int
    score: float
    """Mean score."""
    precision: float
    """Fraction of correct detections."""


@dataclass(frozen=True)
class Calibration:
    """The calibration of some detections."""

    detections: int
    expected_error: float
    """Expected calibration error, a fraction of 1."""
    max_error: float
    """Largest difference between mean score and precision of a bin."""
    bins: tuple[ReliabilityBin, ...]
    """The bins with detections, scores ascending."""

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as a dictionary for JSON."""
        return vars(self) | {"bins": [dict(vars(item)) for item in self.bins]}


def calibration(scores: np.ndarray, correct: np.ndarray, bins: int = BINS) -> Calibration | None:
    """Measure the calibration of detections; None if there are none.

    Args:
        scores: (D,) float64 in [0, 1].
        correct: (D,) bool.
        bins: number of bins.
    """
    if not len(scores):
        return None
    numbers = np.minimum((scores * bins).astype(np.int64), bins - 1)  # a score of 1 is in the last bin
    counts = np.bincount(numbers, minlength=bins)
    used = np.flatnonzero(counts)
    mean_scores = np.bincount(numbers, scores, bins)[used] / counts[used]
    precisions = np.bincount(numbers, correct, bins)[used] / counts[used]
    differences = np.abs(mean_scores - precisions)
    rows = zip(used.tolist(), counts[used].tolist(), mean_scores.tolist(), precisions.tolist(), strict=True)
    return Calibration(
        len(scores),
        float((differences * counts[used]).sum() / len(scores)),
        float(differences.max()),
        tuple(ReliabilityBin(k / bins, (k + 1) / bins, count, score, value) for k, count, score, value in rows),
    )


def detection_outcomes(analysis: ErrorAnalysis) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the scores (D,) float64, outcomes (D,) bool and category ids (D,) int64 of the detections that count.

    Args:
        analysis: error analysis; ignored detections are left out.
    """
    rows = [
        (result["score"], kind == CORRECT, result["category_id"])
        for image in analysis.images
        for result, kind in zip(image.results, image.match.detections, strict=True)
        if kind != IGNORED
    ]
    scores, correct, categories = zip(*rows, strict=True) if rows else ((), (), ())
    return np.array(scores, np.float64), np.array(correct, bool), np.array(categories, np.int64)


def calibrations(analysis: ErrorAnalysis) -> tuple[Calibration | None, dict[str, Calibration]]:
    """Return the calibration of all detections, and by name of the classes with enough detections.

    Args:
        analysis: error analysis of all detections.
    """
    scores, correct, categories = detection_outcomes(analysis)
    per_class = {}
    for name, category_id in zip(analysis.split.class_names, analysis.split.category_ids, strict=True):
        chosen = categories == category_id
        if chosen.sum() >= MIN_DETECTIONS:
            of_class = calibration(scores[chosen], correct[chosen])
            assert of_class is not None
            per_class[name] = of_class
    return calibration(scores, correct), per_class
