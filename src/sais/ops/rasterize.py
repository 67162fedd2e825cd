"""Shapes of objects and their rasters: polygons or a bitmap in, coverage of grid cells or inside of pixels out.

    P points of one polygon part     h w cells of a window     windows are x1 y1 x2 y2, end exclusive

A shape stays exact while it is moved, scaled and flipped, and becomes pixels once, at the end. Coordinates are
continuous edges: cell (i, j) of size `cell` covers x in [j, j + 1] * cell and y in [i, i + 1] * cell. Only numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sais.ops.scanlines import crossings, inside_counts, lie_apart


@dataclass(frozen=True, eq=False)
class Polygons:
    """One object drawn as polygons. A point is the object's when it is inside any part (even-odd within a part)."""

    parts: tuple[np.ndarray, ...]
    """Each (P, 2) float64 x y; closed by itself, the first point need not be repeated."""


@dataclass(frozen=True, eq=False)
class Bitmap:
    """One object as bits stretched over a box: bit (i, j) fills its share of the box."""

    bits: np.ndarray
    """(h, w) bool."""
    box: tuple[float, float, float, float]
    """x1 y1 x2 y2."""


FilledRectangle = tuple[float, float, float, float]
"""x1 y1 x2 y2."""


@dataclass(frozen=True, eq=False)
class CutMask:
    """One object of which only a part is to be seen: what lies in a rectangle and under no other shape."""

    shape: Polygons | Bitmap
    within: FilledRectangle | None
    """Nothing is to be seen outside of it: points on its left and upper edge are inside. None: anywhere."""
    covers: tuple[ObjectMask, ...] = ()
    """Shapes that lie over it."""


ObjectMask = Polygons | Bitmap | CutMask
"""The shape of one object, in the pixels of whichever space it was moved to."""


def cut_mask(mask: ObjectMask, within: FilledRectangle | None = None, covers: Sequence[ObjectMask] = ()) -> CutMask:
    """What is left of a shape in a rectangle and under shapes that lie over it; both in the shape's own space."""
    if not isinstance(mask, CutMask):
        return CutMask(mask, within, tuple(covers))
    if mask.within is not None and within is not None:
        (a, b, c, d), (e, f, g, h) = mask.within, within
        within = (max(a, e), max(b, f), min(c, g), min(d, h))
    return CutMask(mask.shape, within or mask.within, (*mask.covers, *covers))


def transform_mask(mask: ObjectMask, scale_x: float, scale_y: float, shift_x: float, shift_y: float) -> ObjectMask:
    """The shape with x -> x * scale_x + shift_x and y -> y * scale_y + shift_y; both scales positive."""
    if isinstance(mask, CutMask):
        shape, *covers = (transform_mask(m, scale_x, scale_y, shift_x, shift_y) for m in (mask.shape, *mask.covers))
        assert not isinstance(shape, CutMask)
        within = mask.within and _moved_rectangle(mask.within, scale_x, scale_y, shift_x, shift_y)
        return CutMask(shape, within, tuple(covers))
    if isinstance(mask, Polygons):
        scale, shift = np.array([scale_x, scale_y]), np.array([shift_x, shift_y])
        return Polygons(tuple(part * scale + shift for part in mask.parts))
    return Bitmap(mask.bits, _moved_rectangle(mask.box, scale_x, scale_y, shift_x, shift_y))


def _moved_rectangle(
    box: FilledRectangle, scale_x: float, scale_y: float, shift_x: float, shift_y: float
) -> FilledRectangle:
    x1, y1, x2, y2 = box
    return x1 * scale_x + shift_x, y1 * scale_y + shift_y, x2 * scale_x + shift_x, y2 * scale_y + shift_y


def hflip_mask(mask: ObjectMask, width: float) -> ObjectMask:
    """The shape mirrored left to right in an image of this width: x -> width - x."""
    if isinstance(mask, CutMask):
        shape, *covers = (hflip_mask(m, width) for m in (mask.shape, *mask.covers))
        assert not isinstance(shape, CutMask)
        x1, y1, x2, y2 = mask.within or (-np.inf, -np.inf, np.inf, np.inf)
        return CutMask(shape, mask.within and (width - x2, y1, width - x1, y2), tuple(covers))
    if isinstance(mask, Polygons):
        return Polygons(tuple(part * np.array([-1.0, 1.0]) + np.array([width, 0.0]) for part in mask.parts))
    x1, y1, x2, y2 = mask.box
    return Bitmap(mask.bits[:, ::-1], (width - x2, y1, width - x1, y2))


def bounding_box(mask: ObjectMask) -> np.ndarray:
    """The tight extents of the shape, (4,) float32 x1 y1 x2 y2; zeros for a shape without points or bits.

    Of a `Cut` those of the whole shape: what is left of it lies somewhere inside.
    """
    if isinstance(mask, CutMask):
        return bounding_box(mask.shape)
    if isinstance(mask, Polygons):
        if not any(len(part) for part in mask.parts):
            return np.zeros(4, np.float32)
        points = np.concatenate(mask.parts)
        return np.concatenate([points.min(0), points.max(0)]).astype(np.float32)
    rows, columns = np.flatnonzero(mask.bits.any(1)), np.flatnonzero(mask.bits.any(0))
    if not len(rows):
        return np.zeros(4, np.float32)
    height, width = mask.bits.shape
    x1, y1, x2, y2 = mask.box
    across, down = (x2 - x1) / width, (y2 - y1) / height
    return np.array(
        [x1 + columns[0] * across, y1 + rows[0] * down, x1 + (columns[-1] + 1) * across, y1 + (rows[-1] + 1) * down],
        np.float32,
    )


def coverage(mask: ObjectMask, window: Sequence[int], cell: float = 4.0, samples: int = 4) -> np.ndarray:
    """How much of each cell the shape covers, (h, w) uint8 0 .. 255.

    Measured at `samples` x `samples` points of each cell, (k + 0.5) / samples apart from its edge: the share of them
    inside, times 255, rounded.

    Args:
        mask: the shape, in mask space.
        window: x1 y1 x2 y2 in whole cells, end exclusive.
        cell: side of a cell in mask space.
        samples: points per side of a cell.
    """
    return coverages([mask], [window], cell, samples)[0]


def coverages(
    masks: Sequence[ObjectMask], windows: Sequence[Sequence[int]], cell: float = 4.0, samples: int = 4
) -> list[np.ndarray]:
    """`coverage` of several shapes, each in its own window: quicker than one after the other."""
    quick = [i for i, mask in enumerate(masks) if isinstance(mask, Polygons) and lie_apart(mask.parts)]
    parts = [mask.parts if isinstance(mask, Polygons) else () for mask in masks]
    counts = dict(
        zip(quick, inside_counts([parts[i] for i in quick], [windows[i] for i in quick], cell, samples), strict=True)
    )
    shares = np.rint(np.arange(samples * samples + 1) * (255 / samples**2)).astype(np.uint8)
    return [
        shares[counts[i] if i in counts else _counted(mask, window, cell, samples)]
        for i, (mask, window) in enumerate(zip(masks, windows, strict=True))
    ]


def _counted(mask: ObjectMask, window: Sequence[int], cell: float, samples: int) -> np.ndarray:
    """How many sample points of each cell are inside any shape, (h, w), by looking at every point."""
    points = _inside_samples(mask, window, cell, samples).view(np.uint8)
    counts = points[:, 0::samples].astype(np.uint16)
    for k in range(1, samples):
        counts += points[:, k::samples]
    total = counts[0::samples].copy()
    for k in range(1, samples):
        total += counts[k::samples]
    return total


def inside(mask: ObjectMask, window: Sequence[int]) -> np.ndarray:
    """Whether the center of each pixel is inside the shape, (h, w) bool; `window` is x1 y1 x2 y2 in whole pixels."""
    return _inside_samples(mask, window, 1.0, 1)


def _inside_samples(mask: ObjectMask, window: Sequence[int], cell: float, samples: int) -> np.ndarray:
    """(h * samples, w * samples) bool: which sample points of the window's cells are inside."""
    x1, y1, x2, y2 = (int(v) for v in window)
    shape = (max(0, y2 - y1) * samples, max(0, x2 - x1) * samples)
    if not shape[0] or not shape[1]:
        return np.zeros(shape, bool)
    if isinstance(mask, CutMask):
        return _sampled_cut(mask, (x1, y1, x2, y2), shape, cell, samples)
    if isinstance(mask, Bitmap):
        return _sampled_bits(mask, (x1, y1), shape, cell, samples)
    covered = np.zeros(shape, bool)
    for part in mask.parts:
        # Sample (r, c) of the window lies at whole numbers r, c of these coordinates.
        _add_part((part / cell - (x1, y1)) * samples - 0.5, covered)
    return covered


def _add_part(points: np.ndarray, covered: np.ndarray) -> None:
    """Set `covered` (rows, columns) wherever its whole-number points are inside this polygon, by the even-odd rule.

    Each edge toggles everything to the right of where it crosses a row; points exactly on a left or upper edge are
    inside.
    """
    row, column = crossings(points, *covered.shape)
    if not len(row):
        return
    # Only the rows and columns between the outermost crossings can change.
    top, left = int(row.min()), int(column.min())
    height, width = int(row.max()) - top + 1, int(column.max()) - left + 1
    toggles = np.bincount((row - top) * width + (column - left), minlength=height * width)
    parity = np.cumsum(toggles.astype(np.uint8).reshape(height, width), axis=1, dtype=np.uint8) & 1
    region = covered[top : top + height, left : left + width]
    region |= parity[:, : region.shape[1]].astype(bool)


def _sampled_cut(
    mask: CutMask, window: tuple[int, int, int, int], shape: tuple[int, int], cell: float, samples: int
) -> np.ndarray:
    """The sample points inside the shape, inside its rectangle, and inside none of its covers."""
    seen = _inside_samples(mask.shape, window, cell, samples)
    if mask.within is not None:
        left, top, right, bottom = (v * (samples / cell) for v in mask.within)
        # Sample k of the window's first axis lies at window * samples + k + 0.5 in these units.
        rows = np.arange(shape[0]) + (window[1] * samples + 0.5)
        columns = np.arange(shape[1]) + (window[0] * samples + 0.5)
        seen &= ((rows >= top) & (rows < bottom))[:, None]
        seen &= (columns >= left) & (columns < right)
    for cover in mask.covers:
        extents = bounding_box(cover).astype(np.float64) / cell
        low = np.maximum(np.floor(extents[:2]).astype(int), window[:2])
        high = np.minimum(np.ceil(extents[2:]).astype(int), window[2:])
        if (high > low).all():  # else it lies beside the window
            (x1, y1), (x2, y2) = (low - window[:2]) * samples, (high - window[:2]) * samples
            seen[y1:y2, x1:x2] &= ~_inside_samples(cover, (*low, *high), cell, samples)
    return seen


def _sampled_bits(
    mask: Bitmap, corner: tuple[int, int], shape: tuple[int, int], cell: float, samples: int
) -> np.ndarray:
    """The bit under each sample point, False outside the bitmap's box."""
    x1, y1, x2, y2 = mask.box
    height, width = mask.bits.shape
    covered = np.zeros(shape, bool)
    if not height or not width or x2 <= x1 or y2 <= y1:
        return covered
    y = (corner[1] + (np.arange(shape[0]) + 0.5) / samples) * cell
    x = (corner[0] + (np.arange(shape[1]) + 0.5) / samples) * cell
    row = np.floor((y - y1) * (height / (y2 - y1))).astype(np.int64)
    column = np.floor((x - x1) * (width / (x2 - x1))).astype(np.int64)
    in_rows = np.flatnonzero((row >= 0) & (row < height))
    in_columns = np.flatnonzero((column >= 0) & (column < width))
    if len(in_rows) and len(in_columns):
        bits = mask.bits[row[in_rows]][:, column[in_columns]]
        covered[in_rows[0] : in_rows[-1] + 1, in_columns[0] : in_columns[-1] + 1] = bits
    return covered
