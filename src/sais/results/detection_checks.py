"""The check of the fields of `Detections`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from sais.results.detections import Detections


def check_detections(detections: Detections) -> None:
    """Raise ValueError unless lengths are equal, numbers finite, labels have names, and masks are in the image."""
    labels, masks, names = detections.labels, detections.cropped_masks, detections.class_names
    lengths = {len(detections.boxes), len(detections.scores), len(labels)}
    if len(lengths) > 1 or len(masks) not in {0, len(detections.scores)}:
        raise ValueError(
            f"detections: {len(detections.boxes)} boxes, {len(detections.scores)} scores, {len(labels)} labels and "
            f"{len(masks)} masks; expected equal numbers"
        )
    if detections.track_ids is not None and len(detections.track_ids) != len(labels):
        raise ValueError(f"detections: {len(detections.track_ids)} track ids for {len(labels)} objects")
    if not (np.isfinite(detections.boxes).all() and np.isfinite(detections.scores).all()):
        raise ValueError("detections: a box or score that is not a finite number")
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(names):
        raise ValueError(f"detections: labels {labels.min()} to {labels.max()} for {len(names)} class names")
    height, width = detections.image_size
    for mask in masks:
        h, w = mask.shape
        if mask.x < 0 or mask.y < 0 or mask.x + w > width or mask.y + h > height:
            raise ValueError(
                f"detections: mask of {h} x {w} at row {mask.y}, column {mask.x} extends beyond the image of "
                f"{height} x {width}"
            )
