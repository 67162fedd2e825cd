"""Boxes from masks, the option `postprocess.boxes_from_masks`: a mask locates an object better than its predicted box.

Numpy only. Other settings do not load this module.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sais.ops.pixel_extent import extent_of_bits
from sais.results.cropped_mask import CroppedMask


def boxes_from_masks(masks: Sequence[CroppedMask], boxes: np.ndarray) -> np.ndarray:
    """Return the bounding boxes of masks in image pixels, end exclusive: (D, 4) float32 x1 y1 x2 y2.

    Args:
        masks: D masks.
        boxes: (D, 4) boxes, which remain where a mask is empty.
    """
    results = np.array(boxes, np.float32)
    for row, mask in enumerate(masks):
        extent = extent_of_bits(mask.bits)
        if extent.area:
            (x1, y1), (x2, y2) = extent.first, extent.last
            results[row] = mask.x + x1, mask.y + y1, mask.x + x2 + 1, mask.y + y2 + 1
    return results
