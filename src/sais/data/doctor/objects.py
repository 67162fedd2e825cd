"""Findings about one object: its size, its box, its mask and its area."""

from __future__ import annotations

import numpy as np

from sais.data.annotations import Annotation, ImageRecord, object_mask, segmentation_bounds
from sais.data.doctor import kinds
from sais.data.doctor.outlines import crosses_itself
from sais.data.doctor.report import CheckReport
from sais.errors import SaisError
from sais.ops import rle
from sais.ops.numpy_boxes import box_area, box_intersection
from sais.ops.outlines import crop_shape, ring_area
from sais.ops.rasterize import CutMask, inside

_STRIP_PIXELS = 2**20
"""Number of pixels that are searched at once for one inside a mask."""
_AREA_RATIO = 1.5
"""Ratio of the stated area and that of the mask above which the two differ."""
_SAME_AREA = 0.005
"""Fraction by which a stated area may differ from that of the box to be taken for it."""
_MAX_FILLING = 0.9
"""Fraction of its box that a mask may fill if the stated area is taken for that of the box."""
_AREA_MARGIN = 32.0
"""Pixels by which they must differ in addition."""


def check_object(report: CheckReport, record: ImageRecord, annotation: Annotation) -> int:
    """Check one object, and return the number of pixels of its decoded mask if that is an RLE of a trainable object.

    Args:
        report: Report that receives the findings.
        record: The image.
        annotation: One of its objects.
    """
    where = f"{record.name}: annotation {annotation.id}"
    _check_sides(report, record, annotation, where)
    try:
        bounds = segmentation_bounds(annotation, record.size)
    except SaisError as error:
        report.add(kinds.MALFORMED_MASK, f"{record.name}: {error}", record, (annotation.id,))
        return 0
    if bounds is None:
        return 0  # counted in the notes of the split
    height, width = record.size
    extent = np.clip(bounds, 0, (width, height, width, height))  # boxes are clipped to the image as well
    if not has_pixels(annotation, record.size, extent):
        report.add(kinds.EMPTY_MASK, where, record, (annotation.id,))
        return 0
    _check_box(report, record, annotation, extent, where)
    if not annotation.crowd:
        _check_area(report, record, annotation, where)
        _check_crossings(report, record, annotation, where)
    is_bitmap = isinstance(annotation.segmentation, dict) and not annotation.crowd
    return round(float(np.prod(extent[2:] - extent[:2]))) if is_bitmap else 0


def _check_sides(report: CheckReport, record: ImageRecord, annotation: Annotation, where: str) -> None:
    width, height = (float(v) for v in annotation.box[2:] - annotation.box[:2])
    sides = f"{where}: {width:.1f} x {height:.1f}"
    short, long = min(width, height), max(width, height)
    if short < kinds.MIN_SIDE:
        report.add(kinds.TINY_OBJECT, sides, record, (annotation.id,))
    elif long > kinds.THIN_RATIO * short and not annotation.crowd:
        report.add(kinds.THIN_OBJECT, sides, record, (annotation.id,))
    if annotation.area > 1.1 * width * height + kinds.MIN_SIDE**2:
        text = f"{where}: {annotation.area:g} in a box of {width:.1f} x {height:.1f}"
        report.add(kinds.LARGE_AREA, text, record, (annotation.id,))


def _check_box(
    report: CheckReport, record: ImageRecord, annotation: Annotation, extent: np.ndarray, where: str
) -> None:
    """Compare the box of an object with that of its mask inside the image, `extent` (4,) x1 y1 x2 y2."""
    if annotation.crowd:
        return
    box = annotation.box.astype(np.float64)
    excess = float(max((box[:2] - extent[:2]).max(), (extent[2:] - box[2:]).max()))
    if excess > kinds.MASK_MARGIN:
        report.add(kinds.MASK_OUTSIDE_BOX, f"{where}: by {excess:.1f} px", record, (annotation.id,))
    elif box_differs(box, extent):
        (width, height), (mask_width, mask_height) = box[2:] - box[:2], extent[2:] - extent[:2]
        text = f"{where}: {width:.1f} x {height:.1f}, mask {mask_width:.1f} x {mask_height:.1f}"
        report.add(kinds.BOX_MISMATCH, text, record, (annotation.id,))


def box_differs(box: np.ndarray, extent: np.ndarray) -> bool:
    """Return whether a box and that of its mask differ more than rounding explains.

    Args:
        box: (4,) x1 y1 x2 y2.
        extent: (4,) x1 y1 x2 y2 of the mask.
    """
    box, extent = box.astype(np.float64), extent.astype(np.float64)
    if np.abs(box - extent).max() <= kinds.MASK_MARGIN:
        return False
    shared = float(box_intersection(box, extent))
    return shared < kinds.BOX_IOU * float(box_area(box) + box_area(extent) - shared)


def _check_area(report: CheckReport, record: ImageRecord, annotation: Annotation, where: str) -> None:
    stated, box_pixels, enclosed = annotation.area, float(box_area(annotation.box)), _enclosed_area(annotation)
    if abs(stated - box_pixels) <= _SAME_AREA * box_pixels:
        if enclosed < _MAX_FILLING * box_pixels:
            report.add(kinds.BOX_AREA, where, record, (annotation.id,))
        return
    if not _areas_differ(stated, enclosed):
        return
    if stated <= 1.1 * box_pixels + kinds.MIN_SIDE**2:  # larger ones are reported
        actual = mask_pixels(annotation, record.size)  # overlapping parts enclose more than they fill
        if _areas_differ(stated, actual):
            text = f"{where}: {stated:g}, mask of {actual} pixels"
            report.add(kinds.WRONG_AREA, text, record, (annotation.id,))


def _areas_differ(first: float, second: float) -> bool:
    low, high = sorted((first, second))
    return high > _AREA_RATIO * low and high - low > _AREA_MARGIN


def _enclosed_area(annotation: Annotation) -> float:
    """Return the area that the parts of a mask enclose, without rasterizing them."""
    if isinstance(annotation.segmentation, dict):
        return float(rle.area(annotation.segmentation))
    parts = annotation.segmentation or ()
    return sum(abs(ring_area(np.asarray(part, np.float64).reshape(-1, 2))) for part in parts)


def mask_pixels(annotation: Annotation, size: tuple[int, int]) -> int:
    """Return the number of pixels of an object's mask inside the image (H, W); 0 without a mask."""
    shape = object_mask(annotation, size)
    assert not isinstance(shape, CutMask)
    return 0 if shape is None else int(crop_shape(shape, size)[0].sum())


def _check_crossings(report: CheckReport, record: ImageRecord, annotation: Annotation, where: str) -> None:
    if isinstance(annotation.segmentation, list):
        parts = (np.asarray(part, np.float64).reshape(-1, 2) for part in annotation.segmentation)
        if any(crosses_itself(part, record.size) for part in parts):
            report.add(kinds.SELF_CROSSING, where, record, (annotation.id,))


def has_pixels(annotation: Annotation, size: tuple[int, int], extent: np.ndarray) -> bool:
    """Return whether any pixel's center is inside a mask.

    Args:
        annotation: The object.
        size: (H, W) of the image.
        extent: (4,) x1 y1 x2 y2 of the mask inside the image.
    """
    if isinstance(annotation.segmentation, dict):
        return bool((extent[2:] > extent[:2]).all())
    mask = object_mask(annotation, size)
    (x1, y1), (x2, y2) = np.floor(extent[:2]).astype(int).tolist(), np.ceil(extent[2:]).astype(int).tolist()
    step = max(1, _STRIP_PIXELS // max(1, x2 - x1))
    strips = ((x1, top, x2, min(top + step, y2)) for top in range(y1, y2, step))
    return mask is not None and any(inside(mask, strip).any() for strip in strips)
