"""The segmentation of a COCO annotation: checked, brought to one form, and measured."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from sais.data.annotation_limits import outline_problem, quoted
from sais.data.annotations import Segmentation
from sais.data.formats import notes as kinds
from sais.data.formats.notes import Notes
from sais.ops.clip_polygon import clip_polygon
from sais.ops.rle import with_integers

Extent = tuple[float, float, float, float]
"""x1 y1 x2 y2 of an outline."""


def read_segmentation(
    given: Any, size: tuple[int, int], where: str, place: str, notes: Notes
) -> tuple[Segmentation, Extent | None]:
    """Return the usable part of a segmentation and the extent of its polygons.

    Args:
        given: Value of 'segmentation'.
        size: (H, W) of the image.
        where: File name, the start of error messages.
        place: The annotation, such as "annotation 7".
        notes: Notes of the file.

    Returns:
        Polygons or RLE, or None if there is no usable mask; x1 y1 x2 y2 of polygons, or None for RLE and for polygons
        that were clipped.

    Raises:
        InputError: The segmentation is malformed.
    """
    if not given:
        if given is None or isinstance(given, (list, dict)):
            return None, None
    elif isinstance(given, dict):
        return _read_rle(given, size, where, place, notes), None
    elif isinstance(given, list):
        if isinstance(given[0], dict) and len(given) == 1:
            return read_segmentation(given[0], size, where, place, notes)
        return _read_polygons(given, size, where, place, notes)
    message = f"its segmentation is neither polygons nor RLE: {quoted(given)}. Export it again."
    raise notes.problem(kinds.BAD_MASK, f"{where}: {place}: {message}")


def _read_rle(given: dict[str, Any], size: tuple[int, int], where: str, place: str, notes: Notes) -> Segmentation:
    start = f"{where}: {place}"
    stated, counts = given.get("size"), given.get("counts")
    if not isinstance(counts, (list, str)) or not isinstance(stated, list) or len(stated) != 2:
        raise notes.problem(kinds.BAD_MASK, f"{start}: its RLE lacks 'size' or 'counts'. Export it again.")
    try:
        rle = with_integers(given)
    except ValueError as error:
        raise notes.problem(kinds.BAD_MASK, f"{start}: malformed mask ({error}). Export it again.") from error
    if rle is not given:
        notes.add(kinds.FLOAT_RLE, place)
    if tuple(rle["size"]) != size:
        notes.add(kinds.BAD_RLE, place)
        return None
    return rle


def _read_polygons(
    given: list[Any], size: tuple[int, int], where: str, place: str, notes: Notes
) -> tuple[Segmentation, Extent | None]:
    if not isinstance(given[0], list):
        notes.add(kinds.FLAT, place)
        given = [given]
    parts: list[list[float]] = []
    left = top = math.inf
    right = bottom = -math.inf
    for part in _unnest(given, place, notes):
        try:
            finite = math.isfinite(sum(part))  # the sum is finite only if all terms are; the fastest check
        except (TypeError, OverflowError) as error:
            problem = f"{where}: {place}: its polygon contains a value that is not a number."
            raise notes.problem(kinds.BAD_MASK, f"{problem} Export it again.") from error
        if not finite:
            problem = f"{where}: {place}: its polygon contains NaN or an infinite coordinate."
            raise notes.problem(kinds.BAD_MASK, f"{problem} Correct or remove it.")
        if len(part) < 6 or len(part) % 2:
            notes.add(kinds.BAD_PART, place)
            continue
        parts.append(part)
        x, y = part[0::2], part[1::2]
        left, top = min(left, min(x)), min(top, min(y))
        right, bottom = max(right, max(x)), max(bottom, max(y))
    if not parts:
        return None, None
    extent = (left, top, right, bottom)
    height, width = size
    if right <= 0 or bottom <= 0 or left >= width or top >= height:
        notes.add(kinds.OUTLINE_OUTSIDE, place)
        return None, None
    margin = max(size)  # objects that the border of the image cuts may extend beyond it
    if min(left, top) < -margin or right > width + margin or bottom > height + margin:
        notes.add(kinds.FAR_OUTLINE, place)
        clipped = [part for part in (clip_polygon(np.array(part), width, height) for part in parts) if len(part)]
        flat = [part.reshape(-1).tolist() for part in clipped]
        check_outline(flat, height + width, where, place, notes)
        return flat or None, None  # not measured: such an outline is the less reliable of outline and box
    check_outline(parts, right - left + bottom - top, where, place, notes)
    return parts, extent


def check_outline(parts: list[list[float]], around: float, where: str, place: str, notes: Notes) -> None:
    """Record polygons beyond the limits as a problem, and raise its error.

    Args:
        parts: Polygons as flat lists.
        around: Sum of the sides of their bounding box, in pixels.
        where: File name, the start of error messages.
        place: The annotation, such as "annotation 7".
        notes: Notes of the file.

    Raises:
        InputError: The polygons have too many points or are too long.
    """
    problem = outline_problem(parts, around)
    if problem:
        raise notes.problem(kinds.BAD_MASK, f"{where}: {place}: {problem}.")


def _unnest(parts: list[Any], place: str, notes: Notes) -> list[Any]:
    """Return polygons whose points are lists as flat lists; other parts unchanged."""
    if len(parts) > 2 and all(_is_point(part) for part in parts):  # one polygon [[x, y], [x, y], [x, y]]
        notes.add(kinds.NESTED, place)
        return [[value for point in parts for value in point]]
    if not any(isinstance(part, list) and part and isinstance(part[0], list) for part in parts):
        return parts
    notes.add(kinds.NESTED, place)
    flat: list[Any] = []
    for part in parts:
        if isinstance(part, list) and part and all(_is_point(point) for point in part):
            flat.append([value for point in part for value in point])  # [[[x, y], [x, y], [x, y]]]
        elif isinstance(part, list) and part and all(isinstance(inner, list) for inner in part):
            flat += part  # [[[x1, y1, x2, y2, ...]]]
        else:
            flat.append(part)
    return flat


def _is_point(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2
