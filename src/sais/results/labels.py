"""Detections as labels of other programs, for correction and training: LabelMe, YOLO and GeoJSON.

Their polygons are simplified, so that a person can edit them: at a tolerance of one pixel they have a tenth of the
points of the outline along pixel edges, and an IoU of at least 0.98 with the mask.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sais.results import geojson, labelme, yolo
from sais.results.labeled_object import objects_of

if TYPE_CHECKING:
    from sais.results.detections import Detections


def to_labelme(detections: Detections, image_path: str, tolerance: float = 1.0) -> dict[str, Any]:
    """Return the content of a LabelMe file, with scores as descriptions.

    Args:
        detections: D detections.
        image_path: Path of the image, relative to the file.
        tolerance: Pixels by which polygons may deviate from the masks, to have fewer points; 0 for exact ones.
    """
    return labelme.to_labelme(objects_of(detections), detections.image_size, image_path, tolerance)


def to_yolo(detections: Detections, tolerance: float = 1.0) -> str:
    """Return the content of a YOLO segmentation file, a line for each detection; the format has no scores.

    Without masks, a line is a box: center x, center y, width, height.

    Args:
        detections: D detections.
        tolerance: As for `to_labelme`.
    """
    boxes = not detections.cropped_masks
    return yolo.to_yolo(objects_of(detections), detections.image_size, tolerance, boxes)


def to_geojson(detections: Detections, image_path: str = "", tolerance: float = 1.0) -> dict[str, Any]:
    """Return a GeoJSON feature collection in pixel coordinates, y down, with class and score as properties.

    Args:
        detections: D detections.
        image_path: Path of the image, relative to the file; empty for none.
        tolerance: As for `to_labelme`.
    """
    return geojson.to_geojson(objects_of(detections), detections.image_size, image_path, tolerance)
