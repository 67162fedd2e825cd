"""Non-maximum suppression in fixed shapes: the boxes that a greedy loop keeps, without a shape that depends on values.

A greedy loop visits boxes one after the other. Here all boxes are compared at once, and the decisions are repeated
until they agree: box j remains if no remaining box before it suppresses it. Decisions about the first box are right at
once, those about boxes that only it suppresses after one repetition, and so on; the result is that of the loop as soon
as a repetition changes nothing. An accelerator computes it without waiting for the host.

Legend: B images, M boxes of one image.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Suppression(NamedTuple):
    """The boxes that remain."""

    remaining: Tensor
    """(B, M) bool."""
    converged: Tensor
    """(B,) bool: whether the first `enough` remaining boxes of an image are certain."""


def suppress(boxes: Tensor, labels: Tensor, valid: Tensor, iou: float, repetitions: int, enough: int) -> Suppression:
    """Apply NMS per class to boxes sorted by score.

    The arithmetic is that of `torchvision.ops.nms` on a CPU: areas and IoU in float32, compared with `iou` in float64.

    Args:
        boxes: (B, M, 4) x1 y1 x2 y2 float32, the best first.
        labels: (B, M) classes.
        valid: (B, M) bool, False in empty slots.
        iou: IoU above which the later of two boxes of one class is removed.
        repetitions: number of times that the decisions are repeated: the longest chain of boxes, each of which would
            have suppressed the next, that is decided correctly.
        enough: number of remaining boxes of an image that the caller uses.
    """
    overlaps = _overlaps(boxes, iou)
    overlaps &= labels[:, :, None] == labels[:, None, :]
    overlaps &= valid[:, :, None]
    dtype = torch.float32 if boxes.device.type == "cpu" else torch.float16
    weights = overlaps.triu_(1).to(dtype)
    start = valid.to(dtype)[:, None]  # (B, 1, M) of 0 and 1
    remaining = previous = start
    for _ in range(repetitions + 1):
        previous = remaining
        # 1 - (number of boxes that suppress it): rounding to half precision does not change which are positive.
        remaining = torch.baddbmm(start, previous, weights, alpha=-1).relu_()
    integers = previous.int()
    used = integers.cumsum(2) - integers < enough
    changed = (remaining != previous) & used
    return Suppression(previous[:, 0] > 0, ~changed.any(2)[:, 0])


def _overlaps(boxes: Tensor, iou: float) -> Tensor:
    """Return whether the IoU of two boxes (B, M, 4) exceeds a threshold: (B, M, M) bool."""
    x1, y1, x2, y2 = boxes.unbind(2)
    areas = (x2 - x1) * (y2 - y1)
    shared = torch.minimum(x2[:, :, None], x2[:, None, :])
    shared.sub_(torch.maximum(x1[:, :, None], x1[:, None, :])).clamp_(min=0)
    heights = torch.minimum(y2[:, :, None], y2[:, None, :])
    heights.sub_(torch.maximum(y1[:, :, None], y1[:, None, :])).clamp_(min=0)
    shared.mul_(heights)
    del heights
    union = (areas[:, :, None] + areas[:, None, :]).sub_(shared)
    return shared.div_(union) > _float32_threshold(iou)


def _float32_threshold(threshold: float) -> float:
    """Return the highest float32 that does not exceed a threshold: a float32 is above both or above neither."""
    rounded = np.float32(threshold)
    if float(rounded) > threshold:
        rounded = np.nextafter(rounded, np.float32(-math.inf))
    return float(rounded)
