"""Box-local masks: prototypes and coefficients to masks at image resolution, computed only inside each box. Numpy only.

The logit of an image pixel is the bilinear interpolation, at the pixel's center, of the grid of logits
``coefficients @ prototypes`` (Eq. 1 before its sigmoid); a pixel belongs to the object where the logit is positive.
Interpolating logits equals interpolating prototypes; interpolating probabilities would give other pixels. The
interpolation is separable: first columns, then rows, one strip at a time, so that a strip fits the processor's cache.
Matrix products are avoided: the thread pools of numpy and torch block each other, which costs more than the products
save (`docs/performance.md`).

Legend: K prototypes, h w the prototype grid, D detections, H W the image.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

STRIP_PIXELS = 2**18
"""Number of pixels interpolated at once: 1 MiB of logits."""


def pixel_window(box: NDArray[np.floating], size: tuple[int, int], margin: float = 0.0) -> tuple[int, int, int, int]:
    """Return the window of the pixels whose centers are inside a box: ``x1 y1 x2 y2``, end exclusive.

    Args:
        box: (4,) x1 y1 x2 y2 in image pixels.
        size: (H, W) of the image.
        margin: Fraction of the box's sides by which the box is enlarged on each side.
    """
    x1, y1, x2, y2 = (float(v) for v in box)
    margin_x, margin_y = margin * (x2 - x1), margin * (y2 - y1)
    left = min(max(int(np.ceil(x1 - margin_x - 0.5)), 0), size[1])
    top = min(max(int(np.ceil(y1 - margin_y - 0.5)), 0), size[0])
    right = min(max(int(np.ceil(x2 + margin_x - 0.5)), left), size[1])
    bottom = min(max(int(np.ceil(y2 + margin_y - 0.5)), top), size[0])
    return left, top, right, bottom


def box_masks(
    prototypes: Array,
    coefficients: Array,
    boxes: NDArray[np.floating],
    size: tuple[int, int],
    cells_per_pixel: tuple[float, float],
    margin: float = 0.0,
) -> Iterator[tuple[int, int, NDArray[np.bool_], Array]]:
    """Assemble the masks of D detections, each inside its box, one at a time.

    Args:
        prototypes: (K, h, w) float32; fastest in channels-last memory order, that is (h, w, K).
        coefficients: (D, K) float32.
        boxes: (D, 4) x1 y1 x2 y2 in image pixels.
        size: (H, W) of the image.
        cells_per_pixel: (vertical, horizontal) number of grid cells per image pixel.
        margin: Fraction of the box's sides by which a mask may extend beyond its box.

    Yields:
        D tuples ``(x, y, bits, logits)``: bits (height, width) bool, with the top left pixel at (x, y) of the image;
        logits (cells high, cells wide) of the grid, from which they are interpolated.
    """
    if len(boxes) == 0:
        return
    cells = prototypes.shape[1:]
    channels_last = np.ascontiguousarray(prototypes.transpose(1, 2, 0))  # (h, w, K)
    row_above, row_weight = neighbors(size[0], cells[0], cells_per_pixel[0])
    column_left, column_weight = neighbors(size[1], cells[1], cells_per_pixel[1])
    for box, weights in zip(boxes, coefficients, strict=True):
        x1, y1, x2, y2 = pixel_window(box, size, margin)
        if x2 <= x1 or y2 <= y1:
            yield x1, y1, np.zeros((y2 - y1, x2 - x1), bool), np.zeros((0, 0), np.float32)
            continue
        top, bottom = row_above[y1], row_above[y2 - 1] + 2  # slicing clips the end to the grid
        left, right = column_left[x1], column_left[x2 - 1] + 2
        logits = np.einsum("hwk,k->hw", channels_last[top:bottom, left:right], weights)  # (cells high, cells wide)
        columns = _interpolate_columns(logits, column_left[x1:x2] - left, column_weight[x1:x2])  # (cells high, width)
        yield x1, y1, _positive_rows(columns, row_above[y1:y2] - top, row_weight[y1:y2]), logits


def _interpolate_columns(cells: Array, left: NDArray[np.int64], weight: Array) -> Array:
    """Interpolate ``cells[:, left] + weight * (cells[:, left + 1] - cells[:, left])``.

    Args:
        cells: (h, w) grid values.
        left: (n,) index of the cell column left of each pixel column.
        weight: (n,) weight of the cell column to the right, 0 to 1.

    Returns:
        (h, n).
    """
    if cells.shape[1] == 1:
        return np.repeat(cells, len(left), axis=1)
    steps = cells[:, 1:] - cells[:, :-1]
    values: Array = steps.take(left, axis=1)
    values *= weight
    values += cells.take(left, axis=1)
    return values


def _positive_rows(rows: Array, above: NDArray[np.int64], weight: Array) -> NDArray[np.bool_]:
    """Return where ``rows[above] + weight * (rows[above + 1] - rows[above])`` is positive.

    Args:
        rows: (h, width) values of the cell rows.
        above: (n,) index of the cell row above each pixel row.
        weight: (n,) weight of the cell row below, 0 to 1.

    Returns:
        (n, width) bool.
    """
    if len(rows) == 1:
        return np.repeat(rows > 0, len(above), axis=0)
    steps = rows[1:] - rows[:-1]
    positive = np.empty((len(above), rows.shape[1]), bool)
    strip_height = max(1, STRIP_PIXELS // rows.shape[1])
    for first in range(0, len(above), strip_height):
        strip = slice(first, first + strip_height)
        values = steps.take(above[strip], axis=0)
        values *= weight[strip, None]
        values += rows.take(above[strip], axis=0)
        np.greater(values, 0, out=positive[strip])
    return positive


def neighbors(pixels: int, cells: int, cells_per_pixel: float) -> tuple[NDArray[np.int64], Array]:
    """Return the interpolation indices and weights of each pixel center along one axis.

    Args:
        pixels: Number P of image pixels along the axis.
        cells: Number of grid cells along the axis.
        cells_per_pixel: Number of grid cells per image pixel: canvas scale / 4. The grid may extend beyond the image
            (padding); pixels beyond the center of an outermost cell take its value.

    Returns:
        (P,) index of the cell before each pixel center; (P,) weight of the next cell, 0 to 1.
    """
    position = np.clip((np.arange(pixels) + 0.5) * cells_per_pixel - 0.5, 0, cells - 1)
    before = np.minimum(position.astype(np.int64), max(cells - 2, 0))
    return before, (position - before).astype(np.float32)
