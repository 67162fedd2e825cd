"""The last step of a prediction: from boxes and coefficients on the canvas to `Detections` in image pixels.

Numpy only: every backend ends here, so that their masks have the same pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sais.config import PostprocessConfig
from sais.ops.letterbox import CanvasMap
from sais.ops.masks import box_masks
from sais.results.cropped_mask import CroppedMask
from sais.results.detections import Detections
from sais.structures import MASK_STRIDE, Instances

DEFAULTS = PostprocessConfig()
"""The paper's settings: no margin, scores and boxes as predicted."""


def assemble(
    instances: Instances,
    canvas_maps: Sequence[CanvasMap],
    class_names: tuple[str, ...],
    settings: PostprocessConfig = DEFAULTS,
    mask_stride: int = MASK_STRIDE,
) -> list[Detections]:
    """Return the detections of each image: boxes and cropped masks in its pixels.

    Args:
        instances: detections of a batch (B, D, .), canvas pixels; numpy arrays or torch tensors.
        canvas_maps: B maps from the images to their canvases.
        class_names: C names.
        settings: settings, of which the margin of masks, maskness and boxes from masks are used.
        mask_stride: canvas pixels for one cell of the prototype grid.

    Returns:
        B Detections, scores descending; empty slots are left out.
    """
    arrays = (instances.boxes, instances.scores, instances.labels, instances.coefficients, instances.prototypes)
    on_host: list[Any] = [to_numpy(array) for array in arrays]
    results = []
    for image, canvas_map in enumerate(canvas_maps):
        boxes, scores, labels = (array[image] for array in on_host[:3])
        masks: list[Any] = [None if array is None else array[image] for array in on_host[3:]]
        others = (canvas_map, class_names, settings, mask_stride)
        results.append(assemble_detections(boxes, scores, labels, masks[0], masks[1], *others))
    return results


def assemble_detections(
    boxes: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    coefficients: np.ndarray | None,
    prototypes: np.ndarray | None,
    canvas_map: CanvasMap,
    class_names: tuple[str, ...],
    settings: PostprocessConfig = DEFAULTS,
    mask_stride: int = MASK_STRIDE,
) -> Detections:
    """Return the detections of one image.

    Args:
        boxes: (D, 4) canvas pixels.
        scores: (D,) descending; 0 in empty slots.
        labels: (D,).
        coefficients: (D, K); None for a model without masks.
        prototypes: (K, h, w) of the canvas; None for a model without masks.
        canvas_map: map from the image to its canvas.
        class_names: C names.
        settings: settings, of which the margin of masks, maskness and boxes from masks are used. With maskness the
            detections are sorted again.
        mask_stride: canvas pixels for one cell of the prototype grid.
    """
    filled = scores > 0
    boxes = canvas_map.boxes_to_image(boxes[filled])
    scores, labels = scores[filled], labels[filled]
    masks = []
    if coefficients is not None and prototypes is not None:
        cells = canvas_map.cells_per_pixel(mask_stride)
        cropped = box_masks(prototypes, coefficients[filled], boxes, canvas_map.image_size, cells, settings.mask_margin)
        factors: list[float] = []
        if settings.maskness:
            from sais.ops.maskness import compute_maskness
        for x, y, bits, logits in cropped:  # a generator: one mask is unpacked at a time
            masks.append(CroppedMask(x, y, bits))
            factors.append(compute_maskness(logits) if settings.maskness else 1.0)
        scores = scores * np.array(factors, np.float32)
        if settings.boxes_from_masks:
            from sais.inference.mask_boxes import boxes_from_masks

            boxes = boxes_from_masks(masks, boxes)
    detections = Detections(canvas_map.image_size, boxes, scores, labels, class_names, masks)
    return detections[np.argsort(-detections.scores, kind="stable")] if settings.maskness else detections


def to_numpy(array: Any) -> Any:
    """Return a torch tensor or an array of any shape as an array; None as None."""
    return array.cpu().numpy() if hasattr(array, "cpu") else array
