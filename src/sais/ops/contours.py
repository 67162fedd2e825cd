"""Exact contours of a mask along its pixel edges: filling them by pixel centers restores the same pixels. Numpy only.

R runs: pixel sides are joined to straight runs by array operations, and the runs are linked at their corners by one
sort; only the walk from corner to corner is a Python loop.
"""

from __future__ import annotations

import numpy as np

_RIGHT, _DOWN, _LEFT, _UP = range(4)  # a right turn, as seen on the screen, adds one


def contours(bits: np.ndarray) -> list[np.ndarray]:
    """Return the contours of a mask, of its parts and of their holes.

    Args:
        bits: (h, w) bool.

    Returns:
        Rings, float64 (P, 2) of x y on pixel edges (0 .. w, 0 .. h), corners only, not closed by a repeated point.
        As seen on the screen (y points down) outer rings run clockwise and holes counterclockwise, so that the pixels
        are always on the right-hand side and the shoelace areas add up to the number of set pixels. Pixels that touch
        only at a corner belong to separate rings. A part precedes its holes.

    Raises:
        ValueError: bits is not two-dimensional.
    """
    if bits.ndim != 2:
        raise ValueError(f"mask: expected two dimensions, got shape {bits.shape}")
    starts, ends, directions = _border_runs(np.asarray(bits, dtype=bool))
    if len(starts) == 0:
        return []
    following = _link_runs(starts, ends, directions).tolist()
    rings, visited = [], [False] * len(following)
    for first in range(len(following)):
        ring = []
        while not visited[first]:
            visited[first] = True
            ring.append(first)
            first = following[first]
        if ring:
            rings.append(starts[ring].astype(np.float64))
    return rings


def _border_runs(bits: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return all straight border runs: starts (R, 2) and ends (R, 2) as x y, directions (R,); pixels on the right."""
    padded = np.pad(bits, 1).astype(np.int8)
    # Between two rows: +1 where pixels begin below (a top side), -1 where they end (a bottom side).
    row, low, high, begins = _runs(padded[1:, 1:-1] - padded[:-1, 1:-1])
    horizontal = (np.stack([low, row], 1), np.stack([high, row], 1), np.where(begins, _RIGHT, _LEFT), begins)
    column, low, high, begins = _runs((padded[1:-1, 1:] - padded[1:-1, :-1]).T)
    # A left side (pixels begin to its right) runs up, a right side down.
    vertical = (np.stack([column, low], 1), np.stack([column, high], 1), np.where(begins, _UP, _DOWN), ~begins)
    starts, ends, directions = [], [], []
    for first, second, direction, forward in (horizontal, vertical):
        starts.append(np.where(forward[:, None], first, second))
        ends.append(np.where(forward[:, None], second, first))
        directions.append(direction)
    return np.concatenate(starts), np.concatenate(ends), np.concatenate(directions)


def _runs(steps: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return runs of equal non-zero values along the rows of `steps` (h, w).

    Returns:
        (R,) row, first column, end column (exclusive), and whether the value is positive.
    """
    padded = np.pad(steps, ((0, 0), (1, 1)))
    changes = padded[:, 1:] != padded[:, :-1]
    row, first = np.nonzero(changes & (padded[:, 1:] != 0))
    _, end = np.nonzero(changes & (padded[:, :-1] != 0))
    return row, first, end, padded[row, first + 1] > 0


def _link_runs(starts: np.ndarray, ends: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Return for each run the index of the run that continues it, (R,).

    Where two pixels touch at a corner, two runs end and two start; the run that turns right stays at its own pixel. At
    any other corner one run ends and one starts.
    """
    width = int(max(starts[:, 0].max(), ends[:, 0].max())) + 1
    by_end = np.lexsort(((directions + 1) % 4, ends[:, 1] * width + ends[:, 0]))
    by_start = np.lexsort((directions, starts[:, 1] * width + starts[:, 0]))
    following = np.empty(len(starts), dtype=np.int64)
    following[by_end] = by_start
    return following
