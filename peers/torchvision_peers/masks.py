"""Masks of regions: the targets of the mask loss, and two ways back to the image's pixels.

**Targets.** torchvision projects masks of full resolution into each region; a batch of ours holds each object's
coverage of the cells of the stride-4 grid, which is what SAIS learns from too. A target is that coverage, bilinear
between the cells' centers: softer than torchvision's where a cell is larger than a 28th of the box, the same outline
at one half but for details finer than a cell. Perfect masks of that kind, pasted, have a mask AP of 0.96 on images of
the data set animals at 192 x 192. Placed exactly, while torchvision's lie half a pixel off.

**Pasting.** `pasted` asks the map at every pixel center of the box: box-local, exact. `full_masks` is torchvision's
assembly as it ships. They differ by torchvision's rounding of boxes to whole pixels.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torchvision.models.detection.roi_heads import paste_masks_in_image
from torchvision.ops import roi_align

from sais.ops.masks import pixel_window
from sais.results.cropped_mask import CroppedMask
from sais.structures import MASK_STRIDE, GroundTruth

THRESHOLD = 0.5
"""Probability above which a pixel belongs to the object."""


def has_outline(objects: GroundTruth) -> Tensor:
    """(N,) bool: which objects have a mask, and not only a box."""
    windows = objects.mask_windows
    return (windows[:, 2:] > windows[:, :2]).all(1)


def coverage_grids(objects: GroundTruth, grid: tuple[int, int]) -> Tensor:
    """The objects of one image, each on the whole prototype grid: (N, h, w) float32 in 0 .. 1.

    Args:
        objects: N.
        grid: (h, w).
    """
    grids = objects.boxes.new_zeros(len(objects.boxes), *grid)
    first = 0
    for full, (x1, y1, x2, y2) in zip(grids, objects.mask_windows.tolist(), strict=True):
        last = first + (y2 - y1) * (x2 - x1)
        full[y1:y2, x1:x2] = objects.mask_values[first:last].view(y2 - y1, x2 - x1) / 255
        first = last
    return grids


def mask_targets(objects: GroundTruth, boxes: Tensor, matched: Tensor, grid: tuple[int, int], side: int = 28) -> Tensor:
    """What the masks of R regions of one image should be: (R, side, side) float32 in 0 .. 1.

    Args:
        objects: N.
        boxes: (R, 4) canvas pixels.
        matched: (R,) int64, the object of each region.
        grid: (h, w).
        side: cells of a region's mask along each side.
    """
    if len(boxes) == 0:
        return boxes.new_zeros(0, side, side)
    regions = torch.cat([matched[:, None].to(boxes.dtype), boxes], dim=1)
    grids = coverage_grids(objects, grid)[:, None]
    return roi_align(grids, regions, (side, side), spatial_scale=1 / MASK_STRIDE, aligned=True)[:, 0]


def mask_loss(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Mean binary cross-entropy of the map of each region's own class; zero where no region trains.

    Args:
        logits: (R, 1 + C, 28, 28), the background first.
        labels: (R,) int64, 1 .. C.
        targets: (R, 28, 28).
    """
    if len(labels) == 0:
        return logits.sum()
    own = logits[torch.arange(len(labels), device=labels.device), labels]
    return functional.binary_cross_entropy_with_logits(own, targets)


def paste_masks(
    probabilities: NDArray[np.float32], boxes: NDArray[np.floating], size: tuple[int, int], threshold: float = THRESHOLD
) -> list[CroppedMask]:
    """The masks of D detections in the image, each only where its box is.

    Value i of a map lies at (i + 0.5) / 28 of the box; between them it is bilinear, towards the box's edge it falls as
    if zeros followed (torchvision pads its maps so).

    Args:
        probabilities: (D, 28, 28).
        boxes: (D, 4) image pixels.
        size: (H, W) of the image.
        threshold: see `THRESHOLD`.
    """
    patches = []
    for values, box in zip(probabilities, boxes, strict=True):
        x1, y1, x2, y2 = pixel_window(box, size)
        rows = _weights(y1, y2, float(box[1]), float(box[3]), values.shape[0])
        columns = _weights(x1, x2, float(box[0]), float(box[2]), values.shape[1])
        patches.append(CroppedMask(x1, y1, rows @ values @ columns.T > threshold))
    return patches


def _weights(first: int, last: int, low: float, high: float, cells: int) -> NDArray[np.float32]:
    """(last - first, cells): how much the center of each pixel takes of each cell of a map between `low` and `high`."""
    if last <= first:
        return np.zeros((0, cells), np.float32)
    position = (np.arange(first, last) + 0.5 - low) * (cells / (high - low)) - 0.5
    return np.maximum(0, 1 - np.abs(position[:, None] - np.arange(cells))).astype(np.float32)


def full_masks(probabilities: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """torchvision's own assembly, for speed: every mask on the whole image, then the threshold.

    Args:
        probabilities: (D, 28, 28).
        boxes: (D, 4) image pixels.
        size: (H, W) of the image.

    Returns:
        (D, H, W) bool.
    """
    masks: Tensor = paste_masks_in_image(probabilities[:, None], boxes, size)[:, 0] > THRESHOLD
    return masks
