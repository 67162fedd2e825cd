"""Boxes of a COCO file compared with the outlines of the same objects: corners, fractions and other wrong boxes.

Legend: N objects. A box is x y width height as the file states it; an extent is the box x1 y1 x2 y2 of the outline,
clipped to the image, NaN where there is no outline or it was not measured.

A box that agrees with its outline, or is only loose, is never changed. Where the two contradict each other the outline
is right: a tool writes it point by point, but the box in one of several conventions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sais.data.formats import notes as kinds
from sais.data.formats.notes import Notes
from sais.ops.numpy_boxes import box_area, box_intersection

_CORNER_TOLERANCE = 1.0
"""Pixels by which a box written as x1 y1 x2 y2 may differ from the outline: tools round, and some subtract 1."""
_LOOSE = 2.0
"""Pixels by which a box may exceed its outline or image before it contradicts it."""
_WHOLE = 0.99
"""Fraction of the image's sides from which a box is one of the whole image."""
_MIN_SHARE = 0.5
"""Fraction of the boxes of a file that have to be wrong in one way before it is a convention of the file."""
_SCATTERED_SHARE = 0.2
"""Fraction of boxes away from their outlines from which the file's boxes are in another unit or of other images."""
_MIN_BOXES = 10
"""Number of boxes without outlines from which their convention is concluded from the images' borders alone."""
_BEYOND_SHARE = 0.2
"""Fraction of boxes beyond the image from which boxes without outlines are refused as corners."""


@dataclass(frozen=True)
class BoxTable:
    """The boxes of a file as arrays of N rows."""

    boxes: np.ndarray
    """(N, 4) x y width height as stated; NaN where the annotation has none."""
    extents: np.ndarray
    """(N, 4) x1 y1 x2 y2 of the outlines, clipped to the images; NaN where unknown."""
    sizes: np.ndarray
    """(N, 2) height, width of the images."""
    place: Callable[[int], str]
    """Row -> the entry, such as "annotation 7"."""


def settle_boxes(table: BoxTable, path: str, notes: Notes) -> np.ndarray:
    """Return the boxes x1 y1 x2 y2, (N, 4) float64: as stated, or of the outline where the two contradict each other.

    Args:
        table: The boxes.
        path: File name, the start of error messages.
        notes: Notes of the file.
    """
    boxes, extents = table.boxes, table.extents
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)
    stated = np.isfinite(boxes).all(1)
    outlined = np.isfinite(extents).all(1)
    compared = stated & outlined
    wrong = _classify(boxes, corners, extents, table.sizes, compared)
    for kind, rows in wrong.items():
        corners[rows] = extents[rows]
        _count(notes, kind, table, rows)
    corners[outlined & ~stated] = extents[outlined & ~stated]
    bare = stated & ~outlined
    if bare.any():
        share = wrong[kinds.BOX_CORNERS].sum() / max(1, compared.sum())
        _settle_bare_boxes(corners, bare, table, share >= _MIN_SHARE, path, notes)
    return corners


def contradicted(table: BoxTable) -> bool:
    """Return whether any box of the rows with an extent contradicts its outline."""
    corners = np.concatenate([table.boxes[:, :2], table.boxes[:, :2] + table.boxes[:, 2:]], 1)
    compared = np.isfinite(table.boxes).all(1) & np.isfinite(table.extents).all(1)
    return any(rows.any() for rows in _classify(table.boxes, corners, table.extents, table.sizes, compared).values())


def _classify(
    boxes: np.ndarray, corners: np.ndarray, extents: np.ndarray, sizes: np.ndarray, compared: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the rows (N,) bool whose box contradicts its outline, by kind; each row in one kind."""
    with np.errstate(invalid="ignore"):
        sides = extents[:, 2:] - extents[:, :2]
        off = np.abs(corners - extents).max(1)
        as_corners = compared & (np.abs(boxes - extents).max(1) <= _CORNER_TOLERANCE) & (off > _LOOSE)
        fractions = compared & ~as_corners & (np.abs(boxes) <= 1.0).all(1) & (sides.max(1) > 2 * _LOOSE)
        spans = (corners[:, :2] <= 0.01 * sizes[:, ::-1]).all(1) & (corners[:, 2:] >= _WHOLE * sizes[:, ::-1]).all(1)
        small = box_area(np.nan_to_num(extents)) < 0.5 * sizes.prod(1)
        whole = compared & ~as_corners & spans & small
        if whole.sum() < max(2, _MIN_SHARE * compared.sum()):
            whole &= False
        shared = box_intersection(np.nan_to_num(corners), np.nan_to_num(extents))
        elsewhere = compared & ~(as_corners | fractions | whole) & (off > _LOOSE)
        # Boxes without area are dropped with a note of their own.
        elsewhere &= (shared < 0.5 * box_area(np.nan_to_num(extents))) & (boxes[:, 2:] > 0).all(1)
        if elsewhere.sum() < max(2, _SCATTERED_SHARE * compared.sum()):  # single slips: `sais doctor` lists them
            elsewhere &= False
    return {
        kinds.BOX_CORNERS: as_corners,
        kinds.BOX_FRACTIONS: fractions,
        kinds.BOX_WHOLE: whole,
        kinds.BOX_ELSEWHERE: elsewhere,
    }


def _settle_bare_boxes(
    corners: np.ndarray, bare: np.ndarray, table: BoxTable, as_corners: bool, path: str, notes: Notes
) -> None:
    """Settle in place the boxes without an outline, whose convention only the file's other boxes or the images show."""
    boxes, limits = table.boxes, table.sizes[:, ::-1]
    if as_corners:
        corners[bare] = boxes[bare]
        _count(notes, kinds.BOX_CORNERS_READ, table, bare)
        return
    values = boxes[bare]
    if len(values) > 1 and (values >= 0).all() and (values <= 1).all() and (values[:, 2:] > 0).all():
        if (corners[bare] > 1.001).any() and (values[:, 2:] > values[:, :2]).all():
            corners[bare] = values
        corners[bare] *= np.tile(limits[bare], 2)
        _count(notes, kinds.BOX_FRACTIONS_SCALED, table, bare)
        return
    beyond = bare & (corners[:, 2:] > limits + _LOOSE).any(1)
    fits = (values[:, 2:] > values[:, :2]).all() and (values[:, 2:] <= limits[bare] + _LOOSE).all()
    if fits and len(values) >= _MIN_BOXES and beyond.sum() >= _BEYOND_SHARE * len(values):
        count = f"{int(beyond.sum())} of {len(values)} boxes without an outline extend beyond the image"
        problem = f"{path}: {count}, and all fit as x1 y1 x2 y2. Write them as x y width height."
        raise notes.problem(kinds.BAD_BOX, problem)


def _count(notes: Notes, kind: str, table: BoxTable, rows: np.ndarray) -> None:
    for row in np.flatnonzero(rows).tolist():
        notes.add(kind, table.place(row))
