"""Findings about two objects of one image: labeled twice, one inside the other, or with contradicting classes.

Legend: N objects of the image without crowd regions.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sais.data.annotations import Annotation, ImageRecord, object_mask
from sais.data.doctor import kinds
from sais.data.doctor.report import CheckReport
from sais.errors import SaisError
from sais.ops.numpy_boxes import box_area, box_intersection, box_iou
from sais.ops.rasterize import inside

_COMPARED_PAIRS = 2**20
"""Number of pairs of objects that are compared at once."""
_MAX_COMPARED = 20_000
"""Number of pairs of an image whose masks are compared; more are at the same place in malformed data only."""
_MAX_WINDOW = 2**24
"""Number of pixels of a pair's window above which only the boxes are compared."""


def check_pairs(report: CheckReport, record: ImageRecord) -> None:
    """Check all pairs of objects of an image. An object is reported once as redundant.

    Args:
        report: Report that receives the findings.
        record: The image.
    """
    objects = [a for a in record.annotations if not a.crowd]
    if len(objects) < 2:
        return
    redundant = np.zeros(len(objects), bool)
    compared = 0
    for earlier, later, contained in _candidates(objects, redundant):
        compared += 1
        if compared > _MAX_COMPARED:
            break
        first, second = objects[earlier], objects[later]
        kind = compare_objects(first, second, record.size, contained)
        if not kind:
            continue
        if kind != kinds.SUSPICIOUS_CLASS:
            redundant[earlier if kind == kinds.HIDDEN_OBJECT and contained > 0 else later] = True
        text = f"{record.name}: annotations {first.id} and {second.id}"
        if kind == kinds.SUSPICIOUS_CLASS:
            text += f": {report.split.class_names[first.label]} and {report.split.class_names[second.label]}"
        report.add(kind, text, record, (first.id, second.id))


def _candidates(objects: list[Annotation], redundant: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """Yield pairs of objects whose boxes are at the same place or one inside the other: indices, the earlier first.

    The third number is 1 if the earlier is inside the later, -1 if the later is inside the earlier, 0 for the same
    place. Objects that are `redundant`, (N,) bool, by then are left out.
    """
    boxes = np.stack([a.box for a in objects]).astype(np.float64)
    labels, areas = np.array([a.label for a in objects]), np.maximum(box_area(boxes), 1e-6)
    step = max(1, _COMPARED_PAIRS // len(objects))
    for start in range(0, len(objects), step):
        rows = slice(start, start + step)
        shared = box_intersection(boxes[rows, None], boxes)
        iou = shared / (areas[rows, None] + areas - shared)
        same_place = iou > kinds.SAME_PLACE_IOU
        contained = shared > kinds.HIDDEN_FRACTION * np.minimum(areas[rows, None], areas)
        matches = same_place | (contained & (labels[rows, None] == labels))
        for row in np.flatnonzero(matches.sum(1) > 1).tolist():  # each object is at its own place
            earlier = start + row
            for later in (earlier + 1 + np.flatnonzero(matches[row, earlier + 1 :])).tolist():
                if redundant[earlier]:
                    break
                if not redundant[later]:
                    smaller = 1 if areas[earlier] < areas[later] else -1
                    yield earlier, later, 0 if same_place[row, later] else smaller


def compare_objects(first: Annotation, second: Annotation, size: tuple[int, int], contained: int = 0) -> str:
    """Return the kind of finding about two objects whose boxes are at the same place or one inside the other.

    Args:
        first: An object.
        second: Another object of the same image.
        size: (H, W) of the image.
        contained: 1 if the box of `first` is inside that of `second`, -1 the other way round, 0 for the same place.

    Returns:
        One of `kinds`; empty if nothing is wrong.
    """
    same_class = first.label == second.label
    pixels = _shared_pixels(first, second, size)
    if pixels is None:  # boxes only: one inside another is usual, and so are similar boxes in a row of objects
        if contained or box_iou(first.box, second.box) <= kinds.DUPLICATE_IOU:
            return ""
        return kinds.DUPLICATE_OBJECT if same_class else kinds.SUSPICIOUS_CLASS
    own, other, shared = pixels
    if shared > kinds.SAME_PLACE_IOU * (own + other - shared):
        return kinds.DUPLICATE_OBJECT if same_class else kinds.SUSPICIOUS_CLASS
    smaller = min(own, other)
    return kinds.HIDDEN_OBJECT if same_class and smaller > 0 and shared >= kinds.HIDDEN_FRACTION * smaller else ""


def _shared_pixels(first: Annotation, second: Annotation, size: tuple[int, int]) -> tuple[int, int, int] | None:
    """Return the numbers of pixels of two masks and of those that they share; None without two usable masks."""
    try:
        masks = object_mask(first, size), object_mask(second, size)
    except SaisError:
        return None  # reported
    if masks[0] is None or masks[1] is None:
        return None
    low = np.floor(np.minimum(first.box[:2], second.box[:2])).astype(int)
    high = np.ceil(np.maximum(first.box[2:], second.box[2:])).astype(int)
    if np.prod(high - low) > _MAX_WINDOW:
        return None
    window = (*low.tolist(), *high.tolist())
    own, other = inside(masks[0], window), inside(masks[1], window)
    return int(own.sum()), int(other.sum()), int((own & other).sum())
