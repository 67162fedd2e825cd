"""The annotations of a COCO file as arrays, on the way to objects: which can be checked all at once, and their ids."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sais import input_limits
from sais.data.annotations import Segmentation
from sais.data.formats.coco_document import Categories, Images
from sais.data.formats.coco_entries import Entries
from sais.data.formats.coco_ids import as_integer
from sais.data.packed_annotations import AS_JSON, AnnotationTable

NO_LABEL = -1
"""Label of a class unknown to the model."""
_INT64 = np.iinfo(np.int64)


@dataclass
class SingleRows:
    """Annotations that were read one by one and are usable so far, one entry a row in each list."""

    values: list[dict[str, Any]] = field(default_factory=list)
    """The entries' area and iscrowd as stated."""
    positions: list[int] = field(default_factory=list)
    """Position in the file."""
    ids: list[int] = field(default_factory=list)
    image_ids: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    masks: list[bytes | None] = field(default_factory=list)
    """JSON text of the mask, which takes less memory than the mask."""
    boxes: list[tuple[float, ...]] = field(default_factory=list)
    """x y width height as stated; NaN where the annotation has none."""
    extents: list[tuple[float, ...]] = field(default_factory=list)
    """x1 y1 x2 y2 of the outline; NaN where it is not known."""


@dataclass(eq=False)
class ObjectRows:
    """N annotations as arrays, in the order of the file."""

    ids: np.ndarray
    """(N,) integers, of 64 bits if all fit."""
    images: np.ndarray
    """(N,) int64 position of the image in `Images.ids`."""
    labels: np.ndarray
    """(N,) int64; `NO_LABEL` for a class unknown to the model."""
    boxes: np.ndarray
    """(N, 4) float64 x y width height as stated; NaN where the annotation has none."""
    extents: np.ndarray
    """(N, 4) float64 x1 y1 x2 y2 of the outline; NaN where it is not known."""
    areas: np.ndarray
    """(N,) float64; NaN for rows of `values`, whose area is not read yet."""
    crowds: np.ndarray
    """(N,) bool."""
    first_parts: np.ndarray
    """(N,) int64 number of the first polygon in `Entries.polygons`."""
    part_counts: np.ndarray
    """(N,) int32 number of these polygons; 0 without."""
    masks: dict[int, bytes]
    """Row -> JSON text of the mask, of rows whose mask is not in `Entries.polygons`."""
    values: dict[int, dict[str, Any]]
    """Row -> area and iscrowd as stated, of rows that were read one by one."""

    def outlined(self) -> np.ndarray:
        """Return which rows have a mask, (N,) bool."""
        outlined = self.part_counts > 0
        outlined[list(self.masks)] = True
        return outlined

    def text_rows(self, start: bytes) -> list[int]:
        """Return the rows of `masks` whose text has this start: b"[" for polygons, b"{" for RLE."""
        return sorted(row for row, text in self.masks.items() if text.startswith(start))

    def segmentation(self, row: int, entries: Entries) -> Segmentation:
        """Return the mask of a row."""
        if self.part_counts[row]:
            return entries.polygons.lists(int(self.first_parts[row]), int(self.part_counts[row]))
        return json.loads(self.masks[row]) if row in self.masks else None


@dataclass(frozen=True, eq=False)
class UsualRows:
    """The R entries in the usual form, next to what they refer to."""

    images: np.ndarray
    """(R,) int64 position of the image in `Images.ids`."""
    labels: np.ndarray
    """(R,) int64 labels."""
    complete: np.ndarray
    """(R,) bool, whether an entry can be used as it is; otherwise it has to be read on its own."""


def check_usual_rows(entries: Entries, images: Images, categories: Categories) -> UsualRows:
    """Check the entries in the usual form all at once: what they refer to, and where their outlines are."""
    known_images = ((number, row) for row, number in enumerate(images.ids) if number in images.numbers)
    image_rows, image_known = _look_up(entries.image_ids, known_images)
    labels = ((i, NO_LABEL if label is None else label) for i, label in categories.labels.items())
    label_rows, label_known = _look_up(entries.category_ids, labels)
    sizes = np.array([images.sizes[number] for number in images.ids], np.float64).reshape(-1, 2)
    complete = image_known & label_known
    complete[complete] = ~_has_odd_outline(entries, sizes[image_rows[complete]], complete)
    return UsualRows(image_rows, label_rows, complete)


def _look_up(values: np.ndarray, table: Iterable[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the values (R,) of a table for keys (R,), and which keys it has."""
    pairs = np.array([p for p in table if _INT64.min <= p[0] <= _INT64.max], np.int64).reshape(-1, 2)
    if not len(pairs):
        return np.zeros(len(values), np.int64), np.zeros(len(values), bool)
    pairs = pairs[np.argsort(pairs[:, 0])]
    rows = np.searchsorted(pairs[:, 0], values).clip(0, len(pairs) - 1)
    return pairs[rows, 1], pairs[rows, 0] == values


def _has_odd_outline(entries: Entries, sizes: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Return which outlines lie outside of the image or far beyond it, or may be above a limit, (M,) bool.

    Args:
        entries: The annotations.
        sizes: (M, 2) height, width of the images of the chosen rows.
        chosen: (R,) bool with M rows that are to be checked.
    """
    left, top, right, bottom = entries.extents[chosen].T
    height, width = sizes.T
    margin = sizes.max(1, initial=0)
    points = entries.point_counts()[chosen]
    odd = (right <= 0) | (bottom <= 0) | (left >= width) | (top >= height)  # comparisons with NaN are false
    odd |= (np.minimum(left, top) < -margin) | (right > width + margin) | (bottom > height + margin)
    odd |= points > input_limits.MAX_OUTLINE_POINTS
    return odd | (points * (right - left + bottom - top) > input_limits.MAX_OUTLINE_LENGTH)


def other_ids(entries: Entries) -> dict[int, tuple[int, bool]]:
    """Return the ids of the entries that are not in the usual form.

    Returns:
        Position in the file -> id, and whether the entry states it; otherwise it is a number after the largest.
    """
    ids: dict[int, tuple[int, bool]] = {}
    following = 0
    for position, (stated, _) in sorted(entries.others.items(), key=lambda item: item[0]):
        number = as_integer(stated)
        if number is None:
            following = following or _following_id(entries)
            ids[position] = following, False
            following += 1
        else:
            ids[position] = number, True
    return ids


def _following_id(entries: Entries) -> int:
    numbers = [as_integer(stated) for stated, _ in entries.others.values()]
    return max([*(n for n in numbers if n is not None), *entries.ids.max(initial=0, keepdims=True).tolist()]) + 1


def free_id(entries: Entries, others: dict[int, tuple[int, bool]]) -> int:
    """Return a number after all ids of a file, and after those given to entries without one."""
    return max([_following_id(entries) - 1, *(number for number, _ in others.values())]) + 1


def repeated_ids(entries: Entries, others: dict[int, tuple[int, bool]]) -> dict[int, int]:
    """Return the position in the file of each annotation whose id an earlier one has -> that of the earlier one.

    Args:
        entries: The annotations.
        others: As `other_ids` returns them.
    """
    numbers = [number for number, _ in others.values()]
    small = np.array([number for number in numbers if _INT64.min <= number <= _INT64.max], np.int64)
    if (
        np.diff(np.sort(entries.ids)).all()
        and len(set(numbers)) == len(numbers)
        and not np.isin(small, entries.ids).any()
    ):
        return {}
    pairs = [*zip(entries.positions.tolist(), entries.ids.tolist(), strict=True)]
    pairs += [(position, number) for position, (number, _) in others.items()]
    first: dict[int, int] = {}
    repeated: dict[int, int] = {}
    for position, number in sorted(pairs):
        if first.setdefault(number, position) != position:
            repeated[position] = first[number]
    return repeated


def merge_rows(
    entries: Entries, usual: UsualRows, chosen: np.ndarray, singles: SingleRows, images: Images
) -> ObjectRows:
    """Return the usual rows and those that were read one by one, in the order of the file.

    Args:
        entries: The annotations.
        usual: The entries in the usual form.
        chosen: (R,) bool, which of them are used.
        singles: The rows that were read one by one.
        images: Images of the file.
    """
    count, extra = int(chosen.sum()), len(singles.ids)
    order = np.argsort(np.concatenate([entries.positions[chosen], np.array(singles.positions, np.int64)]))
    position_of = {number: position for position, number in enumerate(images.ids)} if extra else {}

    def merge(first: np.ndarray, second: Any) -> np.ndarray:
        second = np.asarray(second, first.dtype).reshape(extra, *first.shape[1:])
        return np.concatenate([first, second])[order]

    ids = entries.ids[chosen]
    if not all(_INT64.min <= number <= _INT64.max for number in singles.ids):
        ids = ids.astype(object)
    row_of = np.empty(count + extra, np.int64)
    row_of[order] = np.arange(count + extra)
    rows = row_of[count:].tolist()
    return ObjectRows(
        ids=merge(ids, singles.ids),
        images=merge(usual.images[chosen], [position_of[number] for number in singles.image_ids]),
        labels=merge(usual.labels[chosen], singles.labels),
        boxes=merge(entries.boxes[chosen], singles.boxes),
        extents=merge(entries.extents[chosen], singles.extents),
        areas=merge(entries.areas[chosen], np.full(extra, np.nan)),
        crowds=merge(entries.crowds[chosen], np.zeros(extra)),
        first_parts=merge(entries.first_parts[chosen], np.zeros(extra)),
        part_counts=merge(entries.part_counts[chosen], np.zeros(extra)),
        masks={row: text for row, text in zip(rows, singles.masks, strict=True) if text is not None},
        values=dict(zip(rows, singles.values, strict=True)),
    )


def to_table(
    rows: ObjectRows, boxes: np.ndarray, usable: np.ndarray, images: Images, sizes: np.ndarray, entries: Entries
) -> AnnotationTable:
    """Return images and objects in the order of the images.

    Args:
        rows: The annotations.
        boxes: (N, 4) boxes x1 y1 x2 y2.
        usable: (N,) bool, which annotations are used.
        images: Images of the file.
        sizes: (I, 2) height, width of the images.
        entries: Polygons of the annotations.
    """
    order = np.flatnonzero(usable)
    order = order[np.argsort(rows.images[order], kind="stable")]
    texts = list(rows.masks.values())
    rows.first_parts[list(rows.masks)] = np.arange(len(texts))
    rows.part_counts[list(rows.masks)] = AS_JSON
    paths = [os.fsencode(file) for file in images.paths]
    return AnnotationTable(
        image_ids=_integers(images.ids),
        image_sizes=sizes,
        path_ends=_ends(paths),
        path_bytes=_bytes(paths),
        object_ends=np.cumsum(np.bincount(rows.images[order], minlength=len(images.ids))),
        ids=rows.ids[order],
        labels=rows.labels[order].astype(np.int32),
        crowds=rows.crowds[order],
        areas=rows.areas[order],
        boxes=boxes[order],
        first_parts=rows.first_parts[order],
        part_counts=rows.part_counts[order],
        json_ends=_ends(texts),
        json_bytes=_bytes(texts),
        polygons=entries.polygons,
    )


def _ends(texts: list[bytes]) -> np.ndarray:
    """Return the end of each text in all of them together, (N,) int64."""
    return np.cumsum([len(text) for text in texts], dtype=np.int64)


def _bytes(texts: list[bytes]) -> np.ndarray:
    """Return all texts together, (.) uint8."""
    return np.array(bytearray(b"".join(texts)), np.uint8)


def _integers(values: tuple[int, ...]) -> np.ndarray:
    """Return integers (N,), of 64 bits if all fit."""
    try:
        return np.array(values, np.int64)
    except OverflowError:
        return np.array(values, object)
