"""Post-processing of dense outputs in numpy, for backends without torch.

The same rules and results as `sais.modeling.postprocess`. Legend: B images, C classes, K prototypes, L locations of all
levels, D detections of one image, M candidates.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from sais.config import PostprocessConfig
from sais.ops.numpy_boxes import box_area, box_intersection
from sais.structures import STRIDES, Instances

LevelSizes = tuple[tuple[int, int], ...]


def level_sizes(canvas: tuple[int, int], strides: Sequence[int] = STRIDES) -> LevelSizes:
    """Return (height, width) of each level for a canvas (height, width), rounded up."""
    return tuple((math.ceil(canvas[0] / stride), math.ceil(canvas[1] / stride)) for stride in strides)


def locations(canvas: tuple[int, int], strides: Sequence[int] = STRIDES) -> np.ndarray:
    """Return the centers of all locations, at (i + 0.5) * stride of their level: (L, 2) float32 x y, canvas pixels."""
    points = []
    for stride, (height, width) in zip(strides, level_sizes(canvas, strides), strict=True):
        y, x = np.mgrid[:height, :width].reshape(2, -1)
        points.append(np.stack([x, y], 1) * stride + stride / 2)
    return np.concatenate(points).astype(np.float32)


def postprocess(
    class_logits: np.ndarray,
    quality_logits: np.ndarray | None,
    distances: np.ndarray,
    coefficients: np.ndarray | None,
    prototypes: np.ndarray | None,
    canvas: tuple[int, int],
    content_sizes: Sequence[tuple[float, float]],
    strides: Sequence[int],
    settings: PostprocessConfig,
) -> Instances:
    """Turn the dense outputs of a batch into detections.

    Args:
        class_logits: (B, L, C).
        quality_logits: (B, L); None for a model without a quality branch.
        distances: (B, L, 4) left top right bottom, canvas pixels.
        coefficients: (B, L, K); None for a model without masks.
        prototypes: (B, K, h, w); None for a model without masks.
        canvas: (height, width).
        content_sizes: B times (height, width) in canvas pixels of the image on its canvas; boxes are clipped to it, and
            those entirely in the padding are dropped.
        strides: canvas pixels between neighboring locations of each level.
        settings: score threshold, candidates per level, NMS threshold, maximum number of detections.

    Returns:
        Instances (B, D, .) with D = `settings.max_detections`; empty slots have score 0, label 0 and a box of zeros.
    """
    batch, slots = len(class_logits), settings.max_detections
    sizes, points = level_sizes(canvas, strides), locations(canvas, strides)
    boxes = np.zeros((batch, slots, 4), np.float32)
    scores = np.zeros((batch, slots), np.float32)
    labels = np.zeros((batch, slots), np.int64)
    chosen = None if coefficients is None else np.zeros((batch, slots, coefficients.shape[2]), np.float32)
    for image in range(batch):
        location, label, score = select_candidates(
            class_logits[image],
            None if quality_logits is None else quality_logits[image],
            sizes,
            settings.score_threshold,
            settings.pre_nms_topk,
        )
        candidates = _clipped_boxes(points[location], distances[image, location], content_sizes[image])
        inside = np.flatnonzero((candidates[:, 2:] > candidates[:, :2]).all(1))
        order = nms(candidates[inside], score[inside], label[inside], settings.nms_iou, slots)
        best = inside[order]
        count = len(best)
        boxes[image, :count], scores[image, :count], labels[image, :count] = candidates[best], score[best], label[best]
        if chosen is not None and coefficients is not None:
            chosen[image, :count] = coefficients[image, location[best]]
    return Instances(boxes, scores, labels, chosen, prototypes)


def select_candidates(
    class_logits: np.ndarray,
    quality_logits: np.ndarray | None,
    sizes: LevelSizes,
    score_threshold: float,
    pre_nms_topk: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Select the candidates of one image.

    Works on logits: the sigmoid is computed only for those that pass.

    Args:
        class_logits: (L, C).
        quality_logits: (L,) or None.
        sizes: (height, width) of each level.
        score_threshold: class probability that a candidate must exceed.
        pre_nms_topk: maximum number of locations of each level, those with the highest scores.

    Returns:
        Location (M,), label (M,) and score (M,), class probability times quality.
    """
    threshold = score_threshold
    logit = math.log(threshold / (1 - threshold)) if 0 < threshold < 1 else math.copysign(math.inf, threshold - 0.5)
    location, label = np.nonzero(class_logits > logit)
    score = _sigmoid(class_logits[location, label])
    if quality_logits is not None:
        score = score * _sigmoid(quality_logits[location])
    ends = np.cumsum([height * width for height, width in sizes])
    bounds = np.searchsorted(location, [0, *ends])  # nonzero returns them in ascending order
    selected = []
    for first, last in itertools.pairwise(bounds):
        on_level = np.arange(first, last)
        unique, inverse = np.unique(location[first:last], return_inverse=True)
        if len(unique) > pre_nms_topk:
            best = np.zeros(len(unique), np.float32)
            np.maximum.at(best, inverse, score[first:last])
            top = np.zeros(len(unique), bool)
            top[np.argpartition(-best, pre_nms_topk - 1)[:pre_nms_topk]] = True
            on_level = on_level[top[inverse]]
        selected.append(on_level)
    order = np.concatenate(selected)
    return location[order], label[order], score[order]


def nms(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, nms_iou: float, max_detections: int) -> np.ndarray:
    """Apply greedy non-maximum suppression per class.

    Args:
        boxes: (M, 4) x1 y1 x2 y2.
        scores: (M,).
        labels: (M,).
        nms_iou: IoU above which the lower-scoring of two boxes of one class is removed.
        max_detections: maximum number of boxes, those with the highest scores.

    Returns:
        (D,) indices of the remaining boxes, scores descending.
    """
    order = np.argsort(-scores, kind="stable")
    boxes, labels = boxes[order], labels[order]
    areas = box_area(boxes)
    alive = np.ones(len(order), bool)
    remaining: list[int] = []
    for i in range(len(order)):
        if not alive[i]:
            continue
        remaining.append(i)
        if len(remaining) == max_detections:
            break
        rivals = i + 1 + np.flatnonzero(alive[i + 1 :] & (labels[i + 1 :] == labels[i]))
        shared = box_intersection(boxes[i], boxes[rivals])
        alive[rivals[shared > nms_iou * (areas[i] + areas[rivals] - shared)]] = False
    return order[remaining]


def _clipped_boxes(points: np.ndarray, distances: np.ndarray, content_size: tuple[float, float]) -> np.ndarray:
    """Return boxes (M, 4) float32 from points (M, 2) and distances (M, 4), clipped to (height, width)."""
    x, y = points.T
    left, top, right, bottom = distances.T
    height, width = content_size
    sides = [
        np.clip(x - left, 0, width),
        np.clip(y - top, 0, height),
        np.clip(x + right, 0, width),
        np.clip(y + bottom, 0, height),
    ]
    return np.stack(sides, axis=1).astype(np.float32)


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return (1 / (1 + np.exp(-logits.astype(np.float32)))).astype(np.float32)
