"""Error budget: what AP would be if one kind of error were put right. Needs no torch.

**By kind of error**, at one IoU threshold (Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection
Errors", ECCV 2020). COCO's matching decides which detections are correct. A detection that is not has the first of
these errors that applies:

1. *localization*: its IoU with an object of its class is at least 0.1, but below the threshold;
2. *classification*: its IoU with an object of another class reaches the threshold;
3. *duplicate*: its IoU with an object of its class that another detection matches reaches the threshold;
4. *background*: its IoU with every object is at most 0.1;
5. *both*: wrong class and poor localization, all others.

An object without a match is *missed* if no error of localization or classification refers to it. To put a kind right,
the detection with the highest score among those that refer to an unmatched object by error 1 or 2 becomes correct if
its error is of this kind; other detections with this error are removed, and missed objects are removed from the ground
truth. The gain of a kind is the AP then, minus the AP as it is. Gains do not add up to 1.

**By part of the prediction**: COCO AP with one part replaced by the truth, see `sais.evaluation.oracles`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sais.data.annotations import DatasetSplit
from sais.evaluation.coco_metrics import COCO_MAX_DETECTIONS, IouType, align_columns, format_ap
from sais.evaluation.error_analysis import MIN_POOR_IOU
from sais.evaluation.oracles import ImageResults, OracleScores, collect_images, oracle_scores

IOU_THRESHOLDS = (0.5, 0.75)
KINDS = ("classification", "localization", "both", "duplicate", "background", "missed")
"""Kinds of errors in the order of the table."""
_CLASSIFICATION, _LOCALIZATION, _BOTH, _DUPLICATE, _BACKGROUND = range(5)
_CORRECT = -1
_RECALLS = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class TideGains:
    """The AP at one IoU threshold, and what is gained if the errors of one kind are put right."""

    iou: float
    ap: float
    """AP as a fraction of 1; NaN without objects."""
    gains: dict[str, float]
    """Kind -> gain of AP, as a fraction of 1."""
    counts: dict[str, int]
    """Kind -> number of detections with the error, or of missed objects."""


@dataclass(frozen=True)
class ErrorBudget:
    """The error budget of an evaluation."""

    iou_type: IouType
    """'segm' if masks are compared, 'bbox' if boxes are."""
    tide: tuple[TideGains, ...]
    """One for each of `IOU_THRESHOLDS`."""
    oracles: dict[str, OracleScores]
    """Replaced part -> scores, the first without a replacement."""

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as a dictionary for JSON, with None for NaN."""
        tide = [
            {"iou": t.iou, "ap": _none_if_nan(t.ap), "counts": t.counts}
            | {"gains": {kind: _none_if_nan(value) for kind, value in t.gains.items()}}
            for t in self.tide
        ]
        oracles = {name: {k: _none_if_nan(v) for k, v in vars(s).items()} for name, s in self.oracles.items()}
        return {"iou_type": self.iou_type, "tide": tide, "oracles": oracles}

    def rows(self) -> tuple[list[list[str]], list[list[str]]]:
        """Return the cells of two tables, each with a header: by kind of error, and by replaced part."""
        name = "mask" if self.iou_type == "segm" else "box"
        by_kind = [[f"{name} AP", "as it is", *KINDS]]
        by_kind += [
            [f"IoU {t.iou:.2f}", format_ap(t.ap), *(format_gain(t.gains[kind]) for kind in KINDS)] for t in self.tide
        ]
        measured = next(iter(self.oracles.values()))
        by_part = [["true", f"{name} AP", "gain", "AP50", "AP75"]]
        for part, scores in self.oracles.items():
            gain = "" if scores is measured else format_gain(scores.AP - measured.AP)
            by_part.append([part, format_ap(scores.AP), gain, format_ap(scores.AP50), format_ap(scores.AP75)])
        return by_kind, by_part

    def table(self) -> str:
        """Format the two tables as text, at most 80 columns wide."""
        by_kind, by_part = self.rows()
        by_kind[0] = [{"classification": "class", "localization": "local."}.get(cell, cell) for cell in by_kind[0]]
        return (
            f"AP gained if all errors of a kind were put right (TIDE)\n{align_columns(by_kind)}\n\n"
            f"AP if a part of each detection were true\n{align_columns(by_part)}"
        )


def error_budget(
    split: DatasetSplit,
    results: Sequence[dict[str, Any]],
    iou_type: IouType,
    max_detections: int = COCO_MAX_DETECTIONS,
) -> ErrorBudget:
    """Compute the error budget of detections.

    Args:
        split: dataset split with the ground truth.
        results: detections in the COCO submission format, with 'segmentation' if masks are compared.
        iou_type: 'segm' or 'bbox'.
        max_detections: number of detections of an image and class that AP counts, those with the highest scores.
    """
    images = collect_images(split, results, iou_type, max_detections)
    tide = tuple(tide_gains(images, len(split.class_names), iou) for iou in IOU_THRESHOLDS)
    return ErrorBudget(iou_type, tide, oracle_scores(split, images, iou_type, max_detections))


def tide_gains(images: Sequence[ImageResults], num_classes: int, iou: float) -> TideGains:
    """Compute the gain of each kind of error.

    Args:
        images: the detections and objects of all images, by ascending image id.
        num_classes: number of classes C.
        iou: threshold of a correct detection.
    """
    positives, missed = np.zeros(num_classes, np.int64), np.zeros(num_classes, np.int64)
    parts = []
    for image in images:
        positives += np.bincount(image.object_labels, minlength=num_classes)
        rows, missed_objects = _classify_errors(image, iou)
        missed += np.bincount(image.object_labels[missed_objects], minlength=num_classes)
        parts.append(rows)
    labels, kinds, fixed = np.concatenate([np.zeros((3, 0), np.int64), *(rows for _, rows in parts)], axis=1)
    scores = np.concatenate([np.zeros(0), *(values for values, _ in parts)])
    ap = mean_ap(labels, scores, kinds == _CORRECT, positives)
    gains, counts = {}, {}
    for number, kind in enumerate(KINDS[:-1]):
        of_kind = kinds == number
        remaining = ~of_kind | (fixed >= 0)
        corrected = np.where(of_kind, fixed, labels)
        correct = of_kind | (kinds == _CORRECT)
        gains[kind] = mean_ap(corrected[remaining], scores[remaining], correct[remaining], positives) - ap
        counts[kind] = int(of_kind.sum())
    gains["missed"] = mean_ap(labels, scores, kinds == _CORRECT, positives - missed) - ap
    counts["missed"] = int(missed.sum())
    return TideGains(iou, ap, gains, counts)


def _classify_errors(image: ImageResults, iou: float) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """Return the scores (D,), and labels, kinds and labels after a fix (3, D) of detections; and the missed objects.

    Ignored detections are left out. The label after a fix is -1 where the fix removes the detection.
    """
    match = image.match(iou)
    same_class = image.labels[:, None] == image.object_labels[None]
    own, other = np.where(same_class, image.ious, -1.0), np.where(same_class, -1.0, image.ious)
    used = np.zeros(len(image.object_labels), bool)
    used[match.objects[match.objects >= 0]] = True
    kinds, fixed = np.full(len(image.labels), _BOTH), np.full(len(image.labels), -1)
    referred = used.copy()
    for d in np.flatnonzero((match.objects < 0) & ~match.ignored):  # scores descending
        target = -1
        if MIN_POOR_IOU <= own[d].max(initial=-1.0) <= iou:
            kinds[d], target = _LOCALIZATION, own[d].argmax()
        elif other[d].max(initial=-1.0) >= iou:
            kinds[d], target = _CLASSIFICATION, other[d].argmax()
        elif own[d, used].max(initial=-1.0) >= iou:
            kinds[d] = _DUPLICATE
        elif image.ious[d].max(initial=0.0) <= MIN_POOR_IOU:
            kinds[d] = _BACKGROUND
        if target >= 0 and not referred[target]:
            referred[target], fixed[d] = True, image.object_labels[target]
    kinds[match.objects >= 0] = _CORRECT
    counted = ~match.ignored
    rows = np.stack([image.labels, kinds, fixed]).astype(np.int64)[:, counted]
    return (image.scores[counted], rows), np.flatnonzero(~referred)


def mean_ap(labels: np.ndarray, scores: np.ndarray, correct: np.ndarray, positives: np.ndarray) -> float:
    """Compute COCO's AP at one IoU threshold, the mean over the classes with objects; NaN if there are none.

    Args:
        labels: (D,) int64.
        scores: (D,) float64. Of equal scores, the first has the higher rank.
        correct: (D,) bool.
        positives: (C,) int64, number of objects of each class.
    """
    values = []
    for label in np.flatnonzero(positives > 0):
        chosen = np.flatnonzero(labels == label)
        true = correct[chosen[np.argsort(-scores[chosen], kind="stable")]].cumsum()
        if not len(true):
            values.append(0.0)
            continue
        recall, precision = true / positives[label], true / np.arange(1, len(true) + 1)
        precision = np.maximum.accumulate(precision[::-1])[::-1]
        place = np.searchsorted(recall, _RECALLS, side="left")
        values.append(float(np.append(precision, 0.0)[place].mean()))
    return float(np.mean(values)) if values else math.nan


def format_gain(gain: float) -> str:
    """Format a gain of AP with its sign: "+0.013"."""
    return "-" if math.isnan(gain) else f"{gain:+.3f}"


def _none_if_nan(value: float) -> float | None:
    return None if math.isnan(value) else value
