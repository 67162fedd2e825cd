"""Labels of an image as a GeoJSON feature collection in pixel coordinates, as QuPath and GIS programs read it.

x is to the right and y down, from the upper left corner of the image. A feature is an object: a Polygon or, of several
parts, a MultiPolygon, with holes. Its properties have the class, as `classification` also for QuPath.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from sais.ops.outlines import group_rings, ring_area, shape_rings
from sais.ops.rasterize import Polygons
from sais.results.labeled_object import LabeledObject


def to_geojson(
    objects: Iterable[LabeledObject], size: tuple[int, int], image_path: str = "", tolerance: float = 0.0
) -> dict[str, Any]:
    """Return a feature collection.

    Args:
        objects: Objects of the image.
        size: (H, W) of the image.
        image_path: Path of the image, relative to the file; empty for none.
        tolerance: Pixels by which outlines may deviate from the masks, to have fewer points; 0 for exact ones.
    """
    properties: dict[str, Any] = {
        "coordinates": "pixels; x to the right, y down, from the upper left corner of the image",
        "image_height": int(size[0]),
        "image_width": int(size[1]),
    }
    if image_path:
        properties = {"image": image_path} | properties
    features = [_feature(item, size, tolerance) for item in objects]
    return {"type": "FeatureCollection", "properties": properties, "features": features}


def _feature(item: LabeledObject, size: tuple[int, int], tolerance: float) -> dict[str, Any]:
    properties: dict[str, Any] = {
        "objectType": "annotation",
        "classification": {"name": item.class_name},
        "class": item.class_name,
        "box": item.box.astype(np.float64).tolist(),
    }
    if item.score is not None:
        properties |= {"score": item.score, "measurements": {"score": item.score}}
    if item.crowd:
        properties["crowd"] = True
    parts = [] if item.shape is None else _parts(item.shape, size, tolerance)
    if not parts:
        x1, y1, x2, y2 = item.box.astype(np.float64).tolist()
        parts = [[np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])]]
        properties["box_only"] = True
    polygons = [[_closed(ring) for ring in part] for part in parts]
    geometry = (
        {"type": "Polygon", "coordinates": polygons[0]}
        if len(polygons) == 1
        else {"type": "MultiPolygon", "coordinates": polygons}
    )
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def _parts(shape: Any, size: tuple[int, int], tolerance: float) -> list[list[np.ndarray]]:
    """Return the outer rings (P, 2) of a shape with their holes."""
    rings = shape_rings(shape, size, tolerance)
    if isinstance(shape, Polygons) and not any(ring_area(ring) < 0 for ring in rings):
        return [[ring] for ring in rings]  # also those without area, which cross themselves
    return group_rings(rings)


def _closed(ring: np.ndarray) -> list[list[float]]:
    """Return a ring (P, 2) as GeoJSON wants it: its first point again at the end."""
    points: list[list[float]] = ring.tolist()
    return [*points, points[0]]
