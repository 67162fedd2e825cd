"""From a graph's dense outputs to detections, in numpy: what `sais.modeling.postprocess.postprocess` does with torch.

Legend: B images, C classes, K prototypes, L locations of all levels, D detections kept of an image.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from sais.structures import STRIDES


@dataclass(frozen=True)
class ImageInstances:
    """The detections of one image, canvas pixels, scores descending."""

    boxes: np.ndarray
    """(D, 4) float32."""
    scores: np.ndarray
    """(D,) float32, class x centerness."""
    labels: np.ndarray
    """(D,) int64."""
    coefficients: np.ndarray | None
    """(D, K) float32; None where the model has no masks."""


def level_sizes(canvas: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """(height, width) of P3 .. P7 for a canvas (height, width); halves are rounded up."""
    return tuple((math.ceil(canvas[0] / stride), math.ceil(canvas[1] / stride)) for stride in STRIDES)


def locations(canvas: tuple[int, int]) -> np.ndarray:
    """(L, 2) float32 x y of every location, canvas pixels: location i of a level lies at (i + 0.5) * stride."""
    points = []
    for stride, (height, width) in zip(STRIDES, level_sizes(canvas), strict=True):
        y, x = np.mgrid[:height, :width].reshape(2, -1)
        points.append(np.stack([x, y], 1) * stride + stride / 2)
    return np.concatenate(points).astype(np.float32)


def postprocess(
    class_logits: np.ndarray,
    centerness_logits: np.ndarray,
    distances: np.ndarray,
    coefficients: np.ndarray | None,
    canvas: tuple[int, int],
    content: tuple[float, float],
    score: float = 0.05,
    candidates: int = 1000,
    nms_iou: float = 0.5,
    detections: int = 100,
) -> ImageInstances:
    """The detections of one image from what the network says at every location.

    Args:
        class_logits: (L, C).
        centerness_logits: (L,).
        distances: (L, 4) left top right bottom, canvas pixels.
        coefficients: (L, K) or None.
        canvas: (height, width).
        content: (height, width) of the image on the canvas; boxes are clipped to it, and those outside go.
        score: least class probability.
        candidates: locations kept per level.
        nms_iou: IoU above which the lower of two boxes of one class goes.
        detections: kept at most.
    """
    location, label, value = select_candidates(class_logits, centerness_logits, level_sizes(canvas), score, candidates)
    x, y = locations(canvas)[location].T
    left, top, right, bottom = distances[location].T
    height, width = content
    boxes = np.stack(
        [
            np.clip(x - left, 0, width),
            np.clip(y - top, 0, height),
            np.clip(x + right, 0, width),
            np.clip(y + bottom, 0, height),
        ],
        axis=1,
    ).astype(np.float32)
    inside = np.flatnonzero((boxes[:, 2:] > boxes[:, :2]).all(1))
    kept = inside[nms(boxes[inside], value[inside], label[inside], nms_iou, detections)]
    chosen = None if coefficients is None else np.ascontiguousarray(coefficients[location[kept]])
    return ImageInstances(boxes[kept], value[kept], label[kept], chosen)


def select_candidates(
    class_logits: np.ndarray,
    centerness_logits: np.ndarray,
    sizes: tuple[tuple[int, int], ...],
    score: float,
    candidates: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Location (M,), label (M,) and class x centerness (M,) of everything that passes `score`, of the best
    `candidates` locations of each level. Works on logits: the sigmoid is taken of the few that pass."""
    threshold = math.log(score / (1 - score)) if 0 < score < 1 else math.copysign(math.inf, score - 0.5)
    location, label = np.nonzero(class_logits > threshold)
    value = _sigmoid(class_logits[location, label]) * _sigmoid(centerness_logits[location])
    ends = np.cumsum([height * width for height, width in sizes])
    bounds = np.searchsorted(location, [0, *ends])  # nonzero goes by rising location
    kept = []
    for first, last in itertools.pairwise(bounds):
        on_level = np.arange(first, last)
        names, places = np.unique(location[first:last], return_inverse=True)
        if len(names) > candidates:
            best = np.zeros(len(names), np.float32)
            np.maximum.at(best, places, value[first:last])
            chosen = np.zeros(len(names), bool)
            chosen[np.argpartition(-best, candidates - 1)[:candidates]] = True
            on_level = on_level[chosen[places]]
        kept.append(on_level)
    order = np.concatenate(kept)
    return location[order], label[order], value[order]


def nms(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, nms_iou: float, detections: int) -> np.ndarray:
    """Greedy non-maximum suppression per class: indices of the kept, scores descending, at most `detections`.

    Args:
        boxes: (M, 4) x1 y1 x2 y2.
        scores: (M,).
        labels: (M,).
        nms_iou: IoU above which the lower of two boxes of one class goes.
        detections: the search ends with so many; the next would have lower scores.
    """
    order = np.argsort(-scores, kind="stable")
    boxes, labels = boxes[order], labels[order]
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    alive = np.ones(len(order), bool)
    kept: list[int] = []
    for i in range(len(order)):
        if not alive[i]:
            continue
        kept.append(i)
        if len(kept) == detections:
            break
        rivals = i + 1 + np.flatnonzero(alive[i + 1 :] & (labels[i + 1 :] == labels[i]))
        low = np.maximum(boxes[i, :2], boxes[rivals, :2])
        sides = np.maximum(np.minimum(boxes[i, 2:], boxes[rivals, 2:]) - low, 0)
        shared = sides[:, 0] * sides[:, 1]
        alive[rivals[shared > nms_iou * (areas[i] + areas[rivals] - shared)]] = False
    return order[kept]


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return (1 / (1 + np.exp(-logits.astype(np.float32)))).astype(np.float32)
