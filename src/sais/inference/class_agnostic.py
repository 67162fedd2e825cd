"""Class-agnostic non-maximum suppression of detections: of two overlapping objects the higher-scoring remains."""

from __future__ import annotations

import numpy as np

from sais.inference.numpy_postprocess import nms
from sais.results.detections import Detections


def drop_overlaps(detections: Detections, nms_iou: float) -> Detections:
    """Drop the lower-scoring of two objects of any class whose boxes overlap.

    Args:
        detections: D detections, scores descending, in which overlaps within a class have been dropped before.
        nms_iou: IoU of boxes above which an object is dropped.

    Returns:
        Detections, scores descending.
    """
    same_label = np.zeros_like(detections.labels)
    remaining = nms(detections.boxes, detections.scores, same_label, nms_iou, max(len(detections), 1))
    selected = detections[remaining]
    selected.omitted = detections.omitted
    return selected
