"""Targets: which object each location belongs to, and what it should therefore say.

A location is a candidate for an object when it lies inside the object's box and the largest of its four distances
falls in the range of its level. Where several objects remain, one of two rules decides:

- *center-aware* (Eqs. 2-4): the object the location is most central in; ties go to the smaller area, then to the
  lower index, since the paper sorts by area from small to large before it takes the first greatest centerness;
- *area-aware* (FCOS): the smallest object; ties go to the lower index.

Only the candidate pairs (location, object) are ever listed, never locations x objects: 500 objects cost little.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sais.ops.boxes import centerness, distances_from_boxes, squared_centerness
from sais.structures import DenseTargets, GroundTruth

LEVEL_RANGES = ((0.0, 64.0), (64.0, 128.0), (128.0, 256.0), (256.0, 512.0), (512.0, float("inf")))
"""(low, high] of a location's largest distance, in canvas pixels, for P3 .. P7."""


def build_targets(
    objects: list[GroundTruth],
    level_sizes: tuple[tuple[int, int], ...],
    strides: tuple[int, ...],
    points: Tensor,
    rule: str = "center",
) -> DenseTargets:
    """What every location of a batch should say.

    Args:
        objects: B entries, boxes in canvas pixels.
        level_sizes: (height, width) of the levels.
        strides: canvas pixels per location of the levels.
        points: (L, 2) the locations, as `geometry.boxes.locations` gives them.
        rule: "center" or "area".

    Returns:
        The targets, (B, L, .), on the device of `points`.
    """
    length = len(points)
    boxes, labels = torch.cat([o.boxes for o in objects]), torch.cat([o.labels for o in objects])
    counts = torch.tensor([len(o.boxes) for o in objects])
    images = torch.repeat_interleave(counts).to(points.device)  # (N,) of all objects of the batch
    index = _assign(boxes, images, len(objects), level_sizes, strides, points, rule)  # (B * L,)
    positive = (index >= 0).nonzero().squeeze(1)
    owner = index[positive]
    distances = points.new_zeros(len(index), 4)
    distances[positive] = distances_from_boxes(points[positive % length], boxes[owner])
    central = points.new_zeros(len(index))
    central[positive] = centerness(distances[positive])
    label = torch.full_like(index, -1)
    label[positive] = labels[owner]
    first = (counts.cumsum(0) - counts).to(points.device)
    index[positive] -= first[positive // length]
    shape = len(objects), length
    return DenseTargets(index.view(shape), label.view(shape), distances.view(*shape, 4), central.view(shape))


def assign(
    boxes: Tensor,
    level_sizes: tuple[tuple[int, int], ...],
    strides: tuple[int, ...],
    points: Tensor,
    rule: str = "center",
) -> Tensor:
    """The object each location belongs to.

    Args:
        boxes: (N, 4) canvas pixels.
        level_sizes, strides, points, rule: as in `build_targets`.

    Returns:
        (L,) int64, index into `boxes`; -1 is background.
    """
    images = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
    return _assign(boxes, images, 1, level_sizes, strides, points, rule)


def _assign(
    boxes: Tensor,
    images: Tensor,
    batch: int,
    level_sizes: tuple[tuple[int, int], ...],
    strides: tuple[int, ...],
    points: Tensor,
    rule: str,
) -> Tensor:
    """The objects of all images at once: boxes (N, 4) and the image (N,) of each -> (B * L,) index into `boxes`.

    A GPU is asked for many small things; for one image after the other it would be asked as many times.
    """
    index = torch.full((batch * len(points),), -1, dtype=torch.int64, device=points.device)
    if len(boxes) == 0:
        return index
    place, owner = candidate_pairs(boxes, level_sizes, strides, points)
    location = place + images[owner] * len(points)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    order = torch.argsort(areas, stable=True)  # Eq. 2; equal areas keep their index order
    rank = points.new_empty(len(order))  # float32, since MPS reduces no int64; exact for 16 million objects
    rank[order] = torch.arange(len(order), device=order.device, dtype=rank.dtype)
    if rule == "center":  # Eq. 4, keep only each location's most central candidates
        central = squared_centerness(distances_from_boxes(points[place], boxes[owner]))
        greatest = points.new_full((len(index),), -1.0).scatter_reduce_(0, location, central, "amax")
        kept = central == greatest[location]
        location, owner = location[kept], owner[kept]
    elif rule != "area":
        raise ValueError(f"rule must be 'center' or 'area', not {rule!r}")
    winner = points.new_full((len(index),), float(len(boxes)))
    winner = winner.scatter_reduce_(0, location, rank[owner], "amin").long()
    positive = winner < len(boxes)
    index[positive] = order[winner[positive]]
    return index


def candidate_pairs(
    boxes: Tensor, level_sizes: tuple[tuple[int, int], ...], strides: tuple[int, ...], points: Tensor
) -> tuple[Tensor, Tensor]:
    """All pairs of a location and an object it could belong to: two (P,) int64 tensors, location and object.

    An object's candidates on a level lie in a rectangle of locations; the rectangles are listed one after the other
    and each pair is then tested exactly.
    """
    pairs = []
    first = 0
    for (height, width), stride, (low, high) in zip(level_sizes, strides, LEVEL_RANGES, strict=True):
        longest = (boxes[:, 2:] - boxes[:, :2]).amax(1)
        # A location's largest distance is at least half of the longest side and less than the whole of it.
        reachable = ((longest > low) & (longest * 0.5 <= high)).nonzero().squeeze(1)
        near = boxes[reachable]
        start_x = (near[:, 0] / stride - 1.5).ceil().long().clamp(0, width)
        start_y = (near[:, 1] / stride - 1.5).ceil().long().clamp(0, height)
        columns = ((near[:, 2] / stride + 0.5).floor().long().clamp(0, width) - start_x).clamp(min=0)
        rows = ((near[:, 3] / stride + 0.5).floor().long().clamp(0, height) - start_y).clamp(min=0)
        counts = columns * rows
        which = torch.repeat_interleave(torch.arange(len(near), device=boxes.device), counts)
        within = torch.arange(len(which), device=boxes.device) - (counts.cumsum(0) - counts)[which]
        y = start_y[which] + within // columns[which]
        x = start_x[which] + within % columns[which]
        location, owner = first + y * width + x, reachable[which]
        distances = distances_from_boxes(points[location], boxes[owner])
        largest = distances.amax(1)
        valid = (distances.amin(1) > 0) & (largest > low) & (largest <= high)
        pairs.append((location[valid], owner[valid]))
        first += height * width
    return torch.cat([p[0] for p in pairs]), torch.cat([p[1] for p in pairs])


def sample_mask_positives(
    targets: DenseTargets,
    objects: list[GroundTruth],
    image_ids: list[int],
    limit: int = 100,
    seed: int = 0,
    epoch: int = 0,
) -> list[Tensor]:
    """The locations of each image that train masks: at most `limit`, drawn before any mask is assembled.

    Locations of objects that have a box but no outline are left out. The draw depends on seed, epoch and image id
    alone, so that it is the same on any number of ranks.

    Returns:
        B tensors (M,) int64 of location indices, ascending.
    """
    chosen = []
    drawn_from = _outlined(targets, objects)
    for positive, image_id in zip(drawn_from, image_ids, strict=True):
        if len(positive) > limit:
            generator = torch.Generator().manual_seed(((seed * 1_000_003 + epoch) * 1_000_003 + image_id) % 2**63)
            positive = positive[torch.randperm(len(positive), generator=generator)[:limit].sort().values]
        chosen.append(positive)
    together = torch.cat(chosen).to(targets.object_index.device)  # once, since a GPU answers slowly
    return list(together.split([len(one) for one in chosen]))


def _outlined(targets: DenseTargets, objects: list[GroundTruth]) -> list[Tensor]:
    """The locations of each image, ascending and on the host, whose object has an outline."""
    windows = [o.mask_windows for o in objects]
    has_outline = torch.cat([windows[0].new_zeros(1, dtype=torch.bool), *(w[:, 2] > w[:, 0] for w in windows)])
    counts = torch.tensor([len(w) for w in windows])
    first = (counts.cumsum(0) - counts).to(targets.object_index.device)[:, None]
    index = targets.object_index
    outlined = has_outline[torch.where(index >= 0, index + first + 1, 0)]  # the background takes the first
    image, place = outlined.nonzero().cpu().unbind(1)
    return list(place.split(torch.bincount(image, minlength=len(objects)).tolist()))
