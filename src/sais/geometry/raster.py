"""Shapes of objects and their rasters: polygons or a bitmap in, coverage of grid cells or inside of pixels out.

    P points of one polygon part     h w cells of a window     windows are x1 y1 x2 y2, end exclusive

A shape stays exact while it is moved, scaled and flipped, and becomes pixels once, at the end. Coordinates are
continuous edges: cell (i, j) of size `cell` covers x in [j, j + 1] * cell and y in [i, i + 1] * cell. Only numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


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


ObjectMask = Polygons | Bitmap
"""The shape of one object, in the pixels of whichever space it was moved to."""


def moved(mask: ObjectMask, scale_x: float, scale_y: float, shift_x: float, shift_y: float) -> ObjectMask:
    """The shape with x -> x * scale_x + shift_x and y -> y * scale_y + shift_y; both scales positive."""
    if isinstance(mask, Polygons):
        scale, shift = np.array([scale_x, scale_y]), np.array([shift_x, shift_y])
        return Polygons(tuple(part * scale + shift for part in mask.parts))
    x1, y1, x2, y2 = mask.box
    box = (x1 * scale_x + shift_x, y1 * scale_y + shift_y, x2 * scale_x + shift_x, y2 * scale_y + shift_y)
    return Bitmap(mask.bits, box)


def flipped(mask: ObjectMask, width: float) -> ObjectMask:
    """The shape mirrored left to right in a picture of this width: x -> width - x."""
    if isinstance(mask, Polygons):
        return Polygons(tuple(part * np.array([-1.0, 1.0]) + np.array([width, 0.0]) for part in mask.parts))
    x1, y1, x2, y2 = mask.box
    return Bitmap(mask.bits[:, ::-1], (width - x2, y1, width - x1, y2))


def bounding_box(mask: ObjectMask) -> np.ndarray:
    """The tight extents of the shape, (4,) float32 x1 y1 x2 y2; zeros for a shape without points or bits."""
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
    points = _inside_samples(mask, window, cell, samples).view(np.uint8)
    counts = points[:, 0::samples].astype(np.uint16)
    for k in range(1, samples):
        counts += points[:, k::samples]
    total = counts[0::samples].copy()
    for k in range(1, samples):
        total += counts[k::samples]
    shares = np.rint(np.arange(samples * samples + 1) * (255 / samples**2)).astype(np.uint8)
    return shares[total]


def inside(mask: ObjectMask, window: Sequence[int]) -> np.ndarray:
    """Whether the centre of each pixel is inside the shape, (h, w) bool; `window` is x1 y1 x2 y2 in whole pixels."""
    return _inside_samples(mask, window, 1.0, 1)


def _inside_samples(mask: ObjectMask, window: Sequence[int], cell: float, samples: int) -> np.ndarray:
    """(h * samples, w * samples) bool: which sample points of the window's cells are inside."""
    x1, y1, x2, y2 = (int(v) for v in window)
    shape = (max(0, y2 - y1) * samples, max(0, x2 - x1) * samples)
    if not shape[0] or not shape[1]:
        return np.zeros(shape, bool)
    if isinstance(mask, Bitmap):
        return _sampled_bits(mask, (x1, y1), shape, cell, samples)
    covered = np.zeros(shape, bool)
    for part in mask.parts:
        # Sample (r, c) of the window lies at whole numbers r, c of these coordinates.
        _add_part((part / cell - (x1, y1)) * samples - 0.5, covered)
    return covered


def _add_part(points: np.ndarray, covered: np.ndarray) -> None:
    """Set `covered` (rows, columns) wherever its whole-number points are inside this polygon, by the even-odd rule.

    Each edge toggles everything to the right of where it crosses a row. An edge owns the rows y with
    top <= y < bottom, so that a shared vertex is counted once; points exactly on a left or upper edge are inside.
    """
    rows, columns = covered.shape
    if len(points) < 3:
        return
    x, y = points[:, 0], points[:, 1]
    x_next, y_next = np.roll(x, -1), np.roll(y, -1)
    first = np.clip(np.ceil(np.minimum(y, y_next)), 0, rows).astype(np.int64)
    end = np.clip(np.ceil(np.maximum(y, y_next)), 0, rows).astype(np.int64)
    count = end - first
    total = int(count.sum())
    if not total:
        return
    edge = np.repeat(np.arange(len(points)), count)
    row = np.arange(total) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    slope = (x_next - x)[edge] / (y_next - y)[edge]  # never 0 / 0: a level edge owns no row
    crossing = x[edge] + (row - y[edge]) * slope
    column = np.clip(np.ceil(crossing), 0, columns).astype(np.int64)

    # Only the rows and columns between the outermost crossings can change.
    top, left = int(row.min()), int(column.min())
    height, width = int(row.max()) - top + 1, int(column.max()) - left + 1
    toggles = np.bincount((row - top) * width + (column - left), minlength=height * width)
    parity = np.cumsum(toggles.astype(np.uint8).reshape(height, width), axis=1, dtype=np.uint8) & 1
    region = covered[top : top + height, left : left + width]
    region |= parity[:, : region.shape[1]].astype(bool)


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
