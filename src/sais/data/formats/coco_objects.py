"""The annotations of a COCO file: checked, and converted to `Annotation`. N is their number.

The work is done in three passes: ids and segmentations one by one, all boxes at once against the outlines
(`coco_boxes`), then areas one by one.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sais.data.annotation_limits import quoted
from sais.data.annotations import Annotation, Segmentation, rasterize_segmentation
from sais.data.formats import notes as kinds
from sais.data.formats.coco_boxes import BoxTable, contradicted, settle_boxes
from sais.data.formats.coco_document import Categories, Images
from sais.data.formats.coco_ids import as_integer, find_id
from sais.data.formats.coco_segmentation import check_outline, read_segmentation
from sais.data.formats.notes import Notes
from sais.data.objects import UNKNOWN_CLASS
from sais.errors import InputError
from sais.ops import rle
from sais.ops.rasterize import ObjectMask, bounding_box, inside

_ROUNDING = 0.01
"""Pixels by which a box may exceed the image without a note: files round to two decimals."""
_RLE_SAMPLE = 64
"""Number of RLE masks decoded to compare their boxes; all are if one of these contradicts its box."""
_COUNTED_PIXELS = 2**18
"""Area of a box in pixels up to which the area of its mask is counted by pixels, if the file does not state it."""
_UNKNOWN = (math.nan,) * 4
_CROWD_TEXTS = {"": False, "0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}


@dataclass
class _Rows:
    """The annotations that are usable so far, one entry a row in each list."""

    raw: list[dict[str, Any]] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    image_ids: list[int] = field(default_factory=list)
    labels: list[int | None] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    segmentations: list[Segmentation] = field(default_factory=list)
    boxes: list[tuple[float, ...]] = field(default_factory=list)
    """x y width height as stated; NaN where the annotation has none."""
    extents: list[tuple[float, ...]] = field(default_factory=list)
    """x1 y1 x2 y2 of the outline; NaN where it is not known."""


def read_objects(
    path: Path, entries: list[Any], images: Images, categories: Categories, notes: Notes
) -> list[tuple[int, Annotation]]:
    """Return the annotations of a file with their image ids; malformed entries are recorded as problems and left out.

    Args:
        path: The annotation file.
        entries: Value of 'annotations'.
        images: Images of the file.
        categories: Categories of the file.
        notes: Notes of the file.
    """
    rows = _Rows()
    ids: set[int] = set()
    following = 0  # ids given to annotations without a number
    for position, raw in enumerate(entries):
        try:
            annotation_id = raw["id"]
            if type(annotation_id) is not int:
                annotation_id = as_integer(annotation_id)
        except (TypeError, KeyError):
            annotation_id = None
        try:
            if annotation_id is None:
                following = following or _following_id(entries)
                annotation_id, following = following, following + 1
                _check_entry(path, position, raw, notes)
                notes.add(kinds.ANNOTATION_IDS, f"annotations[{position}] is {annotation_id}")
            if annotation_id in ids:
                problem = f"{path}: annotation id {annotation_id} occurs more than once. Give unique ids."
                raise notes.problem(kinds.REPEATED_ID, problem)
            ids.add(annotation_id)
            _add_row(path, raw, annotation_id, images, categories, rows, notes)
        except InputError:
            continue  # recorded
    if not rows.raw:
        return []
    _scale_fractions(path, rows, notes)
    corners = _settle_boxes(path, rows, notes)
    return _annotations(path, rows, corners, notes)


def _following_id(entries: list[Any]) -> int:
    numbers = [as_integer(entry.get("id")) for entry in entries if isinstance(entry, dict)]
    return max((number for number in numbers if number is not None), default=0) + 1


def _check_entry(path: Path, position: int, raw: Any, notes: Notes) -> None:
    if not isinstance(raw, dict):
        problem = f"{path}: annotations[{position}] is {quoted(raw)}, not an annotation. Export the file again."
        raise notes.problem(kinds.BAD_ANNOTATION, problem)


def _add_row(
    path: Path,
    raw: dict[str, Any],
    annotation_id: int,
    images: Images,
    categories: Categories,
    rows: _Rows,
    notes: Notes,
) -> None:
    """Append an annotation to `rows`; raise InputError, recorded as a problem, if it is malformed."""
    if "image_id" not in raw or "category_id" not in raw:
        key = "image_id" if "image_id" not in raw else "category_id"
        problem = f"{path}: not COCO: annotation {annotation_id} lacks '{key}'. Export it as COCO instances."
        raise notes.problem(kinds.BAD_ANNOTATION, problem)
    image_id, category_id = raw["image_id"], raw["category_id"]
    if type(image_id) is not int or image_id not in images.numbers:
        image_id = find_id(images.numbers, image_id)
    if image_id is None:
        problem = f"annotation {annotation_id} is of image {quoted(raw['image_id'])}, which is not in 'images'."
        raise notes.problem(kinds.BAD_REFERENCE, f"{path}: {problem} Remove it, or add the image.")
    if image_id not in images.sizes:
        raise InputError("its image is refused")  # recorded with the image
    if type(category_id) is not int or category_id not in categories.labels:
        category_id = find_id(categories.numbers, category_id)
    if category_id is None:
        problem = (
            f"annotation {annotation_id} is of category {quoted(raw['category_id'])}, which is not in 'categories'."
        )
        raise notes.problem(kinds.BAD_REFERENCE, f"{path}: {problem} Remove it, or add the category.")
    size = images.sizes[image_id]
    place = f"annotation {annotation_id}"
    segmentation, extent = read_segmentation(raw.get("segmentation"), size, str(path), place, notes)
    box = _read_box(path, raw, annotation_id, notes)
    if box is _UNKNOWN and extent is None:
        if segmentation is None:
            notes.add(kinds.NO_SHAPE, f"annotation {annotation_id}")
            return
        extent = _bounds(path, segmentation, size, annotation_id, notes)
    if box is _UNKNOWN:
        notes.add(kinds.BOX_COMPUTED, f"annotation {annotation_id}")
    rows.raw.append(raw)
    rows.ids.append(annotation_id)
    rows.image_ids.append(image_id)
    rows.labels.append(categories.labels[category_id])
    rows.sizes.append(size)
    rows.segmentations.append(segmentation)
    rows.boxes.append(box)
    rows.extents.append(_UNKNOWN if extent is None else extent)


def _read_box(path: Path, raw: dict[str, Any], annotation_id: int, notes: Notes) -> tuple[float, ...]:
    """Return x y width height as stated, or `_UNKNOWN`."""
    given = raw.get("bbox")
    if given is None or given == []:
        return _UNKNOWN
    if not isinstance(given, list) or len(given) != 4:
        problem = f"its bbox is {quoted(given)}, not [x, y, width, height]. Correct or remove it."
        raise notes.problem(kinds.BAD_BOX, f"{path}: annotation {annotation_id}: {problem}")
    return tuple(_number(path, annotation_id, "bbox", value, notes) for value in given)


def _number(path: Path, annotation_id: int, key: str, value: Any, notes: Notes) -> float:
    place = f"{path}: annotation {annotation_id}: its {key} contains"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise notes.problem(kinds.BAD_BOX, f"{place} {quoted(value)}, which is not a number. Correct or remove it.")
    try:
        number = float(value)
    except OverflowError:  # an integer of more than 308 digits
        number = math.inf
    if not math.isfinite(number):
        raise notes.problem(kinds.BAD_BOX, f"{place} {number!r}. Correct or remove the annotation.")
    return number


def _shape(
    path: Path, segmentation: Segmentation, size: tuple[int, int], annotation_id: int, notes: Notes
) -> ObjectMask | None:
    """Return `rasterize_segmentation`, with a malformed mask recorded as a problem."""
    try:
        return rasterize_segmentation(segmentation, size, f"{path}: annotation {annotation_id}")
    except InputError as error:
        raise notes.problem(kinds.BAD_MASK, str(error)) from error


def _bounds(
    path: Path, segmentation: Segmentation, size: tuple[int, int], annotation_id: int, notes: Notes
) -> tuple[float, float, float, float]:
    """Return x1 y1 x2 y2 of a segmentation; a malformed one is recorded as a problem."""
    if isinstance(segmentation, dict):
        try:
            return rle.bounds(segmentation)
        except ValueError as error:
            problem = f"annotation {annotation_id}: malformed mask ({error}). Export it again."
            raise notes.problem(kinds.BAD_MASK, f"{path}: {problem}") from error
    mask = _shape(path, segmentation, size, annotation_id, notes)
    assert mask is not None
    left, top, right, bottom = bounding_box(mask).tolist()
    return left, top, right, bottom


def _scale_fractions(path: Path, rows: _Rows, notes: Notes) -> None:
    """Scale the polygons to pixels in place if all of the file are written as fractions of the image."""
    polygons = [row for row, segmentation in enumerate(rows.segmentations) if isinstance(segmentation, list)]
    # Most files end this at the first polygon. Clipped polygons are not measured: NaN.
    if not polygons or not all(-0.001 <= min(rows.extents[row]) <= max(rows.extents[row]) <= 1.001 for row in polygons):
        return
    for row in polygons:
        height, width = rows.sizes[row]
        parts = [np.array(part).reshape(-1, 2) * (width, height) for part in rows.segmentations[row] or ()]
        scaled = [part.reshape(-1).tolist() for part in parts]
        rows.segmentations[row] = scaled
        with contextlib.suppress(InputError):  # recorded
            check_outline(scaled, height + width, str(path), f"annotation {rows.ids[row]}", notes)
        rows.extents[row] = tuple(float(v) for v in np.array(rows.extents[row]) * (width, height, width, height))
        notes.add(kinds.FRACTION_OUTLINES, f"annotation {rows.ids[row]}")


def _settle_boxes(path: Path, rows: _Rows, notes: Notes) -> np.ndarray:
    """Return the boxes x1 y1 x2 y2 of all rows, (N, 4) float64, not yet clipped to the images."""
    extents = np.array(rows.extents, np.float64)
    sizes = np.array(rows.sizes, np.float64)
    boxes = np.array(rows.boxes, np.float64)
    clipped = np.clip(extents, 0, np.tile(sizes[:, ::-1], 2))
    _measure_rle(rows, boxes, clipped, sizes)
    table = BoxTable(boxes, clipped, sizes, lambda row: f"annotation {rows.ids[row]}")
    corners = settle_boxes(table, str(path), notes)
    missing = np.isnan(boxes).any(1)
    corners[missing] = extents[missing]
    with np.errstate(invalid="ignore"):
        first, last = np.ceil(clipped[:, :2] - 0.5), np.ceil(clipped[:, 2:] - 0.5)
        no_pixel = (first >= last).any(1)
    for row in np.flatnonzero(no_pixel).tolist():
        notes.add(kinds.NO_PIXEL, f"annotation {rows.ids[row]}")
    return corners


def _measure_rle(rows: _Rows, boxes: np.ndarray, extents: np.ndarray, sizes: np.ndarray) -> None:
    """Set the extents (N, 4) of RLE masks: of a sample, and of all if one of these contradicts its box."""
    masks = np.flatnonzero([isinstance(segmentation, dict) for segmentation in rows.segmentations])
    masks = masks[np.isnan(extents[masks]).any(1)]
    if not len(masks):
        return
    sample = masks[np.unique(np.linspace(0, len(masks) - 1, _RLE_SAMPLE).astype(int))]
    for chosen in (sample, np.setdiff1d(masks, sample)):
        for row in chosen.tolist():
            extents[row] = _rle_extent(rows.segmentations[row])
        if not contradicted(BoxTable(boxes[sample], extents[sample], sizes[sample], str)):
            break


def _rle_extent(segmentation: Segmentation) -> tuple[float, ...]:
    """Return x1 y1 x2 y2 of the set pixels of an RLE; NaN if it is empty or malformed, which `sais check` reports."""
    assert isinstance(segmentation, dict)
    try:
        edges = rle.bounds(segmentation)
    except ValueError:
        return _UNKNOWN
    return edges if edges[2] > edges[0] else _UNKNOWN


def _annotations(path: Path, rows: _Rows, corners: np.ndarray, notes: Notes) -> list[tuple[int, Annotation]]:
    """Return the usable rows as annotations with their image ids; boxes are clipped to the images."""
    sizes = np.array(rows.sizes, np.float64)
    limits = np.tile(sizes[:, ::-1], 2)
    inner = corners.clip(0.0, limits)
    no_area = np.any(corners[:, 2:] <= corners[:, :2], axis=1)
    outside = ~no_area & np.any(inner[:, 2:] <= inner[:, :2], axis=1)
    clipped = np.any(np.abs(inner - corners) > _ROUNDING, axis=1)
    unusable, is_clipped = (no_area | outside).tolist(), clipped.tolist()  # lists are read faster
    boxes = list(inner.astype(np.float32))
    annotations = []
    for row, (raw, annotation_id) in enumerate(zip(rows.raw, rows.ids, strict=True)):
        if unusable[row]:
            notes.add(kinds.NO_AREA if no_area[row] else kinds.OUTSIDE, f"annotation {annotation_id}")
            continue
        label = rows.labels[row]
        if label is None:
            notes.add(UNKNOWN_CLASS, f"annotation {annotation_id}")
            continue
        if is_clipped[row]:
            notes.add(kinds.CLIPPED, f"annotation {annotation_id}")
        segmentation = rows.segmentations[row]
        if segmentation is None:
            notes.add(kinds.NO_MASK, f"annotation {annotation_id}")
        try:
            area = _read_area(path, raw, annotation_id, segmentation, rows.sizes[row], boxes[row], notes)
            crowd = _read_crowd(path, raw, annotation_id, notes)
        except InputError:
            continue  # recorded
        annotations.append(
            (rows.image_ids[row], Annotation(annotation_id, boxes[row], label, segmentation, crowd, area))
        )
    return annotations


def _read_area(
    path: Path,
    raw: dict[str, Any],
    annotation_id: int,
    segmentation: Segmentation,
    size: tuple[int, int],
    box: np.ndarray,
    notes: Notes,
) -> float:
    """Return the stated area; if there is none, or none above 0, that of the mask in the box (4,), or of the box."""
    given = raw.get("area")
    if given is not None:
        area = _number(path, annotation_id, "area", given, notes)
        if area > 0:
            return area
    notes.add(kinds.AREA_COMPUTED if given is None else kinds.AREA_REPLACED, f"annotation {annotation_id}")
    x1, y1, x2, y2 = (float(v) for v in box)
    box_area = (x2 - x1) * (y2 - y1)
    if segmentation is None:
        return box_area
    if box_area > _COUNTED_PIXELS:
        return min(box_area, _enclosed_area(path, segmentation, annotation_id, notes))
    mask = _shape(path, segmentation, size, annotation_id, notes)
    assert mask is not None
    return float(inside(mask, (math.floor(x1), math.floor(y1), math.ceil(x2), math.ceil(y2))).sum())


def _enclosed_area(path: Path, segmentation: list[Any] | dict[str, Any], annotation_id: int, notes: Notes) -> float:
    """Return the number of set pixels of an RLE, or the area that polygons enclose, without rasterizing them."""
    if isinstance(segmentation, dict):
        try:
            return float(rle.area(segmentation))
        except ValueError as error:
            problem = f"annotation {annotation_id}: malformed mask ({error}). Export it again."
            raise notes.problem(kinds.BAD_MASK, f"{path}: {problem}") from error
    area = 0.0
    for part in segmentation:
        x, y = np.asarray(part, np.float64).reshape(-1, 2).T
        area += abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2
    return area


def _read_crowd(path: Path, raw: dict[str, Any], annotation_id: int, notes: Notes) -> bool:
    given = raw.get("iscrowd") or 0
    if isinstance(given, str) and given.strip().lower() in _CROWD_TEXTS:
        notes.add(kinds.CROWD_TEXT, f"annotation {annotation_id}")
        return _CROWD_TEXTS[given.strip().lower()]
    if not isinstance(given, (int, float)):
        problem = f"{path}: annotation {annotation_id}: iscrowd is {quoted(given)}. Set it to 0 or 1."
        raise notes.problem(kinds.BAD_ANNOTATION, problem)
    return bool(given)
