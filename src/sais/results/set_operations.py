"""Operations on two sets of detections in one image: IoU of all pairs, merge and difference."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from sais.errors import InputError
from sais.ops.numpy_boxes import box_area, box_intersection, boxes_overlap
from sais.results.mask_ops import intersection_area, mask_window

if TYPE_CHECKING:
    from sais.results.detections import Detections


def pairwise_iou(first: Detections, second: Detections) -> np.ndarray:
    """Return the IoU of each object of one set with each of another, (D, E) float64.

    Of the masks, in the common window of two masks; of the boxes, if one of the sets has no masks.

    Args:
        first: D detections.
        second: E detections in the same image.

    Raises:
        InputError: The images have different sizes.
    """
    if first.image_size != second.image_size:
        raise InputError(
            f"detections: images of {first.image_size} and {second.image_size} (H, W). Compare detections in one image."
        )
    if first.cropped_masks and second.cropped_masks:
        windows = [np.array([mask_window(mask) for mask in detections.cropped_masks]) for detections in (first, second)]
        areas, shared = (first.area, second.area), np.zeros((len(first), len(second)))
        for i, j in np.argwhere(boxes_overlap(windows[0][:, None], windows[1])).tolist():
            shared[i, j] = intersection_area(first.cropped_masks[i], second.cropped_masks[j])
    else:
        boxes = [detections.boxes.astype(np.float64) for detections in (first, second)]
        areas, shared = (box_area(boxes[0]), box_area(boxes[1])), box_intersection(boxes[0][:, None], boxes[1])
    union = areas[0][:, None] + areas[1] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def merge(first: Detections, second: Detections, iou: float = 0.5, class_agnostic: bool = False) -> Detections:
    """Return the objects of both sets, and of two that are the same object the one with the higher score.

    Objects of one set are never merged with each other. Classes are compared by name; those that only the second set
    has are appended.

    Args:
        first: D detections.
        second: E detections in the same image.
        iou: Minimum IoU of two detections of the same object; above 1 for all objects of both sets.
        class_agnostic: Whether two detections of different classes can be the same object.

    Raises:
        InputError: The images have different sizes, or only one of the sets has masks.
    """
    if len(first) and len(second) and bool(first.cropped_masks) != bool(second.cropped_masks):
        raise InputError("detections: only one of two sets has masks. Merge sets with masks, or sets without.")
    in_first, in_second = _best_of_both(first, second, _same_objects(first, second, iou, class_agnostic))
    first, second = first[in_first], second[in_second]
    names = (*first.class_names, *(name for name in dict.fromkeys(second.class_names) if name not in first.class_names))
    labels = [names.index(second.class_names[label]) for label in second.labels]
    merged = replace(
        first,
        boxes=np.concatenate([first.boxes, second.boxes]),
        scores=np.concatenate([first.scores, second.scores]),
        labels=np.concatenate([first.labels, np.array(labels, np.int64)]),
        class_names=names,
        cropped_masks=[*first.cropped_masks, *second.cropped_masks],
        track_ids=None,  # the same number means different tracks in the two sets
        image=second.image if first.image is None else first.image,
    )
    return merged[np.argsort(-merged.scores, kind="stable")]


def subtract(first: Detections, second: Detections, iou: float = 0.5, class_agnostic: bool = False) -> Detections:
    """Return the objects of the first set that are not in the second: what one model finds and another does not.

    Args:
        first: D detections.
        second: E detections in the same image.
        iou: Minimum IoU of two detections of the same object.
        class_agnostic: Whether two detections of different classes can be the same object.

    Raises:
        InputError: The images have different sizes.
    """
    return first[~np.any(_same_objects(first, second, iou, class_agnostic), axis=1)]


def _best_of_both(first: Detections, second: Detections, same: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which objects of two sets remain, (D,) and (E,) bool: highest score first, none that is there already.

    Only a remaining object displaces others: otherwise an object between two neighbors would displace one of them
    after it has been displaced by the other.
    """
    remaining = np.zeros(len(first), bool), np.zeros(len(second), bool)
    sides = np.repeat([0, 1], [len(first), len(second)])
    indices = np.concatenate([np.arange(len(first)), np.arange(len(second))])
    for k in np.argsort(-np.concatenate([first.scores, second.scores]), kind="stable").tolist():
        side, i = int(sides[k]), int(indices[k])
        pairs = same[i] if side == 0 else same[:, i]
        remaining[side][i] = not (pairs & remaining[1 - side]).any()
    return remaining


def _same_objects(first: Detections, second: Detections, iou: float, class_agnostic: bool) -> np.ndarray:
    """Return which pairs may be one object, (D, E) bool."""
    same = pairwise_iou(first, second) >= iou
    if not class_agnostic:
        names = [np.array(detections.class_names, object) for detections in (first, second)]
        same &= (names[0][:, None] == names[1])[first.labels[:, None], second.labels]
    return same
