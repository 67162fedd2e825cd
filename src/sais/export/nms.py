"""Non-maximum suppression as one operator that exporters can translate: `torch.ops.sais.batched_nms`.

Its result has the shape of its input, so that no shape in a graph depends on the data.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import nms


@torch.library.custom_op("sais::batched_nms", mutates_args=())
def batched_nms(boxes: Tensor, scores: Tensor, iou: float, max_detections: int) -> Tensor:
    """Apply NMS per class and set the scores of removed boxes to 0.

    Args:
        boxes: (B, N, 4) x1 y1 x2 y2.
        scores: (B, C, N); a box with score 0 is ignored.
        iou: IoU above which the lower-scoring of two boxes of one class is removed.
        max_detections: maximum number of boxes of each class.

    Returns:
        (B, C, N) scores.
    """
    suppressed = torch.zeros_like(scores)
    for image, label in torch.nonzero(scores.amax(2)).tolist():
        candidates = scores[image, label].nonzero().squeeze(1)
        best = nms(boxes[image, candidates], scores[image, label, candidates], iou)[:max_detections]
        index = candidates[best]
        suppressed[image, label, index] = scores[image, label, index]
    return suppressed


@batched_nms.register_fake
def _(boxes: Tensor, scores: Tensor, iou: float, max_detections: int) -> Tensor:
    return torch.empty_like(scores)
