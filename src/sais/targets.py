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

from sais.geometry.boxes import centerness, distances_from_boxes, squared_centerness
from sais.structures import DenseTargets, Objects

LEVEL_RANGES = ((0.0, 64.0), (64.0, 128.0), (128.0, 256.0), (256.0, 512.0), (512.0, float("inf")))
"""(low, high] of a location's largest distance, in canvas pixels, for P3 .. P7."""


def build_targets(
    objects: list[Objects],
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
    index = torch.stack([assign(o.boxes, level_sizes, strides, points, rule) for o in objects])  # (B, L)
    labels = torch.full_like(index, -1)
    distances = points.new_zeros(*index.shape, 4)
    central = points.new_zeros(index.shape)
    for image, image_objects in enumerate(objects):
        positive = (index[image] >= 0).nonzero().squeeze(1)
        owner = index[image, positive]
        labels[image, positive] = image_objects.labels[owner]
        distances[image, positive] = distances_from_boxes(points[positive], image_objects.boxes[owner])
        central[image, positive] = centerness(distances[image, positive])
    return DenseTargets(index, labels, distances, central)


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
    index = torch.full((len(points),), -1, dtype=torch.int64, device=points.device)
    if len(boxes) == 0:
        return index
    location, owner = candidates(boxes, level_sizes, strides, points)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    order = torch.argsort(areas, stable=True)  # Eq. 2; equal areas keep their index order
    rank = points.new_empty(len(order))  # float32, since MPS reduces no int64; exact for 16 million objects
    rank[order] = torch.arange(len(order), device=order.device, dtype=rank.dtype)
    if rule == "center":  # Eq. 4, keep only each location's most central candidates
        central = squared_centerness(distances_from_boxes(points[location], boxes[owner]))
        greatest = points.new_full((len(points),), -1.0).scatter_reduce_(0, location, central, "amax")
        kept = central == greatest[location]
        location, owner = location[kept], owner[kept]
    elif rule != "area":
        raise ValueError(f"rule must be 'center' or 'area', not {rule!r}")
    winner = points.new_full((len(points),), float(len(boxes)))
    winner = winner.scatter_reduce_(0, location, rank[owner], "amin").long()
    positive = winner < len(boxes)
    index[positive] = order[winner[positive]]
    return index


def candidates(
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


def choose_mask_positives(
    targets: DenseTargets,
    objects: list[Objects],
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
    for index, image_objects, image_id in zip(targets.object_index, objects, image_ids, strict=True):
        windows = image_objects.mask_windows
        outlined = torch.cat([windows[:, 2] > windows[:, 0], windows.new_zeros(1, dtype=torch.bool)])
        positive = outlined[index].nonzero().squeeze(1)  # -1, the background, takes the last
        if len(positive) > limit:
            generator = torch.Generator().manual_seed(((seed * 1_000_003 + epoch) * 1_000_003 + image_id) % 2**63)
            draw = torch.randperm(len(positive), generator=generator)[:limit].sort().values
            positive = positive[draw.to(positive.device)]
        chosen.append(positive)
    return chosen
