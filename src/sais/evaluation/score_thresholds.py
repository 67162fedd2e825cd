"""The best score thresholds of an evaluation, by F1, precision or recall, which are stored in the model."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sais.errors import ConfigError
from sais.evaluation.error_analysis import CORRECT, IGNORED, ErrorAnalysis, analyze_errors
from sais.hub import check_not_in_cache
from sais.inference.options import EXPORTED_SUFFIXES
from sais.inference.score_thresholds import ScoreThresholds

if TYPE_CHECKING:
    from sais.evaluation.evaluate import Evaluation

MIN_OBJECTS = 10
"""Minimum number of objects of a class that has a threshold of its own."""
MAX_DIGITS = 6


@dataclass(frozen=True)
class ThresholdGoal:
    """What a score threshold is chosen for: the highest F1, unless a minimum of precision or of recall is given.

    Raises:
        ConfigError: both minimums are given, or one is not between 0 and 1.
    """

    min_precision: float | None = None
    """The lowest threshold with at least this precision is chosen: the one with the highest recall."""
    min_recall: float | None = None
    """The highest threshold with at least this recall is chosen."""

    def __post_init__(self) -> None:
        if self.min_precision is not None and self.min_recall is not None:
            raise ConfigError("min_precision and min_recall: one threshold cannot reach both. Give one of them.")
        for name, value in vars(self).items():
            if value is not None and not 0 < value <= 1:
                raise ConfigError(f"{name} {value}: not above 0 and at most 1. Give a fraction, such as 0.9.")

    def __str__(self) -> str:
        if self.min_precision is not None:
            return f"precision >= {self.min_precision:g}"
        return "best F1" if self.min_recall is None else f"recall >= {self.min_recall:g}"


BEST_F1 = ThresholdGoal()


@dataclass(frozen=True)
class OperatingPoint:
    """A score threshold, and what the detections from this score on reach."""

    score: float
    precision: float
    recall: float
    reached: bool = True
    """Whether a goal is reached; otherwise the threshold comes closest to it."""

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        return f1_score(self.precision, self.recall)


def best_thresholds(evaluation: Evaluation, goal: ThresholdGoal = BEST_F1) -> ScoreThresholds | None:
    """Return the best thresholds for masks (for boxes, if there are no masks) at an IoU of 0.5.

    None if no detection is correct, or if the evaluation has no metrics.

    Args:
        evaluation: evaluation of a model.
        goal: what the thresholds are chosen for.
    """
    if evaluation.metrics is None:
        return None
    kind = "segm" if evaluation.metrics.mask is not None else "bbox"
    split = evaluation.dataset_split
    analysis = analyze_errors(split, evaluation.results, kind, score=0.0)  # type: ignore[arg-type]
    overall, classes = best_points(analysis, goal)
    if overall is None:
        return None
    per_class = {name: point.score for name, point in classes.items()}
    shape = "masks" if kind == "segm" else "boxes"
    return ScoreThresholds(overall.score, overall.f1, split.name, shape, per_class, str(goal))


def best_points(
    analysis: ErrorAnalysis, goal: ThresholdGoal = BEST_F1
) -> tuple[OperatingPoint | None, dict[str, OperatingPoint]]:
    """Return the best point over all classes, and by name those of the classes with enough objects.

    Args:
        analysis: error analysis of all detections.
        goal: what the thresholds are chosen for.
    """
    # In one pass: with 1,000 classes, a pass for each takes a minute for 1,000 images.
    detections: dict[int, list[tuple[float, bool]]] = defaultdict(list)
    for category_id, score, is_correct in _detections(analysis):
        detections[category_id].append((score, is_correct))
    objects = Counter(annotation.label for image in analysis.images for annotation in image.objects)
    per_class = {}
    for label, name in enumerate(analysis.split.class_names):
        if objects[label] >= MIN_OBJECTS:
            points = _points(detections[analysis.split.category_ids[label]], objects[label])
            point = _best_of(points, goal)
            if point is not None:
                per_class[name] = point
    return best_point(analysis, goal), per_class


def store_thresholds(model: Path, thresholds: ScoreThresholds) -> Path:
    """Store thresholds in a model file, and return its path: predictions with it use them.

    Args:
        model: path of a checkpoint, of a run folder, or of an exported `.onnx` or `.xml` file.
        thresholds: thresholds to store.

    Raises:
        CheckpointError: the file is missing or corrupted.
        InputError: the file is in the cache of the Hub.
        MissingDependencyError: the package onnx is not installed, which writes `.onnx` files.
        ResourceError: the file cannot be written.
    """
    check_not_in_cache(model)
    if model.suffix in EXPORTED_SUFFIXES:
        from sais.inference.graph_thresholds import store_graph_thresholds

        store_graph_thresholds(model, thresholds)
        return model
    from sais.checkpoint import find_checkpoint, load_checkpoint, save_checkpoint

    path = find_checkpoint(model)
    check_not_in_cache(path)
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
    category_id = None if label is None else analysis.split.category_ids[label]
    detections = [(score, is_correct) for id, score, is_correct in _detections(analysis) if category_id in (None, id)]
    objects = sum(label in (None, annotation.label) for image in analysis.images for annotation in image.objects)
    return _points(detections, objects)


def _detections(analysis: ErrorAnalysis) -> Iterator[tuple[int, float, bool]]:
    """Yield category id, score and correctness of each detection that counts."""
    # Only detections with higher scores decide whether a detection is correct, so that a threshold changes no outcome.
    # (An exception: whether a crowd hides a detection may depend on one with a lower score.)
    for image in analysis.images:
        for result, kind in zip(image.results, image.match.detections, strict=True):
            if kind != IGNORED:
                yield result["category_id"], result["score"], kind == CORRECT


def _points(detections: Iterable[tuple[float, bool]], objects: int) -> list[tuple[float, float, float]]:
    """Return (score, precision, recall) of every score, ascending, of detections with score and correctness."""
    ordered = sorted((-score, is_correct) for score, is_correct in detections)
    points, correct = [], 0
    for count, (score, is_correct) in enumerate(ordered, 1):
        correct += is_correct
        if count == len(ordered) or ordered[count][0] != score:
            points.append((-score, correct / count, correct / objects if objects else 0.0))
    return points[::-1]


def best_f1(analysis: ErrorAnalysis, label: int | None = None) -> tuple[float, float] | None:
    """Return the score threshold with the highest F1, and that F1; None if F1 is 0 everywhere.

    Args:
        analysis: error analysis of all detections.
        label: label of the class to compute it for; None: over all classes.
    """
    point = best_point(analysis, BEST_F1, label)
    return None if point is None else (point.score, point.f1)


def best_point(analysis: ErrorAnalysis, goal: ThresholdGoal, label: int | None = None) -> OperatingPoint | None:
    """Return the score threshold that reaches a goal best; None if no detection is correct.

    The threshold is a short decimal between the lowest score that counts and the next lower one, near their mean. Where
    no threshold reaches the goal, it is the one with the highest precision, or the highest recall.

    Args:
        analysis: error analysis of all detections.
        goal: what the threshold is chosen for.
        label: label of the class to compute it for; None: over all classes.
    """
    return _best_of(by_score_threshold(analysis, label), goal)


def _best_of(points: Sequence[tuple[float, float, float]], goal: ThresholdGoal) -> OperatingPoint | None:
    """Return the best of (score, precision, recall) with ascending scores; None if no detection is correct."""
    if not any(recall for _, _, recall in points):
        return None
    precisions, recalls = (np.array([point[i] for point in points]) for i in (1, 2))
    reached = True
    if goal.min_precision is not None:
        reached = bool(precisions.max() >= goal.min_precision)
        best = int(np.argmax(precisions >= min(goal.min_precision, precisions.max())))
    elif goal.min_recall is not None:
        reached = bool(recalls.max() >= goal.min_recall)
        best = _last(recalls >= min(goal.min_recall, recalls.max()))
    else:
        f1s = np.array([f1_score(precision, recall) for _, precision, recall in points])
        best = _last(f1s == f1s.max())  # the highest threshold of those with the same F1
    score = _between(points[best - 1][0] if best else 0.0, points[best][0])
    return OperatingPoint(score, *points[best][1:], reached)


def _last(mask: np.ndarray) -> int:
    """Return the position of the last true value of a mask (D,)."""
    return int(np.flatnonzero(mask)[-1])


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
