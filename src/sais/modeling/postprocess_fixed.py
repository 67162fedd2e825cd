"""Post-processing in fixed shapes, for accelerators: the instances of `sais.modeling.postprocess`, without a wait.

No shape depends on values: each level gives its best locations, and all classes of these its candidates, of which a
fixed number take part in NMS. The result states for each image whether that number was enough. Where it was not, the
caller uses `sais.modeling.postprocess`.

Legend: B images, L locations of all levels, C classes, S locations selected from the levels, M candidates of an image,
D detections.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sais.modeling.postprocess import probability_logit
from sais.ops.boxes import boxes_from_distances
from sais.ops.fixed_nms import suppress
from sais.structures import DenseOutputs, Instances

OFFSET_LIMIT = 1000
"""Number of candidates up to which torchvision separates classes by offsets of their boxes, which rounds coordinates.
Above it compares the boxes of each class as they are."""


class FixedInstances(NamedTuple):
    """Instances, and whether they are those of `sais.modeling.postprocess.postprocess`."""

    instances: Instances
    """(B, D, .); empty slots have score 0, label 0 and a box of zeros."""
    candidates: Tensor
    """(B,) int64 number of candidates before NMS, also those beyond the M best."""
    enough: Tensor
    """(B,) bool: whether the M best candidates determine the instances."""
    converged: Tensor
    """(B,) bool: whether the repetitions of NMS were enough."""


class _Candidates(NamedTuple):
    boxes: Tensor  # (B, M, 4), the best first
    scores: Tensor  # (B, M); -1 in empty slots
    labels: Tensor  # (B, M)
    locations: Tensor  # (B, M)
    passed: Tensor  # (B,), number of all that pass
    largest: Tensor  # (B,), largest coordinate of all that pass


def postprocess_fixed(
    outputs: DenseOutputs,
    points: Tensor,
    content_sizes: Tensor,
    score_threshold: float = 0.05,
    pre_nms_topk: int = 1000,
    nms_iou: float = 0.5,
    max_detections: int = 100,
    candidates: int = OFFSET_LIMIT,
    repetitions: int = 8,
) -> FixedInstances:
    """Turn the dense outputs of a batch into detections; see `sais.modeling.postprocess.postprocess`.

    Args:
        outputs: dense outputs (B, L, .).
        points: locations (L, 2), canvas pixels.
        content_sizes: (B, 2) float32 (height, width) in canvas pixels of the images on their canvases.
        score_threshold: class probability that a candidate must exceed.
        pre_nms_topk: maximum number of locations per level.
        nms_iou: IoU above which the lower-scoring of two boxes of one class is dropped.
        max_detections: maximum number of detections per image D.
        candidates: number M of candidates of an image that take part in NMS, at least D and `OFFSET_LIMIT`. The pairs
            of them take 20 M x M bytes per image.
        repetitions: see `sais.ops.fixed_nms.suppress`.
    """
    places = select_locations(outputs, score_threshold, pre_nms_topk)
    limit = max(candidates, max_detections, OFFSET_LIMIT)
    best = _best_candidates(outputs, points, content_sizes, places, score_threshold, limit)
    valid = best.scores >= 0
    offsets = best.labels.to(best.boxes.dtype) * (best.largest + 1)[:, None]
    offsets = torch.where((best.passed <= OFFSET_LIMIT)[:, None], offsets, 0.0)
    shifted = best.boxes + offsets[:, :, None]
    suppression = suppress(shifted, best.labels, valid, nms_iou, repetitions, max_detections)
    remaining = suppression.remaining
    # Candidates beyond the M best have at most the lowest score of these.
    certain = (remaining & (best.scores > best.scores[:, -1:])).sum(1) >= max_detections
    enough = (best.passed <= best.scores.shape[1]) | certain
    instances = _gather(outputs, best, remaining, max_detections)
    return FixedInstances(instances, best.passed, enough, suppression.converged)


def select_locations(outputs: DenseOutputs, score_threshold: float, pre_nms_topk: int) -> Tensor:
    """Select the locations of each level with the highest score: (B, S) indices, ascending.

    Args:
        outputs: dense outputs (B, L, .).
        score_threshold: class probability that the best class of a location must exceed; others fill up a level.
        pre_nms_topk: maximum number of locations per level.
    """
    batch, length = outputs.class_logits.shape[:2]
    device = outputs.class_logits.device
    everything = torch.arange(length, device=device).expand(batch, length)
    if all(height * width <= pre_nms_topk for height, width in outputs.level_sizes):
        return everything
    logits = outputs.class_logits.amax(2)
    best = logits.sigmoid()
    if outputs.quality_logits is not None:
        best = best * outputs.quality_logits.contiguous().sigmoid()
    best = torch.where(logits > probability_logit(score_threshold), best, -1.0)
    selected = []
    first = 0
    for height, width in outputs.level_sizes:
        last = first + height * width
        if height * width <= pre_nms_topk:
            selected.append(everything[:, first:last])
        else:
            selected.append(first + best[:, first:last].topk(pre_nms_topk, dim=1, sorted=False).indices)
        first = last
    return torch.cat(selected, 1).sort(1).values


def _best_candidates(
    outputs: DenseOutputs, points: Tensor, content_sizes: Tensor, places: Tensor, score_threshold: float, limit: int
) -> _Candidates:
    """Return the best candidates, at most `limit`, of the locations (B, S), sorted as a stable sort of all would."""
    selected, classes = places.shape[1], outputs.class_logits.shape[2]
    logits = _take(outputs.class_logits, places)  # (B, S, C)
    boxes = boxes_from_distances(points[places], _take(outputs.distances, places)).clamp(min=0)  # (B, S, 4)
    boxes = torch.minimum(boxes, content_sizes.flip(1).repeat(1, 2)[:, None])
    inside = (boxes[..., 2:] > boxes[..., :2]).all(2)
    passing = (logits > probability_logit(score_threshold)) & inside[:, :, None]
    scores = logits.sigmoid()
    if outputs.quality_logits is not None:
        scores = scores * outputs.quality_logits.gather(1, places).sigmoid()[:, :, None]
    scores = torch.where(passing, scores, -1.0).flatten(1)  # (B, S * C): location by location, class by class
    largest = torch.where(passing.any(2), boxes.amax(2), 0.0).amax(1)
    # In the order of locations before a stable sort: equal scores remain in that order.
    top = scores.topk(min(limit, selected * classes), dim=1, sorted=False).indices.sort(1).values
    ranked, order = scores.gather(1, top).sort(dim=1, descending=True, stable=True)
    top = top.gather(1, order)
    index = top.div(classes, rounding_mode="floor")
    return _Candidates(
        boxes=_take(boxes, index),
        scores=ranked,
        labels=top - index * classes,
        locations=places.gather(1, index),
        passed=passing.flatten(1).sum(1),
        largest=largest,
    )


def _gather(outputs: DenseOutputs, best: _Candidates, remaining: Tensor, max_detections: int) -> Instances:
    """Return the first `max_detections` of the remaining candidates (B, M) in fixed shapes."""
    number = remaining.shape[1]
    positions = torch.arange(number, device=remaining.device)
    order = torch.where(remaining, positions, positions + number).sort(1).values[:, :max_detections]
    filled = order < number
    order = torch.where(filled, order, order - number)
    boxes, locations = _take(best.boxes, order), best.locations.gather(1, order)
    boxes = torch.where(filled[:, :, None], boxes, 0.0)
    scores = torch.where(filled, best.scores.gather(1, order), 0.0)
    labels = torch.where(filled, best.labels.gather(1, order), 0)
    coefficients = None
    if outputs.coefficients is not None:
        coefficients = torch.where(filled[:, :, None], _take(outputs.coefficients, locations), 0.0)
        coefficients = _pad(coefficients, max_detections)
    boxes, scores, labels = (_pad(values, max_detections) for values in (boxes, scores, labels))
    return Instances(boxes, scores, labels, coefficients, outputs.prototypes)


def _take(values: Tensor, index: Tensor) -> Tensor:
    """Return the rows (B, n, .) of values (B, N, .) at index (B, n)."""
    return values.gather(1, index[:, :, None].expand(-1, -1, values.shape[2]))


def _pad(values: Tensor, length: int) -> Tensor:
    """Fill up the second axis of values (B, n, ...) with zeros to a length."""
    missing = length - values.shape[1]
    if missing <= 0:
        return values
    return torch.cat([values, values.new_zeros(values.shape[0], missing, *values.shape[2:])], 1)
