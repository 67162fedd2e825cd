"""The annotations of an item of Datumaro as objects: polygons, masks and boxes."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np

from sais.data.annotation_limits import quoted
from sais.data.formats import notes as kinds
from sais.data.formats.coco_ids import as_integer
from sais.data.formats.split_builder import SplitBuilder
from sais.errors import InputError
from sais.ops.rle import decode_cropped, with_integers

_WITHOUT_AREA = ("points", "polyline", "label", "caption", "feature_vector")
_AREAS = ("polygon", "mask", "bbox")

Entry = tuple[str, dict[str, Any]]
"""The place of an annotation, and the annotation."""
Scale = tuple[float, float]
"""Factors of x and y from the file's pixels to those of the image."""


def add_objects(given: list[Any], scale: Scale, place: str, builder: SplitBuilder) -> None:
    """Add the objects of an item to the image of a builder.

    Args:
        given: Value of 'annotations'.
        scale: Factors of x and y from the file's pixels to those of the image.
        place: Place of the item in messages.
        builder: Builder of the split.
    """
    groups: dict[Any, list[Entry]] = {}
    for position, raw in enumerate(given):
        where = f"{place} annotation {position}"
        kind = raw.get("type") if isinstance(raw, dict) else None
        label = as_integer(raw.get("label_id")) if isinstance(raw, dict) else None
        if kind in _WITHOUT_AREA:
            builder.notes.add(kinds.NO_AREA_SHAPE, where)
        elif not isinstance(kind, str):
            text = f"{builder.folder}: {where}: {quoted(raw)} is no annotation. Export it again."
            builder.notes.problem(kinds.BAD_ANNOTATION, text)
        elif kind not in _AREAS:
            builder.notes.add(kinds.UNKNOWN_SHAPE, where)
        elif label is None or not 0 <= label < builder.class_count:
            text = f"{builder.folder}: {where}: label_id {quoted(raw.get('label_id'))} is not in 'categories'. Add it."
            builder.notes.problem(kinds.BAD_REFERENCE, text)
        else:
            group = as_integer(raw.get("group")) or 0
            groups.setdefault((label, group) if group else (label, 0, position), []).append((where, raw))
    for (label, *_), members in groups.items():
        with builder.notes.recording(kinds.BAD_MASK):
            _add_object(members, label, scale, builder)


def _add_object(members: list[Entry], label: int, scale: Scale, builder: SplitBuilder) -> None:
    """Add one object of one or several annotations."""
    place = members[0][0]
    crowd = any(_is_crowd(raw) for _, raw in members)
    polygons = [
        _polygon(raw, scale, f"{builder.folder}: {where}") for where, raw in members if raw["type"] == "polygon"
    ]
    masks = [(where, raw) for where, raw in members if raw["type"] == "mask"]
    if masks and scale != (1.0, 1.0):
        for where, _ in masks:
            builder.notes.add(kinds.BAD_RLE, where)
        masks = []
    if masks:
        whole = np.zeros(builder.size, bool)
        for where, raw in masks:
            _fill(whole, raw, where, builder)
        builder.fill_polygons(whole, [np.array(part).reshape(-1, 2) for part in polygons], place)
        builder.add_bitmap(place, label, whole, 0, 0, crowd)
    elif polygons:
        builder.add_polygons(place, label, polygons, crowd)
    else:
        for where, raw in members:
            if raw["type"] == "bbox":
                builder.add_box(where, label, _corners(raw, scale, f"{builder.folder}: {where}"), crowd)


def _is_crowd(raw: dict[str, Any]) -> bool:
    attributes = raw.get("attributes")
    return isinstance(attributes, dict) and attributes.get("is_crowd") in (True, 1)


def _polygon(raw: dict[str, Any], scale: Scale, where: str) -> list[float]:
    """Return the points of a polygon as a flat list, in pixels of the image."""
    numbers = _numbers(raw.get("points"), where)
    if len(numbers) % 2:
        raise InputError(f"{where}: its polygon has {len(numbers)} numbers, an odd count. Correct or remove it.")
    scaled: list[float] = (numbers.reshape(-1, 2) * scale).reshape(-1).tolist()
    return scaled


def _corners(raw: dict[str, Any], scale: Scale, where: str) -> list[float]:
    """Return x1 y1 x2 y2 of a box, in pixels of the image."""
    numbers = _numbers(raw.get("bbox"), where)
    if len(numbers) != 4:
        raise InputError(f"{where}: its bbox has {len(numbers)} numbers instead of 4. Correct or remove it.")
    x, y, width, height = numbers.tolist()
    corners: list[float] = (np.array([x, y, x + width, y + height]) * (*scale, *scale)).tolist()
    return corners


def _numbers(given: Any, where: str) -> np.ndarray:
    """Return a list of finite numbers as an array (N,) float64."""
    numbers = np.empty(0)
    if isinstance(given, list):
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            numbers = np.array(given, np.float64)
    if not len(numbers) or numbers.ndim != 1 or not np.isfinite(numbers).all():
        raise InputError(f"{where}: its points are {quoted(given)}, not a list of numbers. Correct or remove it.")
    return numbers


def _fill(whole: np.ndarray, raw: dict[str, Any], where: str, builder: SplitBuilder) -> None:
    """Set the pixels of a mask in an image (H, W)."""
    given = raw.get("rle")
    if not isinstance(given, dict) or not isinstance(given.get("counts"), (str, list)):
        raise InputError(f"{builder.folder}: {where}: no 'rle' with 'counts'. Export it again.")
    if given.get("size") != list(builder.size):
        builder.notes.add(kinds.BAD_RLE, where)
        return
    try:
        bits, x, y = decode_cropped(with_integers(given))
    except ValueError as error:
        raise InputError(f"{builder.folder}: {where}: malformed mask ({error}). Export it again.") from error
    whole[y : y + bits.shape[0], x : x + bits.shape[1]] |= bits
