"""Oracles: the COCO AP of detections of which one part is replaced by the truth. Needs no torch.

All are computed from the detections and the annotations alone. A detection refers to the object of its class with the
highest IoU, if that is at least 0.1.

- *classes*: a detection with an IoU of at least 0.5 with objects of other classes only gets the class of the one with
  the highest IoU.
- *boxes* (boxes are compared): each box is that of the object it refers to.
- *crop* (masks are compared): what the predicted box cuts off the true mask is added, what is outside of the true box
  is removed. It is an upper bound of cropping at the true box, as a model may be wrong outside of its own box.
- *masks* (masks are compared): the true mask inside the predicted box.
- *ranking*: detections and objects of one class are matched one to one, highest IoU first; the score is that IoU, and 0
  without a match.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sais.data.annotations import Annotation, DatasetSplit, ImageRecord
from sais.evaluation.coco_metrics import IouType, coco_metrics
from sais.evaluation.error_analysis import (
    MIN_IOU,
    MIN_POOR_IOU,
    annotation_rle,
    box_or_mask_ious,
    coco_box,
    is_ignore_region,
)
from sais.ops.rle import encode_cropped, parse, to_string

Results = list[dict[str, Any]]
"""Detections in the COCO submission format."""


@dataclass(frozen=True)
class OracleScores:
    """COCO AP of one oracle, fractions of 1; NaN without objects."""

    AP: float
    AP50: float
    AP75: float


@dataclass(frozen=True)
class Match:
    """COCO's matching of the detections of one image at one IoU threshold."""

    objects: np.ndarray
    """(D,) int64, the object that a detection is matched with, -1 without one."""
    ignored: np.ndarray
    """(D,) bool, detections in crowds or in objects without a mask."""


@dataclass(frozen=True)
class ImageResults:
    """The detections and objects of one image."""

    record: ImageRecord
    results: Results
    """D detections, scores descending."""
    objects: tuple[Annotation, ...]
    """N objects, without ignored regions."""
    labels: np.ndarray
    """(D,) int64."""
    scores: np.ndarray
    """(D,) float64."""
    object_labels: np.ndarray
    """(N,) int64."""
    ious: np.ndarray
    """(D, N) IoU."""
    coverage: np.ndarray
    """(D,) fraction of a detection in an ignored region of its class."""

    def match(self, iou: float) -> Match:
        """Match detections and objects of one class, highest score first, each with the object of the highest IoU.

        Args:
            iou: minimum IoU.
        """
        objects = np.full(len(self.labels), -1)
        free = np.ones(len(self.object_labels), bool)
        for d in np.flatnonzero(self.ious.max(1, initial=0.0) >= iou):
            candidates = np.where(free & (self.object_labels == self.labels[d]), self.ious[d], -1.0)[::-1]
            n = len(candidates) - 1 - int(candidates.argmax())  # of equal IoUs the last, as in COCO
            if self.ious[d, n] >= iou and free[n] and self.object_labels[n] == self.labels[d]:
                objects[d], free[n] = n, False
        return Match(objects, (objects < 0) & (self.coverage >= iou))

    def own_ious(self) -> np.ndarray:
        """Return the IoU (D, N) of each detection with the objects of its class, -1 with others."""
        return np.where(self.labels[:, None] == self.object_labels[None], self.ious, -1.0)


def collect_images(
    split: DatasetSplit, results: Sequence[dict[str, Any]], iou_type: IouType, max_detections: int
) -> list[ImageResults]:
    """Return the detections and objects of each image, by ascending image id.

    Args:
        split: dataset split with the ground truth.
        results: detections in the COCO submission format.
        iou_type: 'segm' or 'bbox'.
        max_detections: number of detections of an image and class, those with the highest scores.
    """
    labels = {category_id: label for label, category_id in enumerate(split.category_ids)}
    by_image: dict[int, Results] = {}
    for result in results:
        by_image.setdefault(result["image_id"], []).append(result)
    images = []
    for record in sorted(split.images, key=lambda record: record.id):
        counts = [0] * len(labels)
        chosen: Results = []
        for result in sorted(by_image.get(record.id, []), key=lambda result: -result["score"]):
            counts[labels[result["category_id"]]] += 1
            if counts[labels[result["category_id"]]] <= max_detections:
                chosen.append(result)
        images.append(_image_results(record, chosen, labels, iou_type))
    return images


def _image_results(record: ImageRecord, results: Results, labels: dict[int, int], iou_type: IouType) -> ImageResults:
    objects = tuple(a for a in record.annotations if not is_ignore_region(a, iou_type))
    regions = [a for a in record.annotations if is_ignore_region(a, iou_type)]
    detected = np.array([labels[result["category_id"]] for result in results], np.int64)
    coverage = box_or_mask_ious(results, regions, record.size, iou_type, of_detection=True)
    coverage *= detected[:, None] == np.array([a.label for a in regions], np.int64)[None]
    return ImageResults(
        record,
        results,
        objects,
        detected,
        np.array([result["score"] for result in results], np.float64),
        np.array([a.label for a in objects], np.int64),
        box_or_mask_ious(results, objects, record.size, iou_type),
        coverage.max(1, initial=0.0),
    )


def oracle_scores(
    split: DatasetSplit, images: Sequence[ImageResults], iou_type: IouType, max_detections: int
) -> dict[str, OracleScores]:
    """Compute the scores of the detections as they are ("nothing") and of each oracle.

    Args:
        split: dataset split with the ground truth.
        images: its detections and objects.
        iou_type: 'segm' or 'bbox'.
        max_detections: as for `coco_metrics`.
    """
    changes: dict[str, Callable[[ImageResults], Results]] = {"nothing": lambda image: image.results}
    changes["classes"] = lambda image: _true_classes(image, split.category_ids)
    if iou_type == "bbox":
        changes["boxes"] = _true_boxes
    else:
        changes |= {"crop": _true_crops, "masks": _true_masks}
    changes["ranking"] = _true_ranking

    def score(results: Results) -> OracleScores:
        metrics = coco_metrics(split, results, (iou_type,), max_detections)
        scores = metrics.box if iou_type == "bbox" else metrics.mask
        assert scores is not None
        return OracleScores(scores.AP, scores.AP50, scores.AP75)

    return {name: score([r for image in images for r in change(image)]) for name, change in changes.items()}


def _referred_objects(image: ImageResults) -> np.ndarray:
    """Return the object (D,) that each detection refers to, -1 without one."""
    own = image.own_ious()
    if not own.size:
        return np.full(len(image.labels), -1)
    return np.where(own.max(1) >= MIN_POOR_IOU, own.argmax(1), -1)


def _true_classes(image: ImageResults, category_ids: Sequence[int]) -> Results:
    if not image.ious.size:
        return image.results
    wrong = (image.own_ious().max(1) < MIN_IOU) & (image.ious.max(1) >= MIN_IOU)
    labels = np.where(wrong, image.object_labels[image.ious.argmax(1)], image.labels)
    return [r | {"category_id": category_ids[label]} for r, label in zip(image.results, labels, strict=True)]


def _true_ranking(image: ImageResults) -> Results:
    own, scores = image.own_ious(), np.zeros(len(image.results))
    for _ in range(min(own.shape)):
        d, n = np.unravel_index(own.argmax(), own.shape)
        if own[d, n] <= 0:
            break
        scores[d] = own[d, n]
        own[d], own[:, n] = -1.0, -1.0
    return [result | {"score": float(score)} for result, score in zip(image.results, scores, strict=True)]


def _true_boxes(image: ImageResults) -> Results:
    referred = _referred_objects(image)
    return [
        result if n < 0 else result | {"bbox": coco_box(image.objects[n])}
        for result, n in zip(image.results, referred, strict=True)
    ]


def _true_masks(image: ImageResults) -> Results:
    from faster_coco_eval.core import mask

    rles, size = [annotation_rle(a, *image.record.size) for a in image.objects], image.record.size
    changed = []
    for result, n in zip(image.results, _referred_objects(image), strict=True):
        if n >= 0:
            inside = mask.merge([rles[n], _rectangle(result["bbox"], size)], True)
            result = result | {"segmentation": inside}
        changed.append(result)
    return changed


def _true_crops(image: ImageResults) -> Results:
    from faster_coco_eval.core import mask

    rles, size = [annotation_rle(a, *image.record.size) for a in image.objects], image.record.size
    boxes = [_rectangle(coco_box(a), size) for a in image.objects]
    changed = []
    for result, n in zip(image.results, _referred_objects(image), strict=True):
        if n >= 0:
            cut_off = mask.merge([rles[n], _rectangle(result["bbox"], size, outside=True)], True)
            result = result | {
                "segmentation": mask.merge([mask.merge([result["segmentation"], boxes[n]], True), cut_off])
            }
        changed.append(result)
    return changed


def _rectangle(box: Sequence[float], size: tuple[int, int], outside: bool = False) -> dict[str, Any]:
    """Return the RLE of the pixels whose centers are inside a COCO box x y w h, or outside of it."""
    height, width = size
    x1, y1 = (min(max(int(np.ceil(v - 0.5)), 0), side) for v, side in ((box[0], width), (box[1], height)))
    x2, y2 = (
        min(max(int(np.ceil(v - 0.5)), first), side)
        for v, first, side in ((box[0] + box[2], x1, width), (box[1] + box[3], y1, height))
    )
    rle = encode_cropped(np.ones((y2 - y1, x2 - x1), bool), x1, y1, size)
    if outside:
        counts = parse(rle)[1].tolist()
        rle["counts"] = to_string(counts[1:] if counts[0] == 0 else [0, *counts])
    return rle
