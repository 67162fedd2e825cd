"""Detections in the COCO format: as results, and as annotations of a COCO file."""

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


def to_coco_annotations(
    detections: Detections,
    image_id: int,
    category_ids: Sequence[int] | None = None,
    first_id: int = 1,
    polygons: bool = False,
) -> list[dict[str, Any]]:
    """Return one annotation for each detection: a result with id, iscrowd 0 and the area of its mask, else of its box.

    Args:
        detections: D detections.
        image_id: Id of the image in the data set.
        category_ids: C category ids, label 0 first; None writes the label, which starts at 0.
        first_id: Id of the first annotation.
        polygons: Whether masks are written as polygons, for programs that do not read RLE. Polygons have no holes.
    """
    areas = detections.area.tolist()
    results = to_coco(detections, image_id, category_ids)
    if polygons and detections.cropped_masks:
        for result, rings in zip(results, detections.polygons(), strict=True):
            result["segmentation"] = [ring.reshape(-1).tolist() for ring in rings if _runs_clockwise(ring)]
    return [
        {"id": first_id + i, "area": area, "iscrowd": 0} | result
        for i, (result, area) in enumerate(zip(results, areas, strict=True))
    ]


def _runs_clockwise(ring: Any) -> bool:
    """Return whether a ring (P, 2) x y runs clockwise as seen on the screen, as outer rings do and holes do not."""
    x, y = ring.T
    return bool((x[:-1] * y[1:] - x[1:] * y[:-1]).sum() + x[-1] * y[0] - x[0] * y[-1] > 0)
