"""Test-time augmentation: images are predicted mirrored and at several scales, and the detections merged. Numpy only.

The detections of each view are mapped back to the image exactly and clustered class by class; each cluster becomes one
object:

- its score is the sum of the scores divided by the number of views: a view without a detection counts 0. A mean over
  the views that detected it would rank an object of a single view next to one that all views agree on;
- its box is the mean of the boxes, weighted by their scores;
- its mask has the pixels that at least half of the scores vote for.

Works with any predictor: `predict_tta` takes one detect function for each scale.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from sais.config import InputConfig
from sais.errors import ConfigError
from sais.ops.letterbox import CANVAS_MULTIPLE
from sais.ops.numpy_boxes import box_area, box_intersection, boxes_overlap
from sais.results import mask_ops
from sais.results.detections import DetectFunction, Detections

if TYPE_CHECKING:
    from sais.inference.options import InferenceOptions
    from sais.inference.score_thresholds import DetectionFilter

SAME_OBJECT_IOU = 0.5
"""Minimum IoU of two detections of one class that are one object."""

MIN_SCALE, MAX_SCALE = 0.1, 8.0


def tta_inputs(settings: InputConfig, scales: Sequence[float]) -> list[InputConfig]:
    """Return the network's input settings at each scale: 1 is the size of training, 2 shows objects twice as large.

    A fixed input is rounded to the nearest multiple of 32 on both sides; where the aspect ratio is kept, the short side
    and the limit of the long side are multiplied.

    Raises:
        ConfigError: no scale, one outside of 0.1 to 8, or two that give the same input (it would count twice).
    """
    if not scales:
        raise ConfigError("tta_scales: empty. Give at least one scale; 1.0 is the size the model was trained with.")
    inputs: list[InputConfig] = []
    for scale in scales:
        if not MIN_SCALE <= scale <= MAX_SCALE:
            raise ConfigError(
                f"tta_scales: {scale:g} is not between {MIN_SCALE:g} and {MAX_SCALE:g}. Give 0.8 or 1.25."
            )
        scaled = replace(settings, size=_scaled_size(settings, scale))
        if scaled in inputs:
            first = scales[inputs.index(scaled)]
            size = f"{scaled.size[0]} x {scaled.size[1]}"
            raise ConfigError(f"tta_scales: {first:g} and {scale:g} give the same input of {size}. Space them further.")
        inputs.append(scaled)
    return inputs


def compose_tta(
    at_input: Callable[[InputConfig, DetectionFilter], DetectFunction],
    settings: InputConfig,
    options: InferenceOptions,
    detection_filter: DetectionFilter,
    fixed_canvas: tuple[int, int] | None,
    flip_labels: np.ndarray | None = None,
) -> DetectFunction:
    """Return the function that detects on images with test-time augmentation.

    Args:
        at_input: function from input settings and a filter to the function that detects at that input.
        settings: input settings of the model.
        options: inference options with the augmentation.
        detection_filter: filter of the merged detections.
        fixed_canvas: the only (height, width) that the model accepts; None: any multiples of 32.
        flip_labels: (C,) label of each class in a mirrored image; None if no label changes.

    Raises:
        ConfigError: the model has a fixed input, and a scale differs from 1.
    """
    inputs = tta_inputs(settings, options.tta_scales)
    if fixed_canvas is not None and inputs != [settings]:
        height, width = fixed_canvas
        raise ConfigError(
            f"tta_scales: the exported model has a fixed input of {height} x {width}. "
            "Use 1.0 only, or export it with a dynamic shape."
        )
    wanted = detection_filter.wanted
    if wanted is not None and flip_labels is not None:  # a wanted class has another label in the mirrored view
        wanted = wanted | wanted[flip_labels]
    functions = [at_input(scaled, replace(detection_filter, minimum=None, wanted=wanted)) for scaled in inputs]

    def detect(images: list[np.ndarray]) -> list[Detections]:
        results = predict_tta(images, functions, options.tta_flip, detection_filter.max_detections, flip_labels)
        return [detection_filter.select(merged) for merged in results]

    return detect


def predict_tta(
    images: Sequence[np.ndarray],
    detect_functions: Sequence[DetectFunction],
    flip: bool,
    max_detections: int = 100,
    flip_labels: np.ndarray | None = None,
) -> list[Detections]:
    """Predict every view of every image and merge the views.

    Args:
        images: each (H, W, 3) uint8.
        detect_functions: one for each scale; each is called with all images.
        flip: whether each scale also sees the mirrored images.
        max_detections: maximum number of detections of each image.
        flip_labels: (C,) label of each class in a mirrored image; None if no label changes.

    Returns:
        Detections of each image.
    """
    views: list[list[Detections]] = [[] for _ in images]
    mirrored = [np.ascontiguousarray(image[:, ::-1]) for image in images] if flip else []
    for detect in detect_functions:
        results = [detect(list(images))]
        if flip:
            results.append([hflip(detections, flip_labels) for detections in detect(mirrored)])
        for result in results:
            for image_views, detections in zip(views, result, strict=True):
                image_views.append(detections)
    return [merge_tta(image_views, max_detections) for image_views in views]


def hflip(detections: Detections, flip_labels: np.ndarray | None = None) -> Detections:
    """Mirror detections horizontally, boxes (D, 4) and masks; applied twice it changes nothing.

    Args:
        detections: D detections.
        flip_labels: (C,) label of each class in a mirrored image; None if no label changes.
    """
    width = detections.image_size[1]
    boxes = detections.boxes.astype(np.float64)
    boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
    masks = [mask_ops.hflip(mask, width) for mask in detections.cropped_masks]
    labels = detections.labels if flip_labels is None else flip_labels[detections.labels]
    return replace(detections, boxes=boxes, labels=labels, cropped_masks=masks)


def merge_tta(views: Sequence[Detections], max_detections: int = 100) -> Detections:
    """Merge the detections of all views of one image.

    From the highest score to the lowest, a detection joins the cluster of its class whose first member it overlaps
    most, by IoU of the masks (of the boxes where one has no mask or an empty one), at least `SAME_OBJECT_IOU`, unless
    the cluster has a member of the same view: a view has already separated its own detections. Else it opens a
    cluster.

    Args:
        views: at least one, all of one image and one model, in the image's pixels.
        max_detections: maximum number of objects, those with the highest scores.

    Returns:
        Detections, scores descending.
    """
    candidates = _Candidates(views)
    clusters: list[list[int]] = []
    for k in np.argsort(-candidates.scores, kind="stable").tolist():
        best_iou, best_cluster = SAME_OBJECT_IOU, None
        for i in np.flatnonzero(candidates.comparable[k, [cluster[0] for cluster in clusters]]):
            cluster = clusters[i]
            if candidates.view[k] in candidates.view[cluster]:
                continue
            iou = candidates.iou(k, cluster[0])
            if iou >= best_iou and (best_cluster is None or iou > best_iou):
                best_iou, best_cluster = iou, cluster
        if best_cluster is None:
            clusters.append([k])
        else:
            best_cluster.append(k)
    scores = np.array([candidates.scores[cluster].sum() / len(views) for cluster in clusters])
    chosen = [clusters[i] for i in np.argsort(-scores, kind="stable")[:max_detections]]
    boxes = [np.average(candidates.boxes[c], axis=0, weights=candidates.weights[c]) for c in chosen]
    masks = []
    if candidates.masks:
        masks = [
            mask_ops.majority_vote([candidates.masks[k] for k in c], candidates.weights[c].tolist()) for c in chosen
        ]
    return Detections(
        views[0].image_size,
        np.array(boxes),
        np.sort(scores)[::-1][:max_detections],
        candidates.labels[[cluster[0] for cluster in chosen]],
        views[0].class_names,
        masks,
    )


class _Candidates:
    """The detections of all views concatenated: N."""

    def __init__(self, views: Sequence[Detections]) -> None:
        self.view = np.repeat(np.arange(len(views)), [len(detections) for detections in views])
        self.boxes = np.concatenate([detections.boxes for detections in views]).astype(np.float64)
        self.scores = np.concatenate([detections.scores for detections in views]).astype(np.float64)
        self.weights = np.maximum(self.scores, 1e-12)
        self.labels = np.concatenate([detections.labels for detections in views])
        self.masks = [mask for detections in views for mask in detections.cropped_masks]
        self.areas = np.array([mask.area for mask in self.masks] or np.zeros(len(self.view)))
        extents = self.boxes.copy()
        for k in np.flatnonzero(self.areas):
            extents[k] = mask_ops.mask_window(self.masks[k])
        same_class = self.labels[:, None] == self.labels[None]
        self.comparable = boxes_overlap(extents[:, None], extents[None]) & same_class
        """(N, N) whether two are of one class and their masks' windows (or boxes) overlap."""

    def iou(self, first: int, second: int) -> float:
        """Return the IoU of two masks, or of two boxes."""
        if self.areas[first] and self.areas[second]:
            areas = self.areas[[first, second]]
            if areas.min() < SAME_OBJECT_IOU * areas.max():
                return 0.0  # even one inside the other would not reach it
            shared = float(mask_ops.intersection_area(self.masks[first], self.masks[second]))
        else:
            areas = box_area(self.boxes[[first, second]])
            shared = float(box_intersection(self.boxes[first], self.boxes[second]))
        return shared / max(float(areas.sum()) - shared, 1e-12)


def _scaled_size(settings: InputConfig, scale: float) -> tuple[int, int]:
    multiple = CANVAS_MULTIPLE if settings.mode == "fixed" else 1
    first, second = (max(1, math.floor(side * scale / multiple + 0.5)) * multiple for side in settings.size)
    return first, second
