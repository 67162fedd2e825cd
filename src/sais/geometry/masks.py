"""Box-local masks: from prototypes and coefficients straight to the picture's pixels, only inside each box. Numpy only.

The logit of a picture pixel is the bilinear interpolation, at the pixel's centre, of the grid of logits
``coefficients @ prototypes`` (Eq. 1 before its sigmoid); a pixel belongs to the object where the logit is positive.
Interpolating logits is the same as interpolating prototypes; interpolating probabilities would give other pixels.
Interpolation is separable, so a mask is two small matrix products: rows @ logits @ columns.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


def interpolation_matrix(pixels: int, cells: int, cells_per_pixel: float) -> Array:
    """(pixels, cells) float32: row i holds the bilinear weights of the cells around the centre of picture pixel i.

    Args:
        pixels: of the picture along this axis.
        cells: of the prototype grid along this axis.
        cells_per_pixel: grid cells for one picture pixel: canvas scale / 4. The grid may reach beyond the picture
            (padding); pixels beyond the centres of the outermost cells take the outermost cell.
    """
    position = np.clip((np.arange(pixels) + 0.5) * cells_per_pixel - 0.5, 0, cells - 1)
    lower = np.minimum(position.astype(np.int64), max(cells - 2, 0))
    upper = np.minimum(lower + 1, cells - 1)
    weight = (position - lower).astype(np.float32)
    matrix = np.zeros((pixels, cells), np.float32)
    rows = np.arange(pixels)
    matrix[rows, lower] = 1 - weight
    matrix[rows, upper] += weight
    return matrix


def pixel_window(box: NDArray[np.floating], size: tuple[int, int], margin: float = 0.0) -> tuple[int, int, int, int]:
    """The pixels whose centres lie inside a box grown by `margin` of its sides: ``x1 y1 x2 y2``, end exclusive.

    Args:
        box: (4,) picture pixels.
        size: (H, W) of the picture.
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
) -> list[tuple[int, int, NDArray[np.bool_]]]:
    """The masks of D detections, each only where its box is.

    Args:
        prototypes: (K, h, w).
        coefficients: (D, K).
        boxes: (D, 4) picture pixels.
        size: (H, W) of the picture.
        cells_per_pixel: (vertical, horizontal) grid cells for one picture pixel.
        margin: how far a mask may reach beyond its box, as a share of the box's sides.

    Returns:
        D tuples ``(x, y, bits)``: bits (height, width) bool, its top left pixel at (x, y) of the picture.
    """
    if len(boxes) == 0:
        return []
    cells = prototypes.shape[1:]
    by_cell = np.ascontiguousarray(prototypes.transpose(1, 2, 0))  # (h, w, K): a crop times coefficients is one product
    rows = interpolation_matrix(size[0], cells[0], cells_per_pixel[0])
    columns = interpolation_matrix(size[1], cells[1], cells_per_pixel[1]).T.copy()
    first_row, last_row = _reach(size[0], cells[0], cells_per_pixel[0])
    first_column, last_column = _reach(size[1], cells[1], cells_per_pixel[1])
    masks = []
    for box, weights in zip(boxes, coefficients, strict=True):
        x1, y1, x2, y2 = pixel_window(box, size, margin)
        if x2 <= x1 or y2 <= y1:
            masks.append((x1, y1, np.zeros((y2 - y1, x2 - x1), bool)))
            continue
        top, bottom = first_row[y1], last_row[y2 - 1] + 1
        left, right = first_column[x1], last_column[x2 - 1] + 1
        logits = by_cell[top:bottom, left:right] @ weights  # (cells high, cells wide)
        pixels = rows[y1:y2, top:bottom] @ logits @ columns[left:right, x1:x2]  # (box height, box width)
        masks.append((x1, y1, pixels > 0))
    return masks


def _reach(pixels: int, cells: int, cells_per_pixel: float) -> tuple[list[int], list[int]]:
    """First and last cell that each pixel's interpolation reads."""
    position = np.clip((np.arange(pixels) + 0.5) * cells_per_pixel - 0.5, 0, cells - 1)
    lower = np.minimum(position.astype(np.int64), max(cells - 2, 0))
    return lower.tolist(), np.minimum(lower + 1, cells - 1).tolist()
