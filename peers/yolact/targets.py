"""Targets: which object each anchor belongs to, what it should therefore say, and what the semantic maps should show.

An anchor is positive where its greatest IoU with an object is at least 0.5, negative below 0.4, ignored in between.
Every object also gets one anchor of its own, its best that no better pair has taken, however little they overlap.
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
    """What every anchor should say."""

    object_index: Tensor
    """(B, A) int64, the object of the image; BACKGROUND or IGNORED where there is none."""
    labels: Tensor
    """(B, A) int64, the object's class; BACKGROUND or IGNORED where there is none."""
    offsets: Tensor
    """(B, A, 4) float32, from the anchor to its object; zero where there is none."""


def build_targets(objects: list[GroundTruth], anchors: Tensor) -> AnchorTargets:
    """What the anchors (A, 4) should say of the B images whose `objects` these are; boxes in canvas pixels."""
    index = torch.stack([match(anchors, o.boxes) for o in objects])  # (B, A)
    labels = index.clamp(max=BACKGROUND)
    offsets = anchors.new_zeros(*index.shape, 4)
    for image, image_objects in enumerate(objects):
        positive = (index[image] >= 0).nonzero().squeeze(1)
        owner = index[image, positive]
        labels[image, positive] = image_objects.labels[owner]
        offsets[image, positive] = encode(anchors[positive], image_objects.boxes[owner])
    return AnchorTargets(index, labels, offsets)


def match(anchors: Tensor, boxes: Tensor) -> Tensor:
    """The object of each anchor: anchors (A, 4), boxes (N, 4) -> (A,) int64, BACKGROUND or IGNORED where none."""
    if len(boxes) == 0:
        return torch.full((len(anchors),), BACKGROUND, dtype=torch.int64, device=anchors.device)
    overlap = pairwise_iou(boxes, anchors)  # (N, A)
    greatest, index = overlap.max(0)
    index = torch.where(greatest < POSITIVE_IOU, IGNORED, index)
    index = torch.where(greatest < NEGATIVE_IOU, BACKGROUND, index)
    own = [(owner, anchor) for owner, anchor in enumerate(own_anchors(overlap)) if anchor is not None]
    owners, forced = torch.tensor(own, device=anchors.device).unbind(1)
    index[forced] = owners
    return index


def own_anchors(overlap: Tensor) -> list[int | None]:
    """The anchor that each object is sure of: the pair of greatest IoU first, no anchor twice.

    Equal IoUs: the lower object, then the lower anchor, goes first.

    Args:
        overlap: (N, A) IoU.

    Returns:
        N anchors; None for objects left over where there are fewer anchors than objects.
    """
    values, wheres = (each.tolist() for each in overlap.max(1))
    # An object's best falls only when its anchor is taken, so it is looked up anew only then.
    queue = [(-value, owner, anchor) for owner, (value, anchor) in enumerate(zip(values, wheres, strict=True))]
    heapq.heapify(queue)
    own: list[int | None] = [None] * len(overlap)
    taken: set[int] = set()
    while queue and len(taken) < overlap.shape[1]:
        _, owner, anchor = heapq.heappop(queue)
        if anchor not in taken:
            taken.add(anchor)
            own[owner] = anchor
            continue
        left = overlap[owner].clone()
        left[list(taken)] = -1
        value, index = left.max(0)
        heapq.heappush(queue, (-value.item(), owner, int(index)))
    return own


def sample_mask_positives(
    targets: AnchorTargets,
    objects: list[GroundTruth],
    image_ids: list[int],
    limit: int = 100,
    seed: int = 0,
    epoch: int = 0,
) -> list[Tensor]:
    """The anchors of each image that train masks: at most `limit`, drawn before any mask is assembled.

    Anchors of objects without an outline are left out. The draw hangs on seed, epoch and image id alone, with SAIS'
    own generator.

    Returns:
        B tensors (M,) int64 of anchors, ascending.
    """
    chosen = []
    for index, image_objects, image_id in zip(targets.object_index, objects, image_ids, strict=True):
        anchors = (index >= 0).nonzero().squeeze(1)
        windows = image_objects.mask_windows[index[anchors]]  # (P, 4)
        anchors = anchors[windows[:, 2] > windows[:, 0]]
        if len(anchors) > limit:
            generator = torch.Generator().manual_seed(((seed * 1_000_003 + epoch) * 1_000_003 + image_id) % 2**63)
            drawn = torch.randperm(len(anchors), generator=generator)[:limit]
            anchors = anchors[drawn.sort().values.to(anchors.device)]
        chosen.append(anchors)
    return chosen


def semantic_targets(objects: GroundTruth, num_classes: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """What the semantic maps of one image should show: where some object of a class covers half of a cell of P3.

    Args:
        objects: of the image.
        num_classes: C.
        size: (height, width) of P3; the prototype grid, on which the masks lie, is at most twice as high and wide.

    Returns:
        (C, height, width) float32 of 0 and 1, and (C,) float32: 1 where the class is told, 0 where one of its objects
        has no outline.
    """
    device = objects.boxes.device
    covered = torch.zeros(num_classes, 2 * size[0], 2 * size[1], device=device)
    told = torch.ones(num_classes, device=device)
    windows = objects.mask_windows.tolist()
    patches = objects.mask_values.split([(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in windows])
    for label, (x1, y1, x2, y2), patch in zip(objects.labels.tolist(), windows, patches, strict=True):
        if x2 <= x1:
            told[label] = 0
            continue
        place = covered[label, y1:y2, x1:x2]
        place.copy_(torch.maximum(place, patch.view(y2 - y1, x2 - x1) / 255))
    return (functional.avg_pool2d(covered, 2) > 0.5).float(), told
