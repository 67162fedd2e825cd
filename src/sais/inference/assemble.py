"""The last station of a prediction: from boxes on a canvas and prototypes to `Detections` of the image.

Numpy only: the predictor with torch and the runtimes without it end here, so that their pixels are the same.
"""

from __future__ import annotations

import numpy as np

from sais.ops.masks import box_masks
from sais.results.cropped_mask import CroppedMask
from sais.results.detections import Detections
from sais.structures import MASK_STRIDE, CanvasMap


def assemble_detections(
    boxes: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    coefficients: np.ndarray | None,
    prototypes: np.ndarray | None,
    canvas_map: CanvasMap,
    class_names: tuple[str, ...],
    mask_margin: float = 0.0,
) -> Detections:
    """What a user holds of one image: boxes in its pixels and, for each detection, a mask patch in its pixels.

    Args:
        boxes: (D, 4) canvas pixels.
        scores: (D,) descending; those of empty slots are 0, and they are left out.
        labels: (D,).
        coefficients: (D, K); None where the model has no masks.
        prototypes: (K, h, w) of the canvas; None where the model has no masks.
        canvas_map: where the image lies on its canvas.
        class_names: C names.
        mask_margin: how far a mask may reach beyond its box, as a share of the box's sides.
    """
    filled = scores > 0
    boxes = canvas_map.to_image(boxes[filled])
    patches = []
    if coefficients is not None and prototypes is not None:
        vertical, horizontal = canvas_map.scale
        scale = (vertical / MASK_STRIDE, horizontal / MASK_STRIDE)
        masks = box_masks(prototypes, coefficients[filled], boxes, canvas_map.image_size, scale, mask_margin)
        patches = [CroppedMask(x, y, bits) for x, y, bits in masks]  # one by one: only one of them is ever unpacked
    return Detections(canvas_map.image_size, boxes, scores[filled], labels[filled], class_names, patches)
