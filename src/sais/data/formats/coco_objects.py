"""The annotations of a COCO file: checked, and converted to arrays. N is their number.

Entries in the usual form are checked all at once, the others one by one in the order of the file (`coco_rows`). Then
all boxes are compared with the outlines (`coco_boxes`), and areas and crowds are read.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sais.data.annotation_limits import quoted
from sais.data.annotations import Segmentation, rasterize_segmentation
from sais.data.formats import notes as kinds
from sais.data.formats.coco_boxes import BoxTable, contradicted, settle_boxes
from sais.data.formats.coco_document import Categories, Images
from sais.data.formats.coco_entries import Entries
from sais.data.formats.coco_ids import find_id
from sais.data.formats.coco_rows import (
    NO_LABEL,
    ObjectRows,
    SingleRows,
    check_usual_rows,
    free_id,
    merge_rows,
    other_ids,
    repeated_ids,
    to_table,
)
from sais.data.formats.coco_segmentation import check_outline, read_segmentation
from sais.data.formats.notes import Notes
from sais.data.objects import UNKNOWN_CLASS
from sais.data.packed_annotations import AnnotationTable
from sais.errors import InputError
from sais.ops import rle
from sais.ops.rasterize import ObjectMask, bounding_box, inside

_ROUNDING = 0.01
"""Pixels by which a box may exceed the image without a note: files round to two decimals."""
_RLE_SAMPLE = 64
"""Number of RLE masks decoded to compare their boxes; all are if one of these contradicts its box."""
_COUNTED_PIXELS = 2**18
"""Area of a box in pixels up to which the area of its mask is counted by pixels, if the file does not state it."""
_MAX_ORPHANS = 0.5
"""Fraction of annotations of unknown images up to which these are what remains of removed images."""
_UNKNOWN = (math.nan,) * 4
_CROWD_TEXTS = {"": False, "0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}


def read_objects(path: Path, entries: Entries, images: Images, categories: Categories, notes: Notes) -> AnnotationTable:
    """Return the images of a file with their annotations; malformed entries are recorded as problems and left out.

    Args:
        path: The annotation file.
        entries: Its annotations.
        images: Images of the file.
        categories: Categories of the file.
        notes: Notes of the file.
    """
    usual = check_usual_rows(entries, images, categories)
    others = other_ids(entries)
    repeated = repeated_ids(entries, others)
    chosen = usual.complete
    if repeated:
        chosen = chosen & ~np.isin(entries.positions, list(repeated))
    singles = SingleRows()
    following = 0  # id given to an annotation whose id an earlier one has
    for position in sorted({*entries.positions[~chosen].tolist(), *entries.others}):
        raw = entries.raw(position)
        annotation_id, is_stated = others[position] if position in others else (raw["id"], True)
        try:
            if not is_stated:
                _check_entry(path, position, raw, notes)
                notes.add(kinds.ANNOTATION_IDS, f"annotations[{position}] is {annotation_id}")
            if position in repeated:
                if raw == entries.raw(repeated[position]):
                    notes.add(kinds.REPEATED_ENTRIES, f"annotation {annotation_id}")
                    continue
                following = following or free_id(entries, others)
                notes.add(kinds.REPEATED_IDS, f"annotation {annotation_id} at annotations[{position}] is {following}")
                annotation_id, following = following, following + 1
            if _add_row(path, raw, annotation_id, images, categories, singles, notes):
                singles.positions.append(position)
        except InputError:
            continue  # recorded
        except RecursionError:
            problem = f"{path}: annotations[{position}] is nested too deeply. Export the file again."
            notes.problem(kinds.BAD_ANNOTATION, problem)
    _check_orphans(path, len(usual.complete) + len(entries.others), notes)
    rows = merge_rows(entries, usual, chosen, singles, images)
    sizes = np.array([images.sizes[image_id] for image_id in images.ids], np.int64).reshape(-1, 2)
    limits = sizes[rows.images].astype(np.float64)
    if not len(rows.ids):
        return to_table(rows, np.zeros((0, 4), np.float32), np.zeros(0, bool), images, sizes, entries)
    _scale_fractions(path, rows, limits, entries, notes)
    corners = _settle_boxes(path, rows, limits, entries, notes)
    boxes, usable = _read_values(path, rows, corners, limits, images, entries, notes)
    return to_table(rows, boxes, usable, images, sizes, entries)


def _check_orphans(path: Path, count: int, notes: Notes) -> None:
    """Record a problem if most of the annotations are of images that the file does not have."""
    orphans = notes.counts[kinds.ORPHANS]
    if orphans > _MAX_ORPHANS * count:
        problem = f"{orphans} of {count} annotations are of images that are not in 'images'"
        first = notes.examples[kinds.ORPHANS][0]
        notes.problem(kinds.BAD_REFERENCE, f"{path}: {problem} (the first: {first}). Export the file again.")


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
    rows: SingleRows,
    notes: Notes,
) -> bool:
    """Append an annotation to `rows`, and return whether it has a shape; raise InputError, recorded, if malformed."""
    if "image_id" not in raw or "category_id" not in raw:
        key = "image_id" if "image_id" not in raw else "category_id"
        problem = f"{path}: not COCO: annotation {annotation_id} lacks '{key}'. Export it as COCO instances."
        raise notes.problem(kinds.BAD_ANNOTATION, problem)
    image_id, category_id = raw["image_id"], raw["category_id"]
    if type(image_id) is not int or image_id not in images.numbers:
        image_id = find_id(images.numbers, image_id)
    if image_id is None:
        notes.add(kinds.ORPHANS, f"annotation {annotation_id} of image {quoted(raw['image_id'])}")
        return False
    if image_id not in images.sizes:
        raise InputError("its image is refused")  # recorded with the image
    if type(category_id) is not int or category_id not in categories.labels:
        category_id = find_id(categories.numbers, category_id)
    if category_id is None:
        stated = quoted(raw["category_id"])
        problem = f"annotation {annotation_id} is of category {stated}, which is not in 'categories'."
        raise notes.problem(kinds.BAD_REFERENCE, f"{path}: {problem} Remove it, or add the category.")
    size = images.sizes[image_id]
    place = f"annotation {annotation_id}"
    segmentation, extent = read_segmentation(raw.get("segmentation"), size, str(path), place, notes)
    if segmentation is None and raw.get("segmentation"):
        images.suspects.add(image_id)
    box = _read_box(path, raw, annotation_id, notes)
    if box is _UNKNOWN and extent is None:
        if segmentation is None:
            notes.add(kinds.NO_SHAPE, f"annotation {annotation_id}")
            return False
        extent = _bounds(path, segmentation, size, annotation_id, notes)
    if box is _UNKNOWN:
        notes.add(kinds.BOX_COMPUTED, f"annotation {annotation_id}")
    if isinstance(segmentation, dict):
        segmentation = {key: value for key, value in segmentation.items() if key in ("size", "counts")}
    label = categories.labels[category_id]
    rows.values.append({key: raw[key] for key in ("area", "iscrowd") if key in raw})
    rows.ids.append(annotation_id)
    rows.image_ids.append(image_id)
    rows.labels.append(NO_LABEL if label is None else label)
    rows.masks.append(None if segmentation is None else json.dumps(segmentation).encode())
    rows.boxes.append(box)
    rows.extents.append(_UNKNOWN if extent is None else extent)
    return True


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


def _scale_fractions(path: Path, rows: ObjectRows, sizes: np.ndarray, entries: Entries, notes: Notes) -> None:
    """Scale the polygons to pixels in place if all of the file are written as fractions of the image.

    Args:
        path: The annotation file.
        rows: The annotations.
        sizes: (N, 2) height, width of their images.
        entries: Their polygons.
        notes: Notes of the file.
    """
    is_polygon = rows.part_counts > 0
    is_polygon[rows.text_rows(b"[")] = True
    polygons, extents = np.flatnonzero(is_polygon), rows.extents[is_polygon]
    # Clipped polygons are not measured: NaN, which is not within the limits.
    if not len(polygons) or not ((extents >= -0.001) & (extents <= 1.001)).all():
        return
    for row in polygons.tolist():
        height, width = sizes[row].tolist()
        given: Any = rows.segmentation(row, entries)
        scaled = [(np.array(part).reshape(-1, 2) * (width, height)).reshape(-1).tolist() for part in given]
        rows.masks[row], rows.part_counts[row] = json.dumps(scaled).encode(), 0
        with contextlib.suppress(InputError):  # recorded
            check_outline(scaled, height + width, str(path), f"annotation {rows.ids[row]}", notes)
        rows.extents[row] *= (width, height, width, height)
        notes.add(kinds.FRACTION_OUTLINES, f"annotation {rows.ids[row]}")


def _settle_boxes(path: Path, rows: ObjectRows, sizes: np.ndarray, entries: Entries, notes: Notes) -> np.ndarray:
    """Return the boxes x1 y1 x2 y2 of all rows, (N, 4) float64, not yet clipped to the images (N, 2)."""
    clipped = np.clip(rows.extents, 0, np.tile(sizes[:, ::-1], 2))
    _measure_rle(rows, clipped, sizes, entries)
    table = BoxTable(rows.boxes, clipped, sizes, lambda row: f"annotation {rows.ids[row]}")
    corners = settle_boxes(table, str(path), notes)
    missing = np.isnan(rows.boxes).any(1)
    corners[missing] = rows.extents[missing]
    with np.errstate(invalid="ignore"):
        first, last = np.ceil(clipped[:, :2] - 0.5), np.ceil(clipped[:, 2:] - 0.5)
        no_pixel = (first >= last).any(1)
    for row in np.flatnonzero(no_pixel).tolist():
        notes.add(kinds.NO_PIXEL, f"annotation {rows.ids[row]}")
    return corners


def _measure_rle(rows: ObjectRows, extents: np.ndarray, sizes: np.ndarray, entries: Entries) -> None:
    """Set the extents (N, 4) of RLE masks: of a sample, and of all if one of these contradicts its box."""
    masks = np.array(rows.text_rows(b"{"), np.int64)
    masks = masks[np.isnan(extents[masks]).any(1)]
    if not len(masks):
        return
    sample = masks[np.unique(np.linspace(0, len(masks) - 1, _RLE_SAMPLE).astype(int))]
    for chosen in (sample, np.setdiff1d(masks, sample)):
        for row in chosen.tolist():
            extents[row] = _rle_extent(rows.segmentation(row, entries))
        if not contradicted(BoxTable(rows.boxes[sample], extents[sample], sizes[sample], str)):
            break


def _rle_extent(segmentation: Segmentation) -> tuple[float, ...]:
    """Return x1 y1 x2 y2 of the set pixels of an RLE; NaN if it is empty or malformed, which `sais doctor` reports."""
    assert isinstance(segmentation, dict)
    try:
        edges = rle.bounds(segmentation)
    except ValueError:
        return _UNKNOWN
    return edges if edges[2] > edges[0] else _UNKNOWN


def _read_values(
    path: Path,
    rows: ObjectRows,
    corners: np.ndarray,
    sizes: np.ndarray,
    images: Images,
    entries: Entries,
    notes: Notes,
) -> tuple[np.ndarray, np.ndarray]:
    """Read areas and crowds in place.

    Args:
        path: The annotation file.
        rows: The annotations.
        corners: (N, 4) boxes x1 y1 x2 y2.
        sizes: (N, 2) height, width of their images.
        images: Images, to which `rows.images` refers.
        entries: Their polygons.
        notes: Notes of the file.

    Returns:
        Boxes clipped to the images, (N, 4) float32, and which rows are usable, (N,) bool.
    """
    inner = corners.clip(0.0, np.tile(sizes[:, ::-1], 2))
    no_area = np.any(corners[:, 2:] <= corners[:, :2], axis=1)
    outside = ~no_area & np.any(inner[:, 2:] <= inner[:, :2], axis=1)
    clipped = np.any(np.abs(inner - corners) > _ROUNDING, axis=1)
    boxes = inner.astype(np.float32)
    usable = ~(no_area | outside) & (rows.labels != NO_LABEL)
    without_mask = ~rows.outlined()
    noted = ~usable | clipped | without_mask
    noted[list(rows.values)] = True
    for row in np.flatnonzero(noted).tolist():
        place = f"annotation {rows.ids[row]}"
        if not usable[row]:
            kind = kinds.NO_AREA if no_area[row] else kinds.OUTSIDE if outside[row] else UNKNOWN_CLASS
            notes.add(kind, f"{images.paths[rows.images[row]].name}: {place}")
            images.suspects.add(images.ids[rows.images[row]])
            continue
        if clipped[row]:
            notes.add(kinds.CLIPPED, place)
        if without_mask[row]:
            notes.add(kinds.NO_MASK, place)
        if row not in rows.values:
            continue
        raw, annotation_id, mask = rows.values[row], int(rows.ids[row]), partial(rows.segmentation, row, entries)
        height, width = (int(side) for side in sizes[row])
        try:
            rows.areas[row] = _read_area(path, raw, annotation_id, mask, (height, width), boxes[row], notes)
            rows.crowds[row] = _read_crowd(path, raw, annotation_id, notes)
        except InputError:
            usable[row] = False  # recorded
    return boxes, usable


def _read_area(
    path: Path,
    raw: dict[str, Any],
    annotation_id: int,
    mask: Callable[[], Segmentation],
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
    segmentation = mask()
    if segmentation is None:
        return box_area
    if box_area > _COUNTED_PIXELS:
        return min(box_area, _enclosed_area(path, segmentation, annotation_id, notes))
    shape = _shape(path, segmentation, size, annotation_id, notes)
    assert shape is not None
    return float(inside(shape, (math.floor(x1), math.floor(y1), math.ceil(x2), math.ceil(y2))).sum())


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
