"""Object shapes and their rasterization: the coverage of grid cells or the pixels inside a shape. Numpy only.

Legend: P points of one polygon part, h w cells of a window, n crossings of edges and rows. A window is x1 y1 x2 y2 in
whole cells, end exclusive.

A shape remains exact while it is moved, scaled and flipped, and is rasterized only once, at the end. Coordinates are
continuous edges: cell (i, j) of side `cell` covers x in [j, j + 1] * cell and y in [i, i + 1] * cell. Polygons are
rasterized row by row: the edges' crossings with a row delimit the runs of sample points inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MAX_CROSSINGS = 2**22
"""Number of crossings of edges and rows that are computed at once: each takes about 100 bytes."""
_MAX_CELLS = 2**22
"""Number of cells or sample points that are filled at once: each takes about 30 bytes."""
_MAX_COMPARED_PARTS = 500
"""Number of parts of an object up to which they are compared with each other."""


@dataclass(frozen=True, eq=False)
class Polygons:
    """An object as polygons: the union of its parts, each filled by the even-odd rule."""

    parts: tuple[np.ndarray, ...]
    """Each (P, 2) float64 x y; closed implicitly, without repeating the first point."""


@dataclass(frozen=True, eq=False)
class Bitmap:
    """An object as a bitmap stretched over a box: each bit fills an equal cell of the box."""

    bits: np.ndarray
    """(h, w) bool."""
    box: tuple[float, float, float, float]
    """x1 y1 x2 y2."""


Rectangle = tuple[float, float, float, float]
"""x1 y1 x2 y2."""


@dataclass(frozen=True, eq=False)
class CutMask:
    """A shape of which only a part is visible: the part inside a rectangle and not covered by other shapes."""

    shape: Polygons | Bitmap
    within: Rectangle | None
    """The visible rectangle; points on its left and upper edges are inside. None: no limit."""
    covers: tuple[ObjectMask, ...] = ()
    """Shapes that hide it."""


ObjectMask = Polygons | Bitmap | CutMask
"""The shape of one object in the coordinates of the space it was last transformed to."""


def cut_mask(mask: ObjectMask, within: Rectangle | None = None, covers: Sequence[ObjectMask] = ()) -> CutMask:
    """Return the part of a shape that is inside a rectangle and not hidden by other shapes.

    Args:
        mask: The shape; a `CutMask` is cut further.
        within: The visible rectangle in the shape's space; None for no limit.
        covers: The shapes that hide `mask`, in the same space.
    """
    if not isinstance(mask, CutMask):
        return CutMask(mask, within, tuple(covers))
    if mask.within is not None and within is not None:
        (a, b, c, d), (e, f, g, h) = mask.within, within
        within = (max(a, e), max(b, f), min(c, g), min(d, h))
    return CutMask(mask.shape, within or mask.within, (*mask.covers, *covers))


def transform_mask(mask: ObjectMask, scale_x: float, scale_y: float, shift_x: float, shift_y: float) -> ObjectMask:
    """Map a shape by x -> x * scale_x + shift_x and y -> y * scale_y + shift_y; both scales are positive."""
    if isinstance(mask, CutMask):
        shape, *covers = (transform_mask(m, scale_x, scale_y, shift_x, shift_y) for m in (mask.shape, *mask.covers))
        assert not isinstance(shape, CutMask)
        within = mask.within and _transform_rectangle(mask.within, scale_x, scale_y, shift_x, shift_y)
        return CutMask(shape, within, tuple(covers))
    if isinstance(mask, Polygons):
        scale, shift = np.array([scale_x, scale_y]), np.array([shift_x, shift_y])
        return Polygons(tuple(part * scale + shift for part in mask.parts))
    return Bitmap(mask.bits, _transform_rectangle(mask.box, scale_x, scale_y, shift_x, shift_y))


def _transform_rectangle(
    rectangle: Rectangle, scale_x: float, scale_y: float, shift_x: float, shift_y: float
) -> Rectangle:
    x1, y1, x2, y2 = rectangle
    return x1 * scale_x + shift_x, y1 * scale_y + shift_y, x2 * scale_x + shift_x, y2 * scale_y + shift_y


def hflip_mask(mask: ObjectMask, width: float) -> ObjectMask:
    """Mirror a shape left to right in an image of `width` pixels: x -> width - x."""
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
    """Return the tight bounding box of a shape, (4,) float32 x1 y1 x2 y2; zeros for an empty shape.

    The box of a `CutMask` is that of its uncut shape, which contains the visible part.
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
    step_x, step_y = (x2 - x1) / width, (y2 - y1) / height
    left, right = x1 + columns[0] * step_x, x1 + (columns[-1] + 1) * step_x
    top, bottom = y1 + rows[0] * step_y, y1 + (rows[-1] + 1) * step_y
    return np.array([left, top, right, bottom], np.float32)


def coverage(mask: ObjectMask, window: Sequence[int], cell: float = 4.0, samples: int = 4) -> np.ndarray:
    """Return how much of each cell a shape covers, (h, w) uint8, 0 to 255.

    The coverage is the fraction of `samples` x `samples` points inside, times 255, rounded. Point k of a side is at
    (k + 0.5) / samples of the cell.

    Args:
        mask: The shape.
        window: x1 y1 x2 y2 in whole cells, end exclusive.
        cell: Side of a cell in the shape's coordinates.
        samples: Number of sample points per side of a cell.
    """
    return coverages([mask], [window], cell, samples)[0]


def coverages(
    masks: Sequence[ObjectMask], windows: Sequence[Sequence[int]], cell: float = 4.0, samples: int = 4
) -> list[np.ndarray]:
    """Return the `coverage` of several shapes, each in its own window; faster than one call per shape.

    Args:
        masks: N shapes.
        windows: N windows, x1 y1 x2 y2 in whole cells, end exclusive.
        cell: Side of a cell in the shapes' coordinates.
        samples: Number of sample points per side of a cell.

    Returns:
        N arrays (h, w) uint8, 0 to 255.
    """
    masks = [_uncut(mask, window, cell) for mask, window in zip(masks, windows, strict=True)]
    groups: list[list[int]] = [[]]
    cells = crossings = 0
    for i, (mask, (x1, y1, x2, y2)) in enumerate(zip(masks, windows, strict=True)):
        if not isinstance(mask, Polygons) or not parts_disjoint(mask.parts):
            continue
        number = sum(len(part) for part in mask.parts) * max(0, y2 - y1) * samples  # at most
        if number > MAX_CROSSINGS:
            continue
        cells, crossings = cells + max(0, (x2 - x1) * (y2 - y1)), crossings + number
        if cells > _MAX_CELLS or crossings > 2 * MAX_CROSSINGS:
            groups.append([])
            cells, crossings = max(0, (x2 - x1) * (y2 - y1)), number
        groups[-1].append(i)
    counts: dict[int, np.ndarray] = {}
    for group in filter(None, groups):
        parts = [mask.parts for mask in (masks[i] for i in group) if isinstance(mask, Polygons)]
        counts |= zip(group, _scanline_counts(parts, [windows[i] for i in group], cell, samples), strict=True)
    levels = np.rint(np.arange(samples * samples + 1) * (255 / samples**2)).astype(np.uint8)
    return [
        levels[counts[i] if i in counts else _pointwise_counts(mask, window, cell, samples)]
        for i, (mask, window) in enumerate(zip(masks, windows, strict=True))
    ]


def _uncut(mask: ObjectMask, window: Sequence[int], cell: float) -> ObjectMask:
    """Return the shape of a mask that is cut outside of a window only, else the mask itself."""
    if not isinstance(mask, CutMask) or mask.covers:
        return mask
    (left, top, right, bottom), (x1, y1, x2, y2) = mask.within or (-np.inf, -np.inf, np.inf, np.inf), window
    contained = left <= x1 * cell and top <= y1 * cell and right >= x2 * cell and bottom >= y2 * cell
    return mask.shape if contained else mask


def _pointwise_counts(mask: ObjectMask, window: Sequence[int], cell: float, samples: int) -> np.ndarray:
    """Return the number of sample points of each cell inside a shape of any type, (h, w), by testing every point."""
    points = _inside_samples(mask, window, cell, samples).view(np.uint8)
    counts = points[:, 0::samples].astype(np.uint16)
    for k in range(1, samples):
        counts += points[:, k::samples]
    total = counts[0::samples].copy()
    for k in range(1, samples):
        total += counts[k::samples]
    return total


def inside(mask: ObjectMask, window: Sequence[int]) -> np.ndarray:
    """Return whether the center of each pixel is inside a shape, (h, w) bool.

    Args:
        mask: The shape.
        window: x1 y1 x2 y2 in whole pixels, end exclusive.
    """
    return _inside_samples(mask, window, 1.0, 1)


def _inside_samples(mask: ObjectMask, window: Sequence[int], cell: float, samples: int) -> np.ndarray:
    """Return which sample points of the window's cells are inside, (h * samples, w * samples) bool."""
    x1, y1, x2, y2 = (int(v) for v in window)
    shape = (max(0, y2 - y1) * samples, max(0, x2 - x1) * samples)
    if not shape[0] or not shape[1]:
        return np.zeros(shape, bool)
    if isinstance(mask, CutMask):
        return _sample_cut_mask(mask, (x1, y1, x2, y2), shape, cell, samples)
    if isinstance(mask, Bitmap):
        return _sample_bitmap(mask, (x1, y1), shape, cell, samples)
    covered = np.zeros(shape, bool)
    for part in mask.parts:
        # Sample (r, c) of the window has the whole-number coordinates (r, c) here.
        _fill_part((part / cell - (x1, y1)) * samples - 0.5, covered)
    return covered


def _fill_part(points: np.ndarray, covered: np.ndarray) -> None:
    """Set `covered` (rows, columns) where its whole-number points are inside a polygon (P, 2), by the even-odd rule.

    Each edge toggles every point to the right of its crossing with a row; points exactly on a left or upper edge are
    inside.
    """
    following = np.concatenate([points[1:], points[:1]])
    rows, columns = covered.shape
    step = max(1, min(_MAX_CELLS // columns, MAX_CROSSINGS // max(1, len(points))))
    for top in range(0, rows, step):
        _fill_rows(points, following, covered, (top, min(top + step, rows)))


def _fill_rows(points: np.ndarray, following: np.ndarray, covered: np.ndarray, rows: tuple[int, int]) -> None:
    """Fill a strip of rows of `covered` (rows, columns) by the edges from points (P, 2) to `following` (P, 2)."""
    columns = np.full(len(points), covered.shape[1])
    row, column, _ = edge_crossings(points, following, rows[1], columns, rows[0])
    if not len(row):
        return
    # Only the rows and columns between the outermost crossings can change.
    top, left = int(row.min()), int(column.min())
    height, width = int(row.max()) - top + 1, int(column.max()) - left + 1
    toggles = np.bincount((row - top) * width + (column - left), minlength=height * width)
    parity = np.cumsum(toggles.astype(np.uint8).reshape(height, width), axis=1, dtype=np.uint8) & 1
    region = covered[top : top + height, left : left + width]
    region |= parity[:, : region.shape[1]].astype(bool)


def _sample_cut_mask(
    mask: CutMask, window: tuple[int, int, int, int], shape: tuple[int, int], cell: float, samples: int
) -> np.ndarray:
    """Return the sample points inside the shape and its rectangle and outside its covers, (rows, columns) bool."""
    visible = _inside_samples(mask.shape, window, cell, samples)
    if mask.within is not None:
        left, top, right, bottom = (v * (samples / cell) for v in mask.within)
        # In units of samples, sample k of an axis is at window * samples + k + 0.5.
        rows = np.arange(shape[0]) + (window[1] * samples + 0.5)
        columns = np.arange(shape[1]) + (window[0] * samples + 0.5)
        visible &= ((rows >= top) & (rows < bottom))[:, None]
        visible &= (columns >= left) & (columns < right)
    for cover in mask.covers:
        extent = bounding_box(cover).astype(np.float64) / cell
        low = np.maximum(np.floor(extent[:2]).astype(int), window[:2])
        high = np.minimum(np.ceil(extent[2:]).astype(int), window[2:])
        if (high > low).all():  # otherwise the cover is outside the window
            (x1, y1), (x2, y2) = (low - window[:2]) * samples, (high - window[:2]) * samples
            visible[y1:y2, x1:x2] &= ~_inside_samples(cover, (*low, *high), cell, samples)
    return visible


def _sample_bitmap(
    mask: Bitmap, corner: tuple[int, int], shape: tuple[int, int], cell: float, samples: int
) -> np.ndarray:
    """Return the bit at each sample point, (rows, columns) bool; False outside the bitmap's box."""
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


def edge_crossings(
    points: np.ndarray, following: np.ndarray, rows: np.ndarray | int, columns: np.ndarray, top: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return where edges cross whole-number rows.

    An edge crosses the rows y with top <= y < bottom, so that a shared vertex is counted once.

    Args:
        points: (E, 2) start of each edge, x y.
        following: (E, 2) end of each edge.
        rows: (E,) number of rows of the window of each edge, or of all.
        columns: (E,) number of columns of the window of each edge.
        top: First row; those before it are left out.

    Returns:
        (n,) row; (n,) first whole column at or right of the crossing, 0 to `columns`; (n,) index of the edge.
    """
    first = np.ceil(np.minimum(points[:, 1], following[:, 1])).clip(top, rows).astype(np.int64)
    end = np.ceil(np.maximum(points[:, 1], following[:, 1])).clip(top, rows).astype(np.int64)
    count = end - first
    edge = np.repeat(np.arange(len(points)), count)
    row = np.arange(len(edge)) + (first - np.cumsum(count) + count)[edge]
    start, step = points[edge], (following - points)[edge]
    slope = step[:, 0] / step[:, 1]  # never 0 / 0: a horizontal edge crosses no row
    column = np.ceil(start[:, 0] + (row - start[:, 1]) * slope).clip(0, columns[edge]).astype(np.int64)
    return row, column, edge


def parts_disjoint(parts: Sequence[np.ndarray]) -> bool:
    """Return whether no two parts (P, 2) of an object can overlap, judged by their bounding boxes."""
    parts = [part for part in parts if len(part)]
    if len(parts) < 2:
        return True
    if len(parts) > _MAX_COMPARED_PARTS:
        return False
    low, high = np.stack([part.min(0) for part in parts]), np.stack([part.max(0) for part in parts])
    overlaps = (np.maximum(low[:, None], low) < np.minimum(high[:, None], high)).all(2)
    np.fill_diagonal(overlaps, False)
    return not overlaps.any()


def _scanline_counts(
    objects: Sequence[Sequence[np.ndarray]], windows: Sequence[Sequence[int]], cell: float, samples: int
) -> list[np.ndarray]:
    """Return the number of sample points of each cell inside the parts of an object, for several objects at once.

    The sorted crossings of a row alternately start and end a run of points inside. A start at sample k of a cell adds
    samples - k points to the cell and `samples` to each cell on its right, which a running sum does; an end subtracts
    them again. The sum is 0 at the end of a row, so that one sum runs through all rows of all objects.

    Args:
        objects: For each object its parts (P, 2), which are disjoint.
        windows: For each object x1 y1 x2 y2 in whole cells.
        cell: Side of a cell in the parts' coordinates.
        samples: Number of sample points per side of a cell.

    Returns:
        For each object (h, w) int64.
    """
    corners = np.array(windows, np.int64).reshape(-1, 4)
    low, sides = corners[:, :2], (corners[:, 2:] - corners[:, :2]).clip(0)  # (N, 2) x y
    strides = sides[:, 0] + 2  # one more cell for runs that end with the window, one for their carry
    ends = np.cumsum(strides * sides[:, 1])
    starts = ends - strides * sides[:, 1]
    parts = [(i, part) for i, object_parts in enumerate(objects) for part in object_parts if len(part) > 2]
    if not parts or not ends[-1]:
        return [np.zeros((height, width), np.int64) for width, height in sides.tolist()]
    owner = np.repeat([i for i, _ in parts], [len(part) for _, part in parts])
    points = np.concatenate([part for _, part in parts])
    # Sample (r, c) of a window has the whole-number coordinates (r, c) here.
    points = (points / cell - low[owner]) * samples - 0.5
    following = np.concatenate([points[1:], points[:1]])
    last = np.cumsum([len(part) for _, part in parts]) - 1
    following[last] = points[np.concatenate([[0], last[:-1] + 1])]  # each part is closed

    row, column, edge = edge_crossings(points, following, sides[owner, 1] * samples, sides[owner, 0] * samples)
    row_length = strides * samples  # in sample columns
    base = starts * (samples * samples)
    order = np.sort(base[owner[edge]] + row * row_length[owner[edge]] + column)  # by object, row, column
    index = np.searchsorted(ends * (samples * samples), order, side="right")  # object of each crossing
    row, column = np.divmod(order - base[index], row_length[index])
    cell_column, sample = np.divmod(column, samples)
    cells = starts[index] + row // samples * strides[index] + cell_column
    sign = np.ones(len(order))
    sign[1::2] = -1
    weights = np.concatenate([sign * (samples - sample), sign * sample])
    steps = np.bincount(np.concatenate([cells, cells + 1]), weights, minlength=int(ends[-1]))
    counts = steps.cumsum().astype(np.int64)
    return [
        counts[start:end].reshape(height, width + 2)[:, :width]
        for start, end, (width, height) in zip(starts.tolist(), ends.tolist(), sides.tolist(), strict=True)
    ]
