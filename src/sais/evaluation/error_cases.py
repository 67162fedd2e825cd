"""Errors one by one: missed objects, detections on background, wrong classes, poor masks, duplicates; the worst first.

Missed objects are ordered by their area, since large ones are easy to see; all others by their score, as confident
errors are the worst. Of each, the image shows what is wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sais.data.annotations import Annotation, DatasetSplit, ImageRecord
from sais.evaluation.error_analysis import (
    BACKGROUND,
    CORRECT,
    DUPLICATE,
    MISSED,
    POOR_MASK,
    WRONG_CLASS,
    ErrorAnalysis,
    ImageAnalysis,
)
from sais.ops.numpy_boxes import box_intersection

KINDS = {
    MISSED: "missed",
    BACKGROUND: "background",
    WRONG_CLASS: "wrong class",
    POOR_MASK: "poor mask",
    DUPLICATE: "duplicate",
}
"""Outcome -> name of the error, in the order of the page; of models without masks, a poor mask is a poor box."""
CSV_COLUMNS = (
    *("kind", "image_id", "file_name", "class", "detected_as", "score", "iou"),
    *("x", "y", "width", "height", "area", "neighbors", "annotation_id", "best_score"),
)


@dataclass(frozen=True)
class ErrorCase:
    """One error."""

    outcome: int
    """One of `KINDS`."""
    record: ImageRecord
    annotation: Annotation | None
    """The object concerned; None for a detection on background."""
    result: dict[str, Any] | None
    """The detection, in the COCO submission format; None for a missed object."""
    iou: float
    """IoU of the detection with the object; 0 without one."""
    neighbors: int
    """Number of other objects whose boxes overlap that of the object."""
    best_score: float | None = None
    """Of a missed object: score of a correct detection of it below the threshold; None if there is none."""

    @property
    def rank(self) -> float:
        """How bad the error is: higher is worse."""
        if self.result is not None:
            return float(self.result["score"])
        assert self.annotation is not None
        return float(self.annotation.area)

    def row(self, split: DatasetSplit) -> dict[str, Any]:
        """Return the entries of `CSV_COLUMNS`; those that the error does not have are None."""
        annotation, result = self.annotation, self.result
        label = None if result is None else split.category_ids.index(result["category_id"])
        if annotation is not None:
            x1, y1, x2, y2 = (round(float(edge), 2) for edge in annotation.box)
            box = [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)]
        if result is not None:
            box = [round(float(value), 2) for value in result["bbox"]]
        return {
            "kind": KINDS[self.outcome],
            "image_id": self.record.id,
            "file_name": self.record.name,
            "class": None if annotation is None else split.class_names[annotation.label],
            "detected_as": None if label is None else split.class_names[label],
            "score": None if result is None else round(float(result["score"]), 4),
            "iou": None if result is None or annotation is None else round(self.iou, 4),
            **dict(zip(("x", "y", "width", "height"), box, strict=True)),
            "area": None if annotation is None else annotation.area,
            "neighbors": None if annotation is None else self.neighbors,
            "annotation_id": None if annotation is None else annotation.id,
            "best_score": None if self.best_score is None else round(self.best_score, 4),
        }


def error_cases(analysis: ErrorAnalysis, all_scores: ErrorAnalysis) -> dict[int, list[ErrorCase]]:
    """Return the errors of each kind of `KINDS`, the worst first; objects with a poor mask are not listed as missed.

    Args:
        analysis: error analysis of the detections from the score threshold on.
        all_scores: error analysis of all detections of the same images.
    """
    cases: dict[int, list[ErrorCase]] = {outcome: [] for outcome in KINDS}
    for image, complete in zip(analysis.images, all_scores.images, strict=True):
        for case in _cases_of_image(image, complete):
            cases[case.outcome].append(case)
    for outcome in cases:
        cases[outcome].sort(key=lambda case: -case.rank)  # stable: equal ones in the order of the images
    return cases


def count_neighbors(objects: Sequence[Annotation]) -> np.ndarray:
    """Return the number of other objects whose boxes overlap that of each object, (N,) int64.

    Args:
        objects: N objects of one image.
    """
    boxes = np.array([annotation.box for annotation in objects], np.float64).reshape(-1, 4)
    counts = [int((box_intersection(box, boxes) > 0).sum()) - 1 for box in boxes]  # an image may have thousands
    return np.maximum(np.array(counts, np.int64), 0)  # a box without area does not overlap itself


def _cases_of_image(image: ImageAnalysis, complete: ImageAnalysis) -> Iterator[ErrorCase]:
    match, neighbors = image.match, count_neighbors(image.objects)
    for d in np.flatnonzero(np.isin(match.detections, [BACKGROUND, WRONG_CLASS, POOR_MASK, DUPLICATE])):
        outcome, n = int(match.detections[d]), int(image.references[d])
        if outcome == BACKGROUND or n < 0:
            yield ErrorCase(outcome, image.record, None, image.results[d], 0.0, 0)
        else:
            iou = float(image.ious[d])
            yield ErrorCase(outcome, image.record, image.objects[n], image.results[d], iou, int(neighbors[n]))
    correct = np.flatnonzero(complete.match.detections == CORRECT)
    scores = {int(complete.match.matched_objects[d]): float(complete.results[d]["score"]) for d in correct}
    for n in np.flatnonzero(match.objects == MISSED).tolist():
        best = scores.get(n)
        yield ErrorCase(MISSED, image.record, image.objects[n], None, 0.0, int(neighbors[n]), best)
