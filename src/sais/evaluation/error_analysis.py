"""Error analysis: the outcome of each object and each detection of an evaluation, checkable on the image.

The detections that `sais predict` draws are analyzed: from the score threshold of the model, 0.3 if it has none. For
each image, highest score first
(N objects, D detections, IoU of masks, or of boxes if there are no masks):

1. *Correct*: the detection is matched with the unmatched object of its class with the highest IoU, at least 0.5.
2. *Wrong class*: of the remaining detections, it is matched with an unmatched object of another class in the same way.
3. *Duplicate*: its IoU with a matched object is at least 0.5.
4. *Poor mask*: its IoU with an object of its class is at least 0.1, but below 0.5.
5. *Background*: none of these.

An object is found (1), found as another class (2), found poorly (unmatched, with a poor mask of it) or missed. As in
COCO, a detection is ignored if most of it is in a crowd of its class, or in an object without a mask when masks are
compared. The kinds of errors follow Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors"
(2020), but count detections instead of AP.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sais.data.annotations import Annotation, DatasetSplit, ImageRecord
from sais.evaluation.coco_metrics import IouType
from sais.inference.score_thresholds import DEFAULT_SCORE

MIN_IOU = 0.5
"""Minimum IoU of a correct detection."""
MIN_POOR_IOU = 0.1
"""Minimum IoU of a detection with a poor mask."""

CORRECT, WRONG_CLASS, DUPLICATE, POOR_MASK, BACKGROUND, IGNORED = range(6)
"""Outcomes of a detection; `WRONG_CLASS` and `POOR_MASK` are outcomes of an object as well."""
FOUND, MISSED = CORRECT, 6
"""Outcomes of an object."""


@dataclass(frozen=True)
class MatchResult:
    """The outcomes of the objects and detections of one image."""

    detections: np.ndarray
    """(D,) int: CORRECT, WRONG_CLASS, DUPLICATE, POOR_MASK, BACKGROUND or IGNORED."""
    objects: np.ndarray
    """(N,) int: FOUND, WRONG_CLASS, POOR_MASK or MISSED."""
    matched_objects: np.ndarray
    """(D,) int: object that a correct detection or one of a wrong class is matched with; -1 for all others."""


@dataclass(frozen=True)
class ImageAnalysis:
    """The analysis of one image."""

    record: ImageRecord
    results: list[dict[str, Any]]
    """D detections in the COCO submission format, scores descending."""
    objects: tuple[Annotation, ...]
    """N objects to find."""
    match: MatchResult
    quality: float | None
    """Sum of the IoUs of correct detections, divided by the mean of N and D: 1 if everything is found exactly, without
    other detections. It is the panoptic quality of Kirillov et al. (2019) over all classes. None if N and D are 0."""
    references: np.ndarray
    """(D,) int, the object that a detection refers to: the matched one, else that of the highest IoU, of its class if
    its mask is poor; -1 if it overlaps none."""
    ious: np.ndarray
    """(D,) float64, IoU with that object; 0 without one."""

    def count(self, outcome: int) -> int:
        """Return the number of detections with an outcome."""
        return int((self.match.detections == outcome).sum())


@dataclass(frozen=True)
class ErrorAnalysis:
    """The analysis of all images of a dataset split."""

    split: DatasetSplit
    iou_type: IouType
    """'segm' if masks are compared, 'bbox' if boxes are."""
    images: list[ImageAnalysis]
    score: float = DEFAULT_SCORE
    """Minimum score of the analyzed detections."""

    def detections(self, outcome: int) -> int:
        """Return the number of detections with an outcome."""
        return sum(image.count(outcome) for image in self.images)

    def objects(self, outcome: int) -> int:
        """Return the number of objects with an outcome."""
        return sum(int((image.match.objects == outcome).sum()) for image in self.images)

    def confusion(self) -> np.ndarray:
        """Return the confusion matrix (C + 1, C + 1) int: objects of a class (row) found as a class (column).

        The last column counts objects without a matched detection, the last row detections without a matched object.
        """
        size = len(self.split.class_names) + 1
        labels = {category_id: label for label, category_id in enumerate(self.split.category_ids)}
        matrix = np.zeros((size, size), np.int64)
        for image in self.images:
            match, unmatched = image.match, {i: annotation.label for i, annotation in enumerate(image.objects)}
            for result, outcome, matched in zip(image.results, match.detections, match.matched_objects, strict=True):
                if outcome != IGNORED:
                    row = unmatched.pop(int(matched)) if matched >= 0 else size - 1
                    matrix[row, labels[result["category_id"]]] += 1
            for row in unmatched.values():
                matrix[row, size - 1] += 1
        return matrix


def analyze_errors(
    split: DatasetSplit, results: Sequence[dict[str, Any]], iou_type: IouType, score: float = DEFAULT_SCORE
) -> ErrorAnalysis:
    """Determine the outcome of each object and of each detection with a minimum score.

    Args:
        split: dataset split.
        results: detections of an evaluation in the COCO submission format, with 'segmentation' if masks are compared.
        iou_type: 'segm' or 'bbox'.
        score: minimum score.
    """
    labels = {category_id: label for label, category_id in enumerate(split.category_ids)}
    by_image: dict[int, list[dict[str, Any]]] = {}
    for result in results:
        if result["score"] >= score:
            by_image.setdefault(result["image_id"], []).append(result)
    images = []
    for record in split.images:
        detections = sorted(by_image.get(record.id, []), key=lambda result: -result["score"])
        images.append(_analyze_image(record, detections, labels, iou_type))
    return ErrorAnalysis(split, iou_type, images, score)


def _analyze_image(
    record: ImageRecord, detections: list[dict[str, Any]], labels: dict[int, int], iou_type: IouType
) -> ImageAnalysis:
    """Analyze one image; `labels` maps category ids to labels."""
    detected = np.array([labels[result["category_id"]] for result in detections], np.int64)
    objects = tuple(a for a in record.annotations if not is_ignore_region(a, iou_type))
    regions = [a for a in record.annotations if is_ignore_region(a, iou_type)]
    truth = np.array([annotation.label for annotation in objects], np.int64)
    ious = box_or_mask_ious(detections, objects, record.size, iou_type)
    coverage = box_or_mask_ious(detections, regions, record.size, iou_type, of_detection=True)
    coverage *= detected[:, None] == np.array([annotation.label for annotation in regions], np.int64)[None]
    match = match_detections(detected, truth, ious, coverage.max(1, initial=0.0) >= MIN_IOU)
    correct = np.flatnonzero(match.detections == CORRECT)
    counted = len(objects) + int((match.detections != IGNORED).sum())
    quality = 2 * float(ious[correct, match.matched_objects[correct]].sum()) / counted if counted else None
    return ImageAnalysis(record, detections, objects, match, quality, *_references(match, detected, truth, ious))


def _references(
    match: MatchResult, detected_labels: np.ndarray, object_labels: np.ndarray, ious: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return `ImageAnalysis.references` and `ious`, (D,) each."""
    if not ious.size:
        return np.full(len(ious), -1), np.zeros(len(ious))
    is_poor = match.detections == POOR_MASK
    eligible = np.where(is_poor[:, None] & (detected_labels[:, None] != object_labels), -1.0, ious)
    references = np.where(match.matched_objects >= 0, match.matched_objects, eligible.argmax(1))
    values = ious[np.arange(len(ious)), references]
    return np.where(values > 0, references, -1), values


def match_detections(
    detected_labels: np.ndarray, object_labels: np.ndarray, ious: np.ndarray, covered: np.ndarray
) -> MatchResult:
    """Apply the rules at the top of this file to one image.

    Args:
        detected_labels: (D,) labels of the detections, scores descending.
        object_labels: (N,) labels of the objects.
        ious: (D, N) IoU of each detection with each object.
        covered: (D,) bool, whether a detection is in a region that is ignored; relevant if it has no matched object.
    """
    matched_objects = np.full(len(detected_labels), -1)
    outcomes = np.full(len(detected_labels), BACKGROUND)
    taken = np.zeros(len(object_labels), bool)
    best = ious.max(1, initial=0.0)  # most detections overlap no object and are skipped by it
    for outcome in (CORRECT, WRONG_CLASS):
        for d in np.flatnonzero((matched_objects < 0) & (best >= MIN_IOU)):
            same_class = object_labels == detected_labels[d]
            eligible = (same_class if outcome == CORRECT else ~same_class) & ~taken
            eligible_ious = np.where(eligible, ious[d], -1.0)
            if eligible_ious.max() >= MIN_IOU:
                matched_objects[d] = eligible_ious.argmax()
                outcomes[d] = outcome
                taken[matched_objects[d]] = True
    object_outcomes = np.full(len(object_labels), MISSED)
    for d in np.flatnonzero((matched_objects < 0) & (covered | (best >= MIN_POOR_IOU))):
        poor = (object_labels == detected_labels[d]) & (ious[d] >= MIN_POOR_IOU)
        if (taken & (ious[d] >= MIN_IOU)).any():
            outcomes[d] = DUPLICATE
        elif covered[d]:
            outcomes[d] = IGNORED
        elif poor.any():
            outcomes[d] = POOR_MASK
            object_outcomes[poor] = POOR_MASK
    for d in np.flatnonzero(matched_objects >= 0):
        object_outcomes[matched_objects[d]] = outcomes[d]
    return MatchResult(outcomes, object_outcomes, matched_objects)


def box_or_mask_ious(
    results: Sequence[dict[str, Any]],
    annotations: Sequence[Annotation],
    image_size: tuple[int, int],
    iou_type: IouType,
    of_detection: bool = False,
) -> np.ndarray:
    """Compute the IoU of each result with each annotation as the COCO evaluation does.

    Args:
        results: D results in the COCO submission format.
        annotations: N annotations.
        image_size: (H, W) of the image.
        iou_type: 'segm' or 'bbox'.
        of_detection: whether to divide the intersection by the area of the result instead of the union.

    Returns:
        (D, N) float64.
    """
    from faster_coco_eval.core import mask

    if not results or not annotations:
        return np.zeros((len(results), len(annotations)))
    crowds = [int(of_detection)] * len(annotations)
    if iou_type == "bbox":
        boxes = [list(map(float, result["bbox"])) for result in results]
        return np.asarray(mask.iou(boxes, [coco_box(a) for a in annotations], crowds), np.float64)
    height, width = image_size
    masks = [annotation_rle(annotation, height, width) for annotation in annotations]
    return np.asarray(mask.iou([result["segmentation"] for result in results], masks, crowds), np.float64)


def is_ignore_region(annotation: Annotation, iou_type: IouType) -> bool:
    """Return whether detections inside an annotation are ignored."""
    return annotation.crowd or (iou_type == "segm" and annotation.segmentation is None)


def coco_box(annotation: Annotation) -> list[float]:
    """Return the box of an annotation as x y w h."""
    x1, y1, x2, y2 = (float(edge) for edge in annotation.box)
    return [x1, y1, x2 - x1, y2 - y1]


def annotation_rle(annotation: Annotation, height: int, width: int) -> Any:
    """Return the RLE of an annotation's mask, or of its box if it has none, in an image of height x width."""
    from faster_coco_eval.core import mask

    shape = annotation.segmentation
    if shape is None:  # its box
        x, y, w, h = coco_box(annotation)
        shape = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    if isinstance(shape, list):
        return mask.merge(mask.frPyObjects(shape, height, width))
    return mask.frPyObjects(shape, height, width) if isinstance(shape["counts"], list) else shape
