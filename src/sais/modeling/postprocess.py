"""From dense outputs to instances: candidates, ranking, NMS. `sais.inference.assemble` makes masks of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from sais.ops.boxes import boxes_from_distances
from sais.structures import DenseOutputs, Instances


def postprocess(
    outputs: DenseOutputs,
    points: Tensor,
    content_sizes: Sequence[tuple[float, float]],
    score_threshold: float = 0.05,
    pre_nms_topk: int = 1000,
    nms_iou: float = 0.5,
    max_detections: int = 100,
) -> Instances:
    """Turn the dense outputs of a batch into detections.

    Per level, the `pre_nms_topk` locations with the highest score (class probability x quality) remain. Every class of
    them with a probability above `score_threshold` is a candidate. After NMS per class, the `max_detections` candidates
    with the highest score remain.

    Args:
        outputs: dense outputs (B, L, .).
        points: locations (L, 2), canvas pixels.
        content_sizes: B times (height, width) in canvas pixels of the image on its canvas. Boxes are clipped to it
            before NMS; those entirely in the padding are dropped.
        score_threshold: class probability that a candidate must exceed.
        pre_nms_topk: maximum number of locations per level.
        nms_iou: IoU above which the lower-scoring of two boxes of one class is dropped.
        max_detections: maximum number of detections per image D.

    Returns:
        Instances (B, D, .); empty slots have score 0, label 0 and a box of zeros.
    """
    batch = len(outputs.class_logits)
    device = points.device
    boxes = torch.zeros(batch, max_detections, 4, device=device)
    scores = torch.zeros(batch, max_detections, device=device)
    labels = torch.zeros(batch, max_detections, dtype=torch.int64, device=device)
    coefficients = None
    if outputs.coefficients is not None:
        coefficients = torch.zeros(batch, max_detections, outputs.coefficients.shape[2], device=device)
    distances = outputs.distances
    for image in range(batch):
        quality = None if outputs.quality_logits is None else outputs.quality_logits[image]
        location, label, score = select_candidates(
            outputs.class_logits[image], quality, outputs.level_sizes, score_threshold, pre_nms_topk
        )
        candidates = clip_boxes(
            boxes_from_distances(points[location], distances[image, location]), content_sizes[image]
        )
        inside = (candidates[:, 2:] > candidates[:, :2]).all(1)
        candidates, location, label, score = candidates[inside], location[inside], label[inside], score[inside]
        best = batched_nms(candidates, score, label, nms_iou)[:max_detections]
        n = len(best)
        boxes[image, :n], scores[image, :n], labels[image, :n] = candidates[best], score[best], label[best]
        if coefficients is not None and outputs.coefficients is not None:
            coefficients[image, :n] = outputs.coefficients[image, location[best]]
    return Instances(boxes, scores, labels, coefficients, outputs.prototypes)


def clip_boxes(boxes: Tensor, content_size: tuple[float, float]) -> Tensor:
    """Clip boxes (M, 4) to (height, width)."""
    height, width = content_size
    return torch.stack([boxes[:, i].clamp(0, width if i % 2 == 0 else height) for i in range(4)], dim=1)


def select_candidates(
    class_logits: Tensor,
    quality_logits: Tensor | None,
    level_sizes: tuple[tuple[int, int], ...],
    score_threshold: float,
    pre_nms_topk: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Select the candidates of one image.

    Works on logits: the sigmoid is computed only for those that pass.

    Args:
        class_logits: (L, C).
        quality_logits: (L,), or None without a quality branch.
        level_sizes: (height, width) of the levels.
        score_threshold: class probability that a candidate must exceed.
        pre_nms_topk: maximum number of locations per level, those with the highest score.

    Returns:
        Location (M,), label (M,) and score (M,), class probability x quality.
    """
    logit = probability_logit(score_threshold)
    location, label = (class_logits > logit).nonzero().unbind(1)
    score = class_logits[location, label].sigmoid()
    if quality_logits is not None:
        score = score * quality_logits[location].sigmoid()
    selected = []
    first = 0
    for height, width in level_sizes:
        last = first + height * width
        on_level = ((location >= first) & (location < last)).nonzero().squeeze(1)
        # A location's best class passes if any of its classes does, so these are the level's best locations.
        best = score.new_full((last - first,), -1.0)
        best.scatter_reduce_(0, location[on_level] - first, score[on_level], "amax")
        if (best >= 0).sum() > pre_nms_topk:
            top = torch.zeros(last - first, dtype=torch.bool, device=best.device)
            top[best.topk(pre_nms_topk).indices] = True
            on_level = on_level[top[location[on_level] - first]]
        selected.append(on_level)
        first = last
    order = torch.cat(selected)
    return location[order], label[order], score[order]


def probability_logit(probability: float) -> float:
    """Return the logit of a probability, a scalar; infinite at 0 and 1."""
    if 0 < probability < 1:
        return math.log(probability / (1 - probability))
    return math.copysign(math.inf, probability - 0.5)
