"""Polygons row by row: where their edges cross, and how many sample points of each cell that puts inside. Numpy only.

P points of one polygon part     n crossings     h w cells of a window     windows are x1 y1 x2 y2, end exclusive
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def crossings(points: np.ndarray, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the edges of a polygon (P, 2) cross whole-number rows: (n,) rows and (n,) the first whole column at or
    right of the crossing, 0 .. columns."""
    after = np.concatenate([points[1:], points[:1]])
    return _crossed(points, after, np.full(len(points), rows), np.full(len(points), columns))[:2]


def _crossed(
    points: np.ndarray, after: np.ndarray, rows: np.ndarray, columns: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As `crossings`, of edges from `points` to `after`, each with rows and columns of its own; also (n,) which edge.

    An edge owns the rows y with top <= y < bottom, so that a shared vertex is counted once.
    """
    first = np.ceil(np.minimum(points[:, 1], after[:, 1])).clip(0, rows).astype(np.int64)
    end = np.ceil(np.maximum(points[:, 1], after[:, 1])).clip(0, rows).astype(np.int64)
    count = end - first
    edge = np.repeat(np.arange(len(points)), count)
    row = np.arange(len(edge)) + (first - np.cumsum(count) + count)[edge]
    start, step = points[edge], (after - points)[edge]
    slope = step[:, 0] / step[:, 1]  # never 0 / 0: a level edge owns no row
    column = np.ceil(start[:, 0] + (row - start[:, 1]) * slope).clip(0, columns[edge]).astype(np.int64)
    return row, column, edge


def lie_apart(parts: Sequence[np.ndarray]) -> bool:
    """Whether no two parts of an object can overlap, by their extents."""
    parts = [part for part in parts if len(part)]
    if len(parts) < 2:
        return True
    low, high = np.stack([part.min(0) for part in parts]), np.stack([part.max(0) for part in parts])
    meet = (np.maximum(low[:, None], low) < np.minimum(high[:, None], high)).all(2)
    np.fill_diagonal(meet, False)
    return not meet.any()


def inside_counts(
    objects: Sequence[Sequence[np.ndarray]], windows: Sequence[Sequence[int]], cell: float, samples: int
) -> list[np.ndarray]:
    """How many sample points of each cell are inside the parts of an object, for several objects at once.

    A row's crossings in order are where a run of points inside starts and ends, in turn. A start at sample k of a cell
    adds samples - k points to it and `samples` to each cell on its right, which a running sum does; an end takes them
    away again. At the end of a row the sum is back at 0, so that one sum runs through all rows of all objects.

    Args:
        objects: for each object its parts (P, 2), which lie apart.
        windows: for each object x1 y1 x2 y2 in whole cells.
        cell: side of a cell in the parts' space.
        samples: points per side of a cell.

    Returns:
        For each object (h, w) int64.
    """
    corners = np.array(windows, np.int64).reshape(-1, 4)
    low, sides = corners[:, :2], (corners[:, 2:] - corners[:, :2]).clip(0)  # (N, 2) x y
    strides = sides[:, 0] + 2  # a cell more for runs that end with the window, one for what they carry on
    ends = np.cumsum(strides * sides[:, 1])
    starts = ends - strides * sides[:, 1]
    parts = [(which, part) for which, each in enumerate(objects) for part in each if len(part) > 2]
    if not parts or not ends[-1]:
        return [np.zeros((height, width), np.int64) for width, height in sides.tolist()]
    owner = np.repeat([which for which, _ in parts], [len(part) for _, part in parts])
    points = np.concatenate([part for _, part in parts])
    # Sample (r, c) of a window lies at whole numbers r, c of these coordinates.
    points = (points / cell - low[owner]) * samples - 0.5
    after = np.concatenate([points[1:], points[:1]])
    last = np.cumsum([len(part) for _, part in parts]) - 1
    after[last] = points[np.concatenate([[0], last[:-1] + 1])]  # each part closes on itself

    row, column, edge = _crossed(points, after, sides[owner, 1] * samples, sides[owner, 0] * samples)
    mine = owner[edge]
    # In order of object, row and column: a cell of a row holds `samples` columns, so this many of them make a row.
    wide = strides * samples
    base = starts * (samples * samples)
    order = np.sort(base[mine] + row * wide[mine] + column)
    mine = np.searchsorted(ends * (samples * samples), order, side="right")
    row, column = np.divmod(order - base[mine], wide[mine])
    across, within = np.divmod(column, samples)
    place = starts[mine] + row // samples * strides[mine] + across
    sign = np.ones(len(order))
    sign[1::2] = -1
    weights = np.concatenate([sign * (samples - within), sign * within])
    steps = np.bincount(np.concatenate([place, place + 1]), weights, minlength=int(ends[-1]))
    counts = steps.cumsum().astype(np.int64)
    return [
        counts[start:end].reshape(height, width + 2)[:, :width]
        for start, end, (width, height) in zip(starts.tolist(), ends.tolist(), sides.tolist(), strict=True)
    ]
