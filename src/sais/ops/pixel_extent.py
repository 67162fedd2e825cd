"""The pixels of a shape without a bitmap of them: their number and the rows and columns that they span. Numpy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sais.ops.rasterize import MAX_CROSSINGS, ObjectMask, Polygons, Rectangle, edge_crossings, inside, parts_disjoint


@dataclass(frozen=True)
class PixelExtent:
    """Pixels of a window whose centers are inside a shape."""

    area: int
    """Number of pixels."""
    first: tuple[int, int] = (0, 0)
    """First column and row, relative to the window; of no meaning without pixels."""
    last: tuple[int, int] = (0, 0)
    """Last column and row."""


def extent_of_bits(bits: np.ndarray) -> PixelExtent:
    """Return the extent of the set pixels of a bitmap (h, w) bool."""
    columns, rows = np.flatnonzero(bits.any(0)), np.flatnonzero(bits.any(1))
    if not len(rows):
        return PixelExtent(0)
    first, last = (int(columns[0]), int(rows[0])), (int(columns[-1]), int(rows[-1]))
    return PixelExtent(int(bits.sum()), first, last)


def pixel_extents(
    shape: ObjectMask, visible_shape: ObjectMask, window: tuple[int, int, int, int], within: Rectangle | None
) -> tuple[PixelExtent, PixelExtent]:
    """Return the extents of a shape and of its visible part, equal to those of their bitmaps.

    Args:
        shape: The shape.
        visible_shape: Its visible part.
        window: x1 y1 x2 y2 in whole pixels, end exclusive, that contains the shape.
        within: Rectangle that alone limits the visible part; None if other shapes hide it as well.
    """
    if within is not None and isinstance(shape, Polygons) and parts_disjoint(shape.parts):
        height = window[3] - window[1]
        if sum(len(part) for part in shape.parts) * height <= MAX_CROSSINGS:
            row, start, end = _runs(shape, window)
            return _extent_of_runs(row, start, end), _extent_of_runs(*_clip_runs((row, start, end), window, within))
    return extent_of_bits(inside(shape, window)), extent_of_bits(inside(visible_shape, window))


def _runs(shape: Polygons, window: tuple[int, int, int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the runs of pixels inside polygons of disjoint parts: row, first column, end column, (n,) int64 each."""
    corner, (width, height) = np.array(window[:2]), (window[2] - window[0], window[3] - window[1])
    rows, columns = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for part in shape.parts:
        points = part - corner - 0.5  # pixel (r, c) of the window has the whole-number coordinates (r, c) here
        following = np.concatenate([points[1:], points[:1]])
        row, column, _ = edge_crossings(points, following, height, np.full(len(points), width))
        rows.append(row)
        columns.append(column)
    order = np.sort(np.concatenate(rows) * (width + 1) + np.concatenate(columns))  # by row, then column
    row, column = np.divmod(order, width + 1)
    return row[0::2], column[0::2], column[1::2]  # crossings alternately start and end a run


def _clip_runs(
    runs: tuple[np.ndarray, np.ndarray, np.ndarray], window: tuple[int, int, int, int], within: Rectangle
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the part of runs, (n,) row, start and end, of the pixels whose centers are in a rectangle."""
    row, start, end = runs
    left, top, right, bottom = np.ceil(np.array(within, np.float64) - np.array(window[:2] * 2) - 0.5)
    inner = (row >= top) & (row < bottom)
    return row[inner], np.maximum(start[inner], left).astype(np.int64), np.minimum(end[inner], right).astype(np.int64)


def _extent_of_runs(row: np.ndarray, start: np.ndarray, end: np.ndarray) -> PixelExtent:
    """Return the extent of runs, (n,) each; those that end before they start are empty."""
    filled = end > start
    row, start, end = row[filled], start[filled], end[filled]
    if not len(row):
        return PixelExtent(0)
    first, last = (int(start.min()), int(row.min())), (int(end.max()) - 1, int(row.max()))
    return PixelExtent(int((end - start).sum()), first, last)
