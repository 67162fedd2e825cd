"""Exact outlines of a mask along its pixels' edges: filling them by pixel centers gives back the same pixels.

Numpy only. Sides of pixels are joined to straight runs at once, the runs linked at their corners by one sort; only
the walk from corner to corner is a loop.
"""

from __future__ import annotations

import numpy as np

_RIGHT, _DOWN, _LEFT, _UP = range(4)  # each turn to the right, seen on the screen, adds one


def contours(bits: np.ndarray) -> list[np.ndarray]:
    """The outlines of a mask, parts and holes.

    Args:
        bits: (h, w) bool.

    Returns:
        Rings, float64 (P, 2) of x y on pixel edges (0 .. w, 0 .. h), corners only, not closed by a repeated point.
        As seen on the screen (y points down) the outer rings run clockwise and the holes counter-clockwise, so that
        the pixels are always on the right hand and the shoelace areas add up to the number of set pixels. Pixels that
        touch only at a corner belong to rings of their own. A part comes before its holes.

    Raises:
        ValueError: bits is not two-dimensional.
    """
    if bits.ndim != 2:
        raise ValueError(f"a mask has two dimensions, got shape {bits.shape}")
    starts, ends, directions = _sides(np.asarray(bits, dtype=bool))
    if len(starts) == 0:
        return []
    following = _link(starts, ends, directions).tolist()
    rings, seen = [], [False] * len(following)
    for first in range(len(following)):
        ring = []
        while not seen[first]:
            seen[first] = True
            ring.append(first)
            first = following[first]
        if ring:
            rings.append(starts[ring].astype(np.float64))
    return rings


def _sides(bits: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All straight runs of border: starts (R, 2) and ends (R, 2) as x y, directions (R,), pixels on the right hand."""
    padded = np.pad(bits, 1).astype(np.int8)
    # Between one row and the next: +1 where the pixels begin below (a top side), -1 where they end (a bottom side).
    row, low, high, begins = _runs(padded[1:, 1:-1] - padded[:-1, 1:-1])
    across = (np.stack([low, row], 1), np.stack([high, row], 1), np.where(begins, _RIGHT, _LEFT), begins)
    column, low, high, begins = _runs((padded[1:-1, 1:] - padded[1:-1, :-1]).T)
    # A left side (pixels begin to its right) runs up, a right side down.
    along = (np.stack([column, low], 1), np.stack([column, high], 1), np.where(begins, _UP, _DOWN), ~begins)
    starts, ends, directions = [], [], []
    for first, second, direction, forward in (across, along):
        starts.append(np.where(forward[:, None], first, second))
        ends.append(np.where(forward[:, None], second, first))
        directions.append(direction)
    return np.concatenate(starts), np.concatenate(ends), np.concatenate(directions)


def _runs(steps: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Runs of equal non-zero values along the rows of steps: row, first, end (exclusive), is positive; each (R,)."""
    padded = np.pad(steps, ((0, 0), (1, 1)))
    changes = padded[:, 1:] != padded[:, :-1]
    row, first = np.nonzero(changes & (padded[:, 1:] != 0))
    _, end = np.nonzero(changes & (padded[:, :-1] != 0))
    return row, first, end, padded[row, first + 1] > 0


def _link(starts: np.ndarray, ends: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """For each run the run that goes on where it ends, (R,).

    Where two pixels touch at a corner two runs end and two start; the one that turns right stays with its own pixel.
    At any other corner one ends and one starts, whichever way it turns.
    """
    width = int(max(starts[:, 0].max(), ends[:, 0].max())) + 1
    by_end = np.lexsort(((directions + 1) % 4, ends[:, 1] * width + ends[:, 0]))
    by_start = np.lexsort((directions, starts[:, 1] * width + starts[:, 0]))
    following = np.empty(len(starts), dtype=np.int64)
    following[by_end] = by_start
    return following
