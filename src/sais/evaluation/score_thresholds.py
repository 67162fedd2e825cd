"""The score thresholds with the highest F1 of an evaluation, which are stored in the model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sais.evaluation.error_analysis import CORRECT, IGNORED, ErrorAnalysis, analyze_errors
from sais.inference.score_thresholds import ScoreThresholds

if TYPE_CHECKING:
    from sais.evaluation.evaluate import Evaluation

MIN_OBJECTS = 10
"""Minimum number of objects of a class that has a threshold of its own."""
MAX_DIGITS = 6


def best_thresholds(evaluation: Evaluation) -> ScoreThresholds | None:
    """Return the thresholds with the highest F1 of masks (of boxes, if there are no masks) at an IoU of 0.5.

    None if no detection is correct, or if the evaluation has no metrics.
    """
    if evaluation.metrics is None:
        return None
    kind = "segm" if evaluation.metrics.mask is not None else "bbox"
    split = evaluation.dataset_split
    analysis = analyze_errors(split, evaluation.results, kind, score=0.0)  # type: ignore[arg-type]
    overall = best_f1(analysis)
    if overall is None:
        return None
    per_class = {}
    for label, name in enumerate(split.class_names):
        objects = sum(annotation.label == label for image in analysis.images for annotation in image.objects)
        best = best_f1(analysis, label) if objects >= MIN_OBJECTS else None
        if best is not None:
            per_class[name] = best[0]
    return ScoreThresholds(*overall, split.name, "masks" if kind == "segm" else "boxes", per_class)


def store_thresholds(model: Path, thresholds: ScoreThresholds) -> Path:
    """Store thresholds in a model file, and return its path: predictions with it use them.

    Args:
        model: path of a checkpoint or of a run folder.
        thresholds: thresholds to store.

    Raises:
        CheckpointError: the file is missing or corrupted.
        ResourceError: the file cannot be written.
    """
    from sais.checkpoint import find_checkpoint, load_checkpoint, save_checkpoint

    path = find_checkpoint(model)
    checkpoint = load_checkpoint(path)
    checkpoint.state["thresholds"] = thresholds.to_dict()
    save_checkpoint(path, checkpoint)
    return path


def by_score_threshold(analysis: ErrorAnalysis, label: int | None = None) -> list[tuple[float, float, float]]:
    """Compute (score, precision, recall) with every occurring score as the threshold, scores ascending.

    Args:
        analysis: error analysis of all detections.
        label: label of the class to compute them for; None: over all classes.
    """
    # Only detections with higher scores decide whether a detection is correct, so that a threshold changes no outcome.
    # (An exception: whether a crowd hides a detection may depend on one with a lower score.)
    category_id = None if label is None else analysis.split.category_ids[label]
    detections = sorted(
        (-result["score"], kind == CORRECT)
        for image in analysis.images
        for result, kind in zip(image.results, image.match.detections, strict=True)
        if kind != IGNORED and category_id in (None, result["category_id"])
    )
    objects = sum(label in (None, annotation.label) for image in analysis.images for annotation in image.objects)
    points, correct = [], 0
    for count, (score, is_correct) in enumerate(detections, 1):
        correct += is_correct
        if count == len(detections) or detections[count][0] != score:
            points.append((-score, correct / count, correct / objects if objects else 0.0))
    return points[::-1]


def best_f1(analysis: ErrorAnalysis, label: int | None = None) -> tuple[float, float] | None:
    """Return the score threshold with the highest F1, and that F1; None if F1 is 0 everywhere.

    The threshold is a short decimal between the lowest score that counts and the next lower one, near their mean.

    Args:
        analysis: error analysis of all detections.
        label: label of the class to compute it for; None: over all classes.
    """
    points = by_score_threshold(analysis, label)
    f1s = np.array([f1_score(precision, recall) for _, precision, recall in points])
    if not len(f1s) or not f1s.max():
        return None
    best = len(f1s) - 1 - int(f1s[::-1].argmax())  # the highest threshold of those with the same F1
    return _between(points[best - 1][0] if best else 0.0, points[best][0]), float(f1s[best])


def f1_score(precision: float, recall: float) -> float:
    """Return the harmonic mean of precision and recall; 0 if both are 0."""
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _between(low: float, high: float) -> float:
    """Return the shortest decimal above `low` and up to `high`, near their mean; `high` if they are too close."""
    for digits in range(2, MAX_DIGITS + 1):
        rounded = round((low + high) / 2, digits)
        if low < rounded <= high:
            return rounded
    return high
