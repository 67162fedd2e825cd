"""What became of each object and of each detection of an evaluation, in words that a person can check on an image.

A detection is looked at from score 0.3, the score at which `sais predict` draws. Image by image, the best score
first (N objects, D detections, IoU of masks, or of boxes where there are no masks):

1. *Right*: it takes the object of its class, not yet taken, that it overlaps most, with an IoU of at least 0.5.
2. *Wrong class*: of those left over, it takes the object of another class, not yet taken, in the same way.
3. *Duplicate*: it overlaps an object that is taken by 0.5.
4. *Poor mask*: it overlaps an object of its class by 0.1, not by 0.5.
5. *Background*: none of these.

An object is found (1), found as another class (2), found poorly (not taken, but a poor mask is of it) or missed. What
lies for the most part in a crowd of its class, or in an object that has no mask where masks are judged, is not counted,
as in COCO. The kinds follow Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors" (2020), but
count detections instead of AP.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sais.data.annotations import Annotation, DatasetSplit, ImageRecord
from sais.evaluation.coco_metrics import IouType

SCORE = 0.3
"""Least score of a detection that is looked at."""
IOU = 0.5
"""Least overlap of a right detection."""
POOR = 0.1
"""Least overlap of a poor one."""

RIGHT, CLASS, DUPLICATE, MASK, BACKGROUND, IGNORED = range(6)
"""What became of a detection; `CLASS` and `MASK` also of an object, beside the next two."""
FOUND, MISSED = RIGHT, 6
"""What became of an object."""


@dataclass(frozen=True)
class MatchResult:
    """What became of the objects and detections of one image."""

    detections: np.ndarray
    """(D,) int: RIGHT, CLASS, DUPLICATE, MASK, BACKGROUND or IGNORED."""
    objects: np.ndarray
    """(N,) int: FOUND, CLASS, MASK or MISSED."""
    partners: np.ndarray
    """(D,) int: the object that a right detection, or one of a wrong class, took; -1 for the others."""


@dataclass(frozen=True)
class ImageAnalysis:
    """One image."""

    record: ImageRecord
    results: list[dict[str, Any]]
    """Its D detections in the COCO submission format, best score first."""
    objects: tuple[Annotation, ...]
    """Its N objects to find."""
    verdict: MatchResult
    quality: float | None
    """The overlaps of its right detections, summed, over the mean of N and D: 1 where all is found exactly and nothing
    else is; the panoptic quality of Kirillov et al. (2019), of all classes together. None where N and D are 0."""

    def count(self, kind: int) -> int:
        """How many detections became this."""
        return int((self.verdict.detections == kind).sum())


@dataclass(frozen=True)
class ErrorAnalysis:
    """All images of an index."""

    index: DatasetSplit
    kind: IouType
    """'segm' where masks are judged, 'bbox' where boxes are."""
    images: list[ImageAnalysis]

    def detections(self, kind: int) -> int:
        """How many detections became this."""
        return sum(one.count(kind) for one in self.images)

    def objects(self, kind: int) -> int:
        """How many objects became this."""
        return sum(int((one.verdict.objects == kind).sum()) for one in self.images)

    def confusion(self) -> np.ndarray:
        """(C + 1, C + 1) int: objects of a class (row) that were found as a class (column). The last column are those
        that no detection took, the last row the detections that took none."""
        size = len(self.index.class_names) + 1
        label = {category: place for place, category in enumerate(self.index.category_ids)}
        matrix = np.zeros((size, size), np.int64)
        for one in self.images:
            verdict, left = one.verdict, {place: a.label for place, a in enumerate(one.objects)}
            for result, kind, partner in zip(one.results, verdict.detections, verdict.partners, strict=True):
                if kind != IGNORED:
                    row = left.pop(int(partner)) if partner >= 0 else size - 1
                    matrix[row, label[result["category_id"]]] += 1
            for row in left.values():
                matrix[row, size - 1] += 1
        return matrix


def analyze_errors(
    index: DatasetSplit, results: Sequence[dict[str, Any]], kind: IouType, score: float = SCORE
) -> ErrorAnalysis:
    """What became of each object of the index and each result at `score` or above.

    Args:
        index: one split.
        results: of an evaluation, in the COCO submission format; with a 'segmentation' where masks are judged.
        kind: 'segm' or 'bbox'.
    """
    label = {category: place for place, category in enumerate(index.category_ids)}
    by_image: dict[int, list[dict[str, Any]]] = {}
    for result in results:
        if result["score"] >= score:
            by_image.setdefault(result["image_id"], []).append(result)
    images = []
    for record in index.images:
        found = sorted(by_image.get(record.id, []), key=lambda result: -result["score"])
        labels = np.array([label[result["category_id"]] for result in found], np.int64)
        objects = tuple(a for a in record.annotations if not _is_region(a, kind))
        regions = [a for a in record.annotations if _is_region(a, kind)]
        wanted = np.array([a.label for a in objects], np.int64)
        ious = overlaps(found, objects, record.size, kind)
        covered = overlaps(found, regions, record.size, kind, of_detection=True)
        covered *= labels[:, None] == np.array([a.label for a in regions], np.int64)[None]
        verdict = match(labels, wanted, ious, covered.max(1, initial=0.0) >= IOU)
        right = np.flatnonzero(verdict.detections == RIGHT)
        counted = len(objects) + int((verdict.detections != IGNORED).sum())
        quality = 2 * float(ious[right, verdict.partners[right]].sum()) / counted if counted else None
        images.append(ImageAnalysis(record, found, objects, verdict, quality))
    return ErrorAnalysis(index, kind, images)


def match(labels: np.ndarray, wanted: np.ndarray, ious: np.ndarray, covered: np.ndarray) -> MatchResult:
    """The rules at the top of this file, for one image.

    Args:
        labels: (D,) classes of the detections, best score first.
        wanted: (N,) classes of the objects.
        ious: (D, N).
        covered: (D,) bool: whether a detection that takes no object lies where nothing is counted.
    """
    partners = np.full(len(labels), -1)
    verdicts = np.full(len(labels), BACKGROUND)
    taken = np.zeros(len(wanted), bool)
    best = ious.max(1, initial=0.0)  # most detections overlap nothing, and need not be looked at
    for kind in (RIGHT, CLASS):
        for d in np.flatnonzero((partners < 0) & (best >= IOU)):
            fitting = (wanted == labels[d]) if kind == RIGHT else (wanted != labels[d])
            overlap = np.where(fitting & ~taken, ious[d], -1.0)
            if overlap.max() >= IOU:
                partners[d] = overlap.argmax()
                verdicts[d] = kind
                taken[partners[d]] = True
    objects = np.full(len(wanted), MISSED)
    for d in np.flatnonzero((partners < 0) & (covered | (best >= POOR))):
        poor = (wanted == labels[d]) & (ious[d] >= POOR)
        if (taken & (ious[d] >= IOU)).any():
            verdicts[d] = DUPLICATE
        elif covered[d]:
            verdicts[d] = IGNORED
        elif poor.any():
            verdicts[d] = MASK
            objects[poor] = MASK
    for d in np.flatnonzero(partners >= 0):
        objects[partners[d]] = verdicts[d]
    return MatchResult(verdicts, objects, partners)


def overlaps(
    results: Sequence[dict[str, Any]],
    annotations: Sequence[Annotation],
    size: tuple[int, int],
    kind: IouType,
    of_detection: bool = False,
) -> np.ndarray:
    """IoU of each result with each annotation, (D, N); with `of_detection` the share of the result that lies in it.

    Computed as the COCO evaluation does, outlines drawn in its way.
    """
    from faster_coco_eval.core import mask

    if not results or not annotations:
        return np.zeros((len(results), len(annotations)))
    crowds = [int(of_detection)] * len(annotations)
    if kind == "bbox":
        found = [list(map(float, result["bbox"])) for result in results]
        return np.asarray(mask.iou(found, [_xywh(a) for a in annotations], crowds), np.float64)
    height, width = size
    wanted = [_run_lengths(a, height, width) for a in annotations]
    return np.asarray(mask.iou([result["segmentation"] for result in results], wanted, crowds), np.float64)


def _is_region(annotation: Annotation, kind: IouType) -> bool:
    """Whether what is found there is not counted."""
    return annotation.crowd or (kind == "segm" and annotation.segmentation is None)


def _xywh(annotation: Annotation) -> list[float]:
    x1, y1, x2, y2 = (float(edge) for edge in annotation.box)
    return [x1, y1, x2 - x1, y2 - y1]


def _run_lengths(annotation: Annotation, height: int, width: int) -> Any:
    from faster_coco_eval.core import mask

    shape = annotation.segmentation
    if shape is None:  # its box
        x, y, w, h = _xywh(annotation)
        shape = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    if isinstance(shape, list):
        return mask.merge(mask.frPyObjects(shape, height, width))
    return mask.frPyObjects(shape, height, width) if isinstance(shape["counts"], list) else shape
