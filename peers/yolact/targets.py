"""Targets: the object assigned to each anchor, its class and offsets, and the semantic maps.

An anchor is positive if its maximum IoU with an object is at least 0.5, negative below 0.4, and ignored in between.
Every object is also assigned at least one anchor: that of highest IoU not assigned to a pair with a higher IoU.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from peers.yolact.anchors import encode, pairwise_iou
from sais.structures import GroundTruth

POSITIVE_IOU = 0.5
NEGATIVE_IOU = 0.4
BACKGROUND = -1
IGNORED = -2


@dataclass
class AnchorTargets:
    """The targets of all anchors."""

    object_index: Tensor
    """(B, A) int64, index of the object of the image; BACKGROUND or IGNORED if there is none."""
    labels: Tensor
    """(B, A) int64, class of the object; BACKGROUND or IGNORED if there is none."""
    offsets: Tensor
    """(B, A, 4) float32, from the anchor to its object; zero if there is none."""


def build_targets(ground_truths: list[GroundTruth], anchors: Tensor) -> AnchorTargets:
    """Compute the targets (B, A, .) of anchors (A, 4) in canvas pixels for the ground truth of B images."""
    index = torch.stack([match(anchors, ground_truth.boxes) for ground_truth in ground_truths])  # (B, A)
    labels = index.clamp(max=BACKGROUND)
    offsets = anchors.new_zeros(*index.shape, 4)
    for image, ground_truth in enumerate(ground_truths):
        positive = (index[image] >= 0).nonzero().squeeze(1)
        assigned = index[image, positive]
        labels[image, positive] = ground_truth.labels[assigned]
        offsets[image, positive] = encode(anchors[positive], ground_truth.boxes[assigned])
    return AnchorTargets(index, labels, offsets)


def match(anchors: Tensor, boxes: Tensor) -> Tensor:
    """Assign anchors (A, 4) to boxes (N, 4): index of the object (A,) int64, or BACKGROUND or IGNORED."""
    if len(boxes) == 0:
        return torch.full((len(anchors),), BACKGROUND, dtype=torch.int64, device=anchors.device)
    overlap = pairwise_iou(boxes, anchors)  # (N, A)
    max_overlap, index = overlap.max(0)
    index = torch.where(max_overlap < POSITIVE_IOU, IGNORED, index)
    index = torch.where(max_overlap < NEGATIVE_IOU, BACKGROUND, index)
    pairs = [(i, anchor) for i, anchor in enumerate(best_anchors(overlap)) if anchor is not None]
    objects, best = torch.tensor(pairs, device=anchors.device).unbind(1)
    index[best] = objects
    return index


def best_anchors(overlap: Tensor) -> list[int | None]:
    """Assign each object one anchor, in order of descending IoU of the pairs, no anchor twice.

    At equal IoU, the lower object index, then the lower anchor index, comes first.

    Args:
        overlap: the IoU (N, A) of objects and anchors.

    Returns:
        N anchors; None for objects left without one because there are fewer anchors than objects.
    """
    values, anchors = (tensor.tolist() for tensor in overlap.max(1))
    # The best anchor of an object changes only when it is assigned to another one; it is recomputed only then.
    queue = [(-value, i, anchor) for i, (value, anchor) in enumerate(zip(values, anchors, strict=True))]
    heapq.heapify(queue)
    assigned: list[int | None] = [None] * len(overlap)
    taken: set[int] = set()
    while queue and len(taken) < overlap.shape[1]:
        _, i, anchor = heapq.heappop(queue)
        if anchor not in taken:
            taken.add(anchor)
            assigned[i] = anchor
            continue
        remaining = overlap[i].clone()
        remaining[list(taken)] = -1
        value, index = remaining.max(0)
        heapq.heappush(queue, (-value.item(), i, int(index)))
    return assigned


def sample_mask_positives(
    targets: AnchorTargets,
    ground_truths: list[GroundTruth],
    image_ids: list[int],
    limit: int = 100,
    seed: int = 0,
    epoch: int = 0,
) -> list[Tensor]:
    """Sample the anchors of each image that train masks, before any mask is assembled.

    Anchors of objects without a mask are excluded. The sample depends only on seed, epoch and image id, with the
    generator of SAIS.

    Args:
        targets: the targets (B, A, .).
        ground_truths: the ground truth of B images.
        image_ids: B image ids of the data set.
        limit: the maximum number of anchors per image.
        seed: the seed of the run.
        epoch: the epoch, counted from 0.

    Returns:
        B tensors (M,) int64 of anchors, ascending.
    """
    samples = []
    for index, ground_truth, image_id in zip(targets.object_index, ground_truths, image_ids, strict=True):
        anchors = (index >= 0).nonzero().squeeze(1)
        windows = ground_truth.mask_windows[index[anchors]]  # (P, 4)
        anchors = anchors[windows[:, 2] > windows[:, 0]]
        if len(anchors) > limit:
            generator = torch.Generator().manual_seed(((seed * 1_000_003 + epoch) * 1_000_003 + image_id) % 2**63)
            sample = torch.randperm(len(anchors), generator=generator)[:limit]
            anchors = anchors[sample.sort().values.to(anchors.device)]
        samples.append(anchors)
    return samples


def semantic_targets(ground_truth: GroundTruth, num_classes: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Compute the semantic maps of an image: cells of P3 of which objects of a class cover more than half.

    Args:
        ground_truth: the objects of the image.
        num_classes: the number of classes C.
        size: the height and width of P3; the prototype grid of the masks has at most twice the size.

    Returns:
        Maps (C, height, width) float32 of 0 and 1, and validity (C,) float32: 0 for classes with an object that has no
        mask, else 1.
    """
    device = ground_truth.boxes.device
    covered = torch.zeros(num_classes, 2 * size[0], 2 * size[1], device=device)
    valid = torch.ones(num_classes, device=device)
    windows = ground_truth.mask_windows.tolist()
    masks = ground_truth.mask_values.split([(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in windows])
    for label, (x1, y1, x2, y2), mask in zip(ground_truth.labels.tolist(), windows, masks, strict=True):
        if x2 <= x1:
            valid[label] = 0
            continue
        window = covered[label, y1:y2, x1:x2]
        window.copy_(torch.maximum(window, mask.view(y2 - y1, x2 - x1) / 255))
    return (functional.avg_pool2d(covered, 2) > 0.5).float(), valid
