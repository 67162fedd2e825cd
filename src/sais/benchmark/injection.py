"""Dense outputs that encode the objects of a workload, in numpy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sais.benchmark.workload import Workload
from sais.config import CriterionConfig
from sais.ops.letterbox import CanvasMap
from sais.structures import STRIDES


def inject_detections(
    workload: Workload, canvas_map: CanvasMap, level_sizes: Sequence[tuple[int, int]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Create dense outputs that encode the D objects of a workload.

    Each object gets the free location nearest to its center on its level. Its neighbors predict the same object with a
    lower score, as those of a trained network do, and are removed by NMS.

    Args:
        workload: the image and its objects.
        canvas_map: the map from the image to the canvas.
        level_sizes: the height and width of each pyramid level.

    Returns:
        Class logits (1, L, C), centerness logits (1, L) and distances (1, L, 4) in canvas pixels, all float32.
    """
    points, levels = _locations(level_sizes)
    boxes = canvas_map.boxes(workload.boxes).astype(np.float32)
    logits = np.full((1, len(points), workload.num_classes), -9, np.float32)
    centerness = np.full((1, len(points)), -3, np.float32)
    distances = np.ones((1, len(points), 4), np.float32)
    free = np.ones(len(points), bool)
    bounds = (0.0, *CriterionConfig().level_ranges, np.inf)
    for count, logit in ((1, 2.0), (8, 0.0)):
        for box, label in zip(boxes, workload.labels, strict=True):
            half_side = float((box[2:] - box[:2]).max()) / 2
            level = next(i for i in range(len(level_sizes)) if bounds[i] < half_side <= bounds[i + 1])
            sides = np.concatenate([points - box[:2], box[2:] - points], 1)
            cost = np.linalg.norm(points - (box[:2] + box[2:]) / 2, axis=1)
            cost[levels != level] += 1e4  # locations of another level only if this level is full
            cost[sides.min(1) <= 0] += 1e5 if count == 1 else np.inf  # a small box may contain no location
            cost[~free] = np.inf
            nearest = np.argsort(cost, kind="stable")[:count]
            chosen = nearest[cost[nearest] < np.inf]
            free[chosen] = False
            logits[0, chosen, label] = logit
            centerness[0, chosen] = logit
            distances[0, chosen] = sides[chosen]
    return logits, centerness, distances


def _locations(level_sizes: Sequence[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the centers of all locations in canvas pixels, (L, 2) float32, and the pyramid level of each, (L,)."""
    points, levels = [], []
    for level, (stride, (height, width)) in enumerate(zip(STRIDES, level_sizes, strict=True)):
        y, x = np.mgrid[:height, :width].reshape(2, -1)
        points.append(np.stack([x, y], 1) * stride + stride / 2)
        levels.append(np.full(height * width, level))
    return np.concatenate(points).astype(np.float32), np.concatenate(levels)
