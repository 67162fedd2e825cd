"""Detections in the COCO results format."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sais.results.detections import Detections


def to_coco(detections: Detections, image_id: int, category_ids: Sequence[int] | None = None) -> list[dict[str, Any]]:
    """Return one result for each detection: image_id, category_id, bbox x y w h, score and segmentation.

    Args:
        detections: D detections.
        image_id: Id of the image in the data set.
        category_ids: C category ids, label 0 first; None writes the label, which starts at 0.
    """
    segmentations = detections.rle() if detections.cropped_masks else []
    results = []
    for i, (x1, y1, x2, y2) in enumerate(detections.boxes.tolist()):
        label = int(detections.labels[i])
        result: dict[str, Any] = {
            "image_id": int(image_id),
            "category_id": label if category_ids is None else int(category_ids[label]),
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": float(detections.scores[i]),
        }
        if segmentations:
            result["segmentation"] = segmentations[i]
        results.append(result)
    return results
