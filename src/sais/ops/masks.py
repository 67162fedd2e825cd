"""Box-local masks: from prototypes and coefficients straight to the image's pixels, only inside each box. Numpy only.

The logit of an image pixel is the bilinear interpolation, at the pixel's center, of the grid of logits
``coefficients @ prototypes`` (Eq. 1 before its sigmoid); a pixel belongs to the object where the logit is positive.
Interpolating logits is the same as interpolating prototypes; interpolating probabilities would give other pixels.
Interpolation is separable: each column as the weighted mean of the two columns of cells around it, then each row, a
strip at a time, so that what is in hand stays in the processor's cache. Without matrix products on purpose: numpy's
threads for them and torch's wait for each other, which costs more than the products save (`docs/performance.md`).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

STRIP = 2**18
"""Pixels interpolated at once: 1 MiB of logits."""


def pixel_window(box: NDArray[np.floating], size: tuple[int, int], margin: float = 0.0) -> tuple[int, int, int, int]:
    """The pixels whose centers lie inside a box grown by `margin` of its sides: ``x1 y1 x2 y2``, end exclusive.

    Args:
        box: (4,) image pixels.
        size: (H, W) of the image.
    """
    x1, y1, x2, y2 = (float(v) for v in box)
    grow_x, grow_y = margin * (x2 - x1), margin * (y2 - y1)
    left = min(max(int(np.ceil(x1 - grow_x - 0.5)), 0), size[1])
    top = min(max(int(np.ceil(y1 - grow_y - 0.5)), 0), size[0])
    right = min(max(int(np.ceil(x2 + grow_x - 0.5)), left), size[1])
    bottom = min(max(int(np.ceil(y2 + grow_y - 0.5)), top), size[0])
    return left, top, right, bottom


def box_masks(
    prototypes: Array,
    coefficients: Array,
    boxes: NDArray[np.floating],
    size: tuple[int, int],
    cells_per_pixel: tuple[float, float],
    margin: float = 0.0,
) -> Iterator[tuple[int, int, NDArray[np.bool_]]]:
    """The masks of D detections, each only where its box is, one after the other.

    Args:
        prototypes: (K, h, w); quickest where they lie in memory as (h, w, K), as a channels-last network leaves them.
        coefficients: (D, K).
        boxes: (D, 4) image pixels.
        size: (H, W) of the image.
        cells_per_pixel: (vertical, horizontal) grid cells for one image pixel.
        margin: how far a mask may reach beyond its box, as a share of the box's sides.

    Yields:
        D tuples ``(x, y, bits)``: bits (height, width) bool, its top left pixel at (x, y) of the image.
    """
    if len(boxes) == 0:
        return
    cells = prototypes.shape[1:]
    by_cell = np.ascontiguousarray(prototypes.transpose(1, 2, 0))  # (h, w, K): a crop times coefficients is one product
    row_above, row_weight = neighbors(size[0], cells[0], cells_per_pixel[0])
    column_left, column_weight = neighbors(size[1], cells[1], cells_per_pixel[1])
    for box, weights in zip(boxes, coefficients, strict=True):
        x1, y1, x2, y2 = pixel_window(box, size, margin)
        if x2 <= x1 or y2 <= y1:
            yield x1, y1, np.zeros((y2 - y1, x2 - x1), bool)
            continue
        top, bottom = row_above[y1], row_above[y2 - 1] + 2  # a slice ends with the grid by itself
        left, right = column_left[x1], column_left[x2 - 1] + 2
        logits = np.einsum("hwk,k->hw", by_cell[top:bottom, left:right], weights)  # (cells high, cells wide)
        crossed = _between_columns(logits, column_left[x1:x2] - left, column_weight[x1:x2])  # (cells high, box width)
        yield x1, y1, _positive_between(crossed, row_above[y1:y2] - top, row_weight[y1:y2])


def _between_columns(cells: Array, left: NDArray[np.int64], weight: Array) -> Array:
    """``cells[:, left] + weight * (cells[:, left + 1] - cells[:, left])``: (rows, len(left))."""
    if cells.shape[1] == 1:
        return np.repeat(cells, len(left), axis=1)
    steps = cells[:, 1:] - cells[:, :-1]
    values: Array = steps.take(left, axis=1)
    values *= weight
    values += cells.take(left, axis=1)
    return values


def _positive_between(rows: Array, above: NDArray[np.int64], weight: Array) -> NDArray[np.bool_]:
    """Where ``rows[above] + weight * (rows[above + 1] - rows[above])`` is positive: (len(above), width) bool."""
    if len(rows) == 1:
        return np.repeat(rows > 0, len(above), axis=0)
    steps = rows[1:] - rows[:-1]
    positive = np.empty((len(above), rows.shape[1]), bool)
    high = max(1, STRIP // rows.shape[1])
    for first in range(0, len(above), high):
        strip = slice(first, first + high)
        values = steps.take(above[strip], axis=0)
        values *= weight[strip, None]
        values += rows.take(above[strip], axis=0)
        np.greater(values, 0, out=positive[strip])
    return positive


def neighbors(pixels: int, cells: int, cells_per_pixel: float) -> tuple[NDArray[np.int64], Array]:
    """For the center of each pixel the cell before it, and its share of the way from there to the next, 0 .. 1.

    Args:
        pixels: of the image along this axis.
        cells: of the prototype grid along this axis.
        cells_per_pixel: grid cells for one image pixel: canvas scale / 4. The grid may reach beyond the image
            (padding); pixels beyond the centers of the outermost cells take the outermost cell.
    """
    position = np.clip((np.arange(pixels) + 0.5) * cells_per_pixel - 0.5, 0, cells - 1)
    before = np.minimum(position.astype(np.int64), max(cells - 2, 0))
    return before, (position - before).astype(np.float32)
