"""Detections in the COCO format: as results, as annotations of a COCO file, and from either."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sais.errors import InputError
from sais.ops.outlines import crop_shape
from sais.ops.rasterize import Polygons
from sais.ops.rle import decode_cropped
from sais.results.cropped_mask import CroppedMask

if TYPE_CHECKING:
    from sais.results.detections import Detections


def to_coco(detections: Detections, image_id: int, category_ids: Sequence[int] | None = None) -> list[dict[str, Any]]:
    """Return one result for each detection: image_id, category_id, bbox x y w h, score, segmentation and track_id.

    Args:
        detections: D detections; masks and track ids are left out where they have none.
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
        if detections.track_ids is not None:
            result["track_id"] = int(detections.track_ids[i])
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


def from_coco(
    kind: type[Detections],
    entries: Sequence[Mapping[str, Any]],
    image_size: tuple[int, int],
    class_names: Sequence[str],
    category_ids: Sequence[int] | None = None,
) -> Detections:
    """Return the results or annotations of one image as detections, sorted by score.

    Args:
        kind: The class `Detections`; passed in, because that module imports this one.
        entries: D results or annotations: `category_id`, `bbox` and `segmentation` (RLE, polygons or none), `score`
            (1 where it is missing, as in annotations), and `track_id` (used if every entry has one).
        image_size: (H, W) of the image.
        class_names: C names, label 0 first.
        category_ids: C category ids, label 0 first; None if the category id is the label.

    Raises:
        InputError: An entry is malformed or of another image size, its category is unknown, the entries belong to
            several images, or only some of them have a segmentation.
    """
    labels = {
        number: label for label, number in enumerate(range(len(class_names)) if category_ids is None else category_ids)
    }
    size = int(image_size[0]), int(image_size[1])
    images = {str(entry["image_id"]) for entry in entries if isinstance(entry, Mapping) and "image_id" in entry}
    if len(images) > 1:
        raise InputError(f"from_coco: entries of {len(images)} images. Give those of one image.")
    masks: list[CroppedMask] = []
    rows: list[tuple[int, float, list[float]]] = []
    for i, entry in enumerate(entries):
        try:
            mask = _cropped_mask(entry.get("segmentation"), size)
            x, y, width, height = (float(value) for value in entry.get("bbox") or _bbox(mask))
            score = float(entry.get("score", 1.0))
            if not np.isfinite([score, x, y, width, height]).all():
                raise ValueError("a score or box that is not finite")
            category = entry["category_id"]
            if category not in labels:
                raise InputError(f"entry {i}: unknown category {category!r:.50}. Give the ids of all classes.")
            rows.append((labels[category], score, [x, y, x + width, y + height]))
        except KeyError as error:
            raise InputError(f"entry {i}: no {error!s:.50}. Fix it or leave it out.") from None
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            raise InputError(f"entry {i}: malformed ({error!s:.200}). Fix it or leave it out.") from None
        masks += [] if mask is None else [mask]
    if len(masks) not in (0, len(rows)):
        raise InputError(f"{len(rows) - len(masks)} of {len(rows)} entries have no segmentation. Give all or none.")
    columns = [[row[k] for row in rows] for k in range(3)]
    found = kind(size, np.array(columns[2]), np.array(columns[1]), np.array(columns[0]), tuple(class_names), masks)
    if entries and all(type(entry.get("track_id")) is int for entry in entries):
        found.track_ids = np.array([entry["track_id"] for entry in entries])
    return found[np.argsort(-found.scores, kind="stable")]


def _cropped_mask(segmentation: Any, size: tuple[int, int]) -> CroppedMask | None:
    """Return a segmentation in an image (H, W): RLE or polygons; None for none, ValueError for a malformed one."""
    if not segmentation:
        return None
    if isinstance(segmentation, Mapping):
        if tuple(segmentation.get("size", ())) != size:
            raise ValueError(f"RLE of size {segmentation.get('size')!r:.50} in an image of {list(size)}")
        bits, x, y = decode_cropped(dict(segmentation))
    else:
        rings = [np.asarray(ring, np.float64).reshape(-1, 2) for ring in segmentation]
        if not all(np.isfinite(ring).all() for ring in rings):
            raise ValueError("polygon with a coordinate that is not a number")
        bits, x, y = crop_shape(Polygons(tuple(rings)), size)
    return CroppedMask(x, y, bits)


def _bbox(mask: CroppedMask | None) -> tuple[float, float, float, float]:
    """Return the box x y w h of a mask that has none of its own."""
    if mask is None:
        raise KeyError("bbox")
    rows, columns = (np.flatnonzero(mask.bits.any(axis)) for axis in (1, 0))
    if not len(rows):
        return 0.0, 0.0, 0.0, 0.0
    x, y = float(mask.x + columns[0]), float(mask.y + rows[0])
    return x, y, float(columns[-1] - columns[0] + 1), float(rows[-1] - rows[0] + 1)
