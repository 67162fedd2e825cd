"""From dense outputs to detections: candidates, ranking, NMS (`detect`), then box-local masks (`assemble`)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from sais.inference.assemble import assemble_detections
from sais.ops.boxes import boxes_from_distances
from sais.results.detections import Detections
from sais.structures import CanvasMap, DenseOutputs, Instances


def postprocess(
    outputs: DenseOutputs,
    points: Tensor,
    contents: list[tuple[float, float]],
    score: float = 0.05,
    candidates: int = 1000,
    nms: float = 0.5,
    detections: int = 100,
) -> Instances:
    """The detections of a batch in fixed shapes.

    Per level the `candidates` locations with the highest class x centerness stay; of those every class with a
    probability above `score` is a candidate, ranked by class x centerness; NMS per class; the best `detections` remain.

    Args:
        outputs: (B, L, .).
        points: (L, 2) the locations, canvas pixels.
        contents: B times (height, width) of the image on its canvas; boxes are clipped to it before NMS, and those
            that lie wholly in the padding go.

    Returns:
        Instances with D = `detections`; empty slots have score 0, label 0 and a box of zeros.
    """
    batch = len(outputs.class_logits)
    device = points.device
    boxes = torch.zeros(batch, detections, 4, device=device)
    scores = torch.zeros(batch, detections, device=device)
    labels = torch.zeros(batch, detections, dtype=torch.int64, device=device)
    coefficients = None
    if outputs.coefficients is not None:
        coefficients = torch.zeros(batch, detections, outputs.coefficients.shape[2], device=device)
    distances = outputs.distances
    for image in range(batch):
        location, label, value = select_candidates(
            outputs.class_logits[image], outputs.centerness_logits[image], outputs.level_sizes, score, candidates
        )
        found = clip_boxes(boxes_from_distances(points[location], distances[image, location]), contents[image])
        inside = (found[:, 2:] > found[:, :2]).all(1)
        found, location, label, value = found[inside], location[inside], label[inside], value[inside]
        kept = batched_nms(found, value, label, nms)[:detections]
        n = len(kept)
        boxes[image, :n], scores[image, :n], labels[image, :n] = found[kept], value[kept], label[kept]
        if coefficients is not None and outputs.coefficients is not None:
            coefficients[image, :n] = outputs.coefficients[image, location[kept]]
    return Instances(boxes, scores, labels, coefficients, outputs.prototypes)


def clip_boxes(boxes: Tensor, content: tuple[float, float]) -> Tensor:
    """Boxes (M, 4), clipped to (height, width)."""
    height, width = content
    return torch.stack([boxes[:, i].clamp(0, width if i % 2 == 0 else height) for i in range(4)], dim=1)


def select_candidates(
    class_logits: Tensor,
    centerness_logits: Tensor,
    level_sizes: tuple[tuple[int, int], ...],
    score: float,
    candidates: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Candidates of one image: location (M,), label (M,) and class x centerness (M,).

    Works on logits first: the sigmoid is taken of the few that pass `score`, never of the whole map.
    """
    threshold = math.log(score / (1 - score)) if 0 < score < 1 else math.copysign(math.inf, score - 0.5)
    passed = (class_logits > threshold).nonzero()  # (M, 2) location and class
    location, label = passed.unbind(1)
    value = class_logits[location, label].sigmoid() * centerness_logits[location].sigmoid()
    kept = []
    first = 0
    for height, width in level_sizes:
        last = first + height * width
        on_level = ((location >= first) & (location < last)).nonzero().squeeze(1)
        # A location's best class passes whenever any of its classes does, so these are the level's best locations.
        best = value.new_full((last - first,), -1.0)
        best.scatter_reduce_(0, location[on_level] - first, value[on_level], "amax")
        if (best >= 0).sum() > candidates:
            chosen = torch.zeros(last - first, dtype=torch.bool, device=best.device)
            chosen[best.topk(candidates).indices] = True
            on_level = on_level[chosen[location[on_level] - first]]
        kept.append(on_level)
        first = last
    order = torch.cat(kept)
    return location[order], label[order], value[order]


def assemble(
    instances: Instances, canvas_maps: list[CanvasMap], class_names: tuple[str, ...], mask_margin: float = 0.0
) -> list[Detections]:
    """What a user holds: boxes in image pixels and, for each detection, a mask patch in image pixels.

    Args:
        instances: of a batch, canvas pixels.
        canvas_maps: B entries, where each image lies on its canvas.
        class_names: C names.
        mask_margin: how far a mask may reach beyond its box, as a share of the box's sides.

    Returns:
        B Detections, scores descending.
    """
    boxes, scores, labels = (t.cpu().numpy() for t in (instances.boxes, instances.scores, instances.labels))
    coefficients = None if instances.coefficients is None else instances.coefficients.cpu().numpy()
    prototypes = None if instances.prototypes is None else instances.prototypes.cpu().numpy()
    return [
        assemble_detections(
            boxes[image],
            scores[image],
            labels[image],
            None if coefficients is None else coefficients[image],
            None if prototypes is None else prototypes[image],
            canvas_map,
            class_names,
            mask_margin,
        )
        for image, canvas_map in enumerate(canvas_maps)
    ]
