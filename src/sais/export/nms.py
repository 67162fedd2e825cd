"""Non-maximum suppression as one operator that exporters can translate: `torch.ops.sais.suppress`.

Its result has the shape of its input whatever it finds, so that no size in a graph depends on the data.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import nms


@torch.library.custom_op("sais::suppress", mutates_args=())
def batched_nms(boxes: Tensor, scores: Tensor, iou: float, detections: int) -> Tensor:
    """Scores with those set to 0 that suppression per class removes.

    Args:
        boxes: (B, N, 4) x1 y1 x2 y2.
        scores: (B, C, N); those of 0 take no part.
        iou: above it the lower of two boxes of one class goes.
        detections: at most so many are kept of a class.
    """
    kept = torch.zeros_like(scores)
    for image, label in torch.nonzero(scores.amax(2)).tolist():
        taking_part = scores[image, label].nonzero().squeeze(1)
        chosen = nms(boxes[image, taking_part], scores[image, label, taking_part], iou)[:detections]
        places = taking_part[chosen]
        kept[image, label, places] = scores[image, label, places]
    return kept


@batched_nms.register_fake
def _(boxes: Tensor, scores: Tensor, iou: float, detections: int) -> Tensor:
    return torch.empty_like(scores)
