"""COCO's matching of detections with objects, kept for each image, so that AP of any choice of images is quick.

AP of a data set needs the IoU of masks, which takes most of the time, and the matching; both depend on single images
only. `collect_matches` computes them once; `weighted_ap` then computes COCO AP as if each image were in the data set a
given number of times. With every number 1, it is COCO AP; tests compare both. (Of detections with equal scores in
different images, repeated images may be ordered differently than in a data set with copies of them.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sais.data.annotations import Annotation, DatasetSplit
from sais.evaluation.coco_metrics import COCO_MAX_DETECTIONS, IouType
from sais.evaluation.error_analysis import annotation_rle, coco_box, is_ignore_region

IOUS = np.linspace(0.5, 0.95, 10)
"""(T,) IoU thresholds."""
AREAS = ((0.0, 1e10), (0.0, 32.0**2), (32.0**2, 96.0**2), (96.0**2, 1e10))
"""Minimum and maximum area in pixels of all, small, medium and large objects, A = 4."""
RECALLS = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class ClassMatches:
    """The matches of one class in I images."""

    images: np.ndarray
    """(D,) int64, position of the image of each detection; scores descending."""
    matched: np.ndarray
    """(A, T, D) bool, whether a detection is correct."""
    ignored: np.ndarray
    """(A, T, D) bool, whether a detection does not count: in a crowd, or of another size."""
    objects: np.ndarray
    """(A, I) int64, number of objects that count."""


def collect_matches(
    split: DatasetSplit,
    results: Sequence[dict[str, Any]],
    iou_type: IouType,
    max_detections: int = COCO_MAX_DETECTIONS,
) -> list[ClassMatches]:
    """Match the detections of each image and class, and return the matches of each class.

    Args:
        split: dataset split with the ground truth.
        results: detections in the COCO submission format, with 'segmentation' if masks are compared.
        iou_type: 'segm' or 'bbox'.
        max_detections: number of detections of an image and class that AP counts, those with the highest scores.
    """
    labels = {category_id: label for label, category_id in enumerate(split.category_ids)}
    grouped: dict[int, dict[int, list[dict[str, Any]]]] = {}
    for result in results:
        by_label = grouped.setdefault(result["image_id"], {})
        by_label.setdefault(labels[result["category_id"]], []).append(result)
    records = sorted(split.images, key=lambda record: record.id)
    parts: list[list[tuple[np.ndarray, ...]]] = [[] for _ in labels]
    objects = np.zeros((len(labels), len(AREAS), len(records)), np.int64)
    for position, record in enumerate(records):
        truth: dict[int, list[Annotation]] = {}
        for annotation in record.annotations:
            truth.setdefault(annotation.label, []).append(annotation)
        detected = grouped.pop(record.id, {})
        for label in {*truth, *detected}:
            annotations = truth.get(label, [])
            outside = _outside([a.area for a in annotations])
            outside |= np.array([is_ignore_region(a, iou_type) for a in annotations], bool)
            objects[label, :, position] = (~outside).sum(1)
            chosen = sorted(detected.get(label, []), key=lambda result: -result["score"])[:max_detections]
            if chosen:
                scores = np.array([result["score"] for result in chosen], np.float64)
                matches = _match_image(chosen, annotations, outside, record.size, iou_type)
                parts[label].append((scores, np.full(len(chosen), position), *matches))
    return [_join(rows, objects[label]) for label, rows in enumerate(parts)]


def weighted_ap(matches: ClassMatches, weights: np.ndarray) -> np.ndarray:
    """Compute the AP of a class with each image a number of times, (R, A, T) float64; NaN without objects.

    Args:
        matches: matches of the class in I images.
        weights: (R, I) int64, number of times that each image is in each of R data sets.
    """
    repeats = weights.astype(np.int32)[:, matches.images]  # (R, D)
    values = np.full((len(weights), *matches.matched.shape[:2]), np.nan)
    present = np.flatnonzero(matches.objects[0])  # few images have objects of a class; no area has others
    objects = weights[:, present] @ matches.objects[:, present].T  # (R, A)
    for area in range(len(AREAS)):
        matched, counted = matches.matched[area], ~matches.ignored[area]
        positives = objects[:, area]
        # Most detections match nothing at any IoU: their sums are the same for all thresholds.
        varying = matched.any(0) | (counted != counted[0]).any(0)
        steady, places = np.flatnonzero(counted[0] & ~varying), np.flatnonzero(varying)
        sums = np.zeros((len(weights), len(steady) + 1), np.int32)
        np.cumsum(repeats[:, steady], axis=1, out=sums[:, 1:])
        before = sums[:, np.searchsorted(steady, places)]  # (R, V), V varying detections
        weight = repeats[:, places]
        for t in range(len(IOUS)):
            correct = np.flatnonzero(matched[t, places])
            total = before[:, correct] + (weight * counted[t, places]).cumsum(1)[:, correct]
            values[:, area, t] = _mean_precision(weight[:, correct].cumsum(1), total, positives)
        values[positives == 0, area] = np.nan
    return values


def _mean_precision(true: np.ndarray, total: np.ndarray, positives: np.ndarray) -> np.ndarray:
    """Return the mean of the interpolated precision at all recalls, (R,).

    Args:
        true: (R, K) number of correct detections up to each correct detection.
        total: (R, K) number of detections up to it.
        positives: (R,) number of objects.
    """
    if not true.shape[1]:
        return np.zeros(len(true))
    precision = np.maximum.accumulate((true / np.maximum(total, 1))[:, ::-1], axis=1)[:, ::-1]
    # Each correct detection has the weight of the recalls that are reached with it and not before.
    reached = np.searchsorted(RECALLS, true / np.maximum(positives, 1)[:, None], side="right")
    result: np.ndarray = (precision * np.diff(reached, axis=1, prepend=0)).sum(1) / len(RECALLS)
    return result


def _outside(areas: Sequence[float]) -> np.ndarray:
    """Return which areas (N,) are outside of each range of `AREAS`, (A, N) bool."""
    values = np.array(areas, np.float64)
    return np.array([(values < low) | (values > high) for low, high in AREAS], bool).reshape(len(AREAS), -1)


def _match_image(
    results: Sequence[dict[str, Any]],
    annotations: Sequence[Annotation],
    excluded: np.ndarray,
    image_size: tuple[int, int],
    iou_type: IouType,
) -> tuple[np.ndarray, np.ndarray]:
    """Match D results of one image and class with N annotations; return `matched` and `ignored`, (A, T, D) each.

    Args:
        results: results, scores descending.
        annotations: annotations of the class.
        excluded: (A, N) whether an annotation does not count.
        image_size: (H, W).
        iou_type: 'segm' or 'bbox'.
    """
    from faster_coco_eval.core import mask

    crowds = [int(is_ignore_region(a, iou_type)) for a in annotations]
    if iou_type == "bbox":
        shapes: list[Any] = [list(map(float, result["bbox"])) for result in results]
        truth: list[Any] = [coco_box(a) for a in annotations]
        areas = [box[2] * box[3] for box in shapes]
    else:
        shapes = [result["segmentation"] for result in results]
        truth = [annotation_rle(a, *image_size) for a in annotations]
        areas = [float(area) for area in mask.area(shapes)]
    ious = np.asarray(mask.iou(shapes, truth, crowds), np.float64).reshape(len(shapes), -1) if truth else None
    matched = np.zeros((len(AREAS), len(IOUS), len(shapes)), bool)
    in_excluded = np.zeros_like(matched)
    candidates = [] if ious is None else np.flatnonzero(ious.max(1) >= IOUS[0]).tolist()
    rows = [] if ious is None else ious.tolist()
    for area in range(len(AREAS)) if candidates else ():
        is_excluded = excluded[area].tolist()
        order = sorted(range(len(annotations)), key=is_excluded.__getitem__)
        for t, threshold in enumerate(IOUS.tolist()):
            for d, n in _match_at(rows, candidates, order, is_excluded, crowds, threshold):
                (in_excluded if is_excluded[n] else matched)[area, t, d] = True
    return matched, in_excluded | (~matched & _outside(areas)[:, None])


def _match_at(
    ious: Sequence[Sequence[float]],
    candidates: Sequence[int],
    order: Sequence[int],
    is_excluded: Sequence[bool],
    crowds: Sequence[int],
    threshold: float,
) -> list[tuple[int, int]]:
    """Return the pairs (detection, object) at one IoU threshold: each detection takes the best object that is free."""
    taken: set[int] = set()
    pairs = []
    for d in candidates:
        best, chosen = threshold, -1
        for n in order:  # those that count first
            if n in taken and not crowds[n]:
                continue
            if chosen >= 0 and not is_excluded[chosen] and is_excluded[n]:
                break
            if ious[d][n] >= best:
                best, chosen = ious[d][n], n
        if chosen >= 0:
            taken.add(chosen)
            pairs.append((d, chosen))
    return pairs


def _join(rows: Sequence[tuple[np.ndarray, ...]], objects: np.ndarray) -> ClassMatches:
    """Return the matches of all images, sorted by score; of equal scores, images by ascending id."""
    if not rows:
        empty = np.zeros((len(AREAS), len(IOUS), 0), bool)
        return ClassMatches(np.zeros(0, np.int64), empty, empty, objects)
    scores, images, matched, ignored = (np.concatenate(parts, axis=-1) for parts in zip(*rows, strict=True))
    order = np.argsort(-scores, kind="stable")
    return ClassMatches(images[order], matched[..., order], ignored[..., order], objects)
