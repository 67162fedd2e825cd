"""Target assignment: the object each location belongs to, and the training targets that follow from it.

A location is a candidate for an object if it is inside the object's box and the largest of its four distances is in the
range of its level. If several objects remain, one of two rules decides:

- *center-aware* (Eqs. 2-4): the object with the highest centerness at that location; ties go to the smaller area, then
  to the lower index, because the paper sorts by area from small to large before taking the first maximum;
- *area-aware* (FCOS): the smallest object; ties go to the lower index.

Only candidate pairs (location, object) are enumerated, never locations x objects: 500 objects are cheap.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sais.modeling.losses import QualityTarget
from sais.ops.boxes import distances_from_boxes, grid_sizes, locations
from sais.ops.distances import squared_centerness
from sais.ops.transfers import copy_together
from sais.structures import DenseTargets, GroundTruth

OUTSIDE_DISTANCE = 1.0
"""Target distance in canvas pixels to the sides of a box that its location is outside of, as no distance is negative.
Only `sais.modeling.unassigned_objects` and assigners of your own assign such locations."""


@dataclass(frozen=True)
class LocationGrid:
    """The locations of all levels of a canvas."""

    points: Tensor
    """(L, 2) float32 ``x y`` of the locations, canvas pixels."""
    level_sizes: tuple[tuple[int, int], ...]
    """(height, width) of the levels."""
    strides: tuple[int, ...]
    """Canvas pixels between neighboring locations of the levels."""
    level_ranges: tuple[tuple[float, float], ...]
    """(low, high] of a location's largest distance for the levels, canvas pixels."""


@dataclass(frozen=True)
class ObjectAssignment:
    """The result of an assigner."""

    object_index: Tensor
    """(B, L) int64, index of the assigned object in its image; -1 is background."""
    score_targets: Tensor | None = None
    """(B, L) float32 in [0, 1], target class probability of positive locations. None: 1."""
    weights: Tensor | None = None
    """(B, L) float32 weight of each location in the losses. None: 1."""

    def to(self, device: torch.device) -> ObjectAssignment:
        """Return a copy (B, L) on a device, in one transfer; the host waits if the device is a CPU."""
        values = (self.object_index, self.score_targets, self.weights)
        copies = iter(copy_together([value for value in values if value is not None], device))
        return ObjectAssignment(*(None if value is None else next(copies) for value in values))  # type: ignore[arg-type]


Assigner = Callable[..., ObjectAssignment]
"""(ground truths of B images, LocationGrid) -> ObjectAssignment. An assigner with the attribute `needs_predictions =
True` is called with the detached `DenseOutputs` as third argument."""


def location_grid(
    canvas: tuple[int, int],
    strides: tuple[int, ...],
    upper_bounds: tuple[float, ...],
    device: torch.device | str = "cpu",
) -> LocationGrid:
    """Return the locations of a canvas.

    Args:
        canvas: (height, width) in pixels, multiples of 32.
        strides: canvas pixels per location of the levels.
        upper_bounds: maximum of a location's largest distance, canvas pixels, for each level but the last.
        device: device of the points (L, 2).
    """
    sizes = grid_sizes(canvas, strides)
    return LocationGrid(locations(sizes, strides, device), sizes, strides, level_ranges(upper_bounds))


def level_ranges(upper_bounds: tuple[float, ...]) -> tuple[tuple[float, float], ...]:
    """Return (low, high] of each level from the upper bounds of all levels but the last."""
    return tuple(zip((0.0, *upper_bounds), (*upper_bounds, float("inf")), strict=True))


def assign_center(ground_truths: list[GroundTruth], grid: LocationGrid) -> ObjectAssignment:
    """Assign each location to the object with the highest centerness there (Eqs. 2-4); object_index is (B, L)."""
    return _assign(ground_truths, grid, by_centerness=True)


def assign_area(ground_truths: list[GroundTruth], grid: LocationGrid) -> ObjectAssignment:
    """Assign each location to its smallest object (FCOS); object_index is (B, L)."""
    return _assign(ground_truths, grid, by_centerness=False)


ASSIGNERS: dict[str, Assigner] = {"center": assign_center, "area": assign_area}


def build_targets(
    assignment: ObjectAssignment,
    ground_truths: list[GroundTruth],
    points: Tensor,
    quality: QualityTarget | None = None,
) -> DenseTargets:
    """Build the training targets of an assignment.

    Args:
        assignment: assigned objects, (B, L).
        ground_truths: objects of B images, boxes in canvas pixels.
        points: locations (L, 2), canvas pixels.
        quality: target of the quality branch from the target distances (P, 4); None leaves it out.

    Returns:
        The targets, (B, L, .), on the device of `points`.
    """
    shape = assignment.object_index.shape
    boxes, labels = torch.cat([g.boxes for g in ground_truths]), torch.cat([g.labels for g in ground_truths])
    index = assignment.object_index.reshape(-1)  # (B * L,)
    positive = (index >= 0).nonzero().squeeze(1)
    image, place = positive // len(points), positive % len(points)
    box_index = index[positive] + _first_index(ground_truths).to(points.device)[image]
    distances = points.new_zeros(len(index), 4)
    inner = distances_from_boxes(points[place], boxes[box_index])
    distances[positive] = torch.where(inner > 0, inner, OUTSIDE_DISTANCE)
    label = torch.full_like(index, -1)
    label[positive] = labels[box_index]
    targets = DenseTargets(assignment.object_index, label.view(shape), distances.view(*shape, 4))
    targets.positives = (image, place)
    targets.score_targets, targets.weights = assignment.score_targets, assignment.weights
    if quality is not None:
        values = points.new_zeros(len(index))
        values[positive] = quality(distances[positive], None)
        targets.quality = values.view(shape)
    return targets


def _first_index(ground_truths: list[GroundTruth]) -> Tensor:
    """Return the index (B,) of each image's first object among the objects of all images."""
    counts = torch.tensor([len(g.boxes) for g in ground_truths])
    return counts.cumsum(0) - counts


def _assign(ground_truths: list[GroundTruth], grid: LocationGrid, by_centerness: bool) -> ObjectAssignment:
    """Assign the locations of all images at once: a GPU needs few large operations instead of many small ones."""
    points = grid.points
    boxes = torch.cat([g.boxes for g in ground_truths])
    counts = torch.tensor([len(g.boxes) for g in ground_truths])
    images = torch.repeat_interleave(counts).to(points.device)  # (N,) of all objects of the batch
    index = torch.full((len(ground_truths) * len(points),), -1, dtype=torch.int64, device=points.device)
    if len(boxes):
        place, owner = candidate_pairs(boxes, grid)
        location = place + images[owner] * len(points)
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        order = torch.argsort(areas, stable=True)  # Eq. 2; equal areas keep their index order
        rank = points.new_empty(len(order))  # float32, because MPS reduces no int64; exact for 16 million objects
        rank[order] = torch.arange(len(order), device=order.device, dtype=rank.dtype)
        if by_centerness:  # Eq. 4: keep only each location's candidates of maximum centerness
            central = squared_centerness(distances_from_boxes(points[place], boxes[owner]))
            maximum = points.new_full((len(index),), -1.0).scatter_reduce_(0, location, central, "amax")
            best = central == maximum[location]
            location, owner = location[best], owner[best]
        winner = points.new_full((len(index),), float(len(boxes)))
        winner = winner.scatter_reduce_(0, location, rank[owner], "amin").long()
        positive = (winner < len(boxes)).nonzero().squeeze(1)
        first = _first_index(ground_truths).to(points.device)
        index[positive] = order[winner[positive]] - first[positive // len(points)]
    return ObjectAssignment(index.view(len(ground_truths), len(points)))


def candidate_pairs(boxes: Tensor, grid: LocationGrid) -> tuple[Tensor, Tensor]:
    """Return all pairs of a location and an object it could belong to.

    An object's candidates on a level are a rectangle of locations. The rectangles are enumerated one after the other,
    then each pair is tested exactly.

    Args:
        boxes: (N, 4) canvas pixels.
        grid: the L locations.

    Returns:
        Location and object index, two (P,) int64 tensors.
    """
    pairs = []
    first = 0
    for (height, width), stride, (low, high) in zip(grid.level_sizes, grid.strides, grid.level_ranges, strict=True):
        longest = (boxes[:, 2:] - boxes[:, :2]).amax(1)
        # A location's largest distance is between half of the longest side and the whole of it.
        reachable = ((longest > low) & (longest * 0.5 <= high)).nonzero().squeeze(1)
        near = boxes[reachable]
        start_x = (near[:, 0] / stride - 1.5).ceil().long().clamp(0, width)
        start_y = (near[:, 1] / stride - 1.5).ceil().long().clamp(0, height)
        columns = ((near[:, 2] / stride + 0.5).floor().long().clamp(0, width) - start_x).clamp(min=0)
        rows = ((near[:, 3] / stride + 0.5).floor().long().clamp(0, height) - start_y).clamp(min=0)
        counts = columns * rows
        row = torch.repeat_interleave(torch.arange(len(near), device=boxes.device), counts)  # of `near`, per pair
        offset = torch.arange(len(row), device=boxes.device) - (counts.cumsum(0) - counts)[row]  # in its rectangle
        y = start_y[row] + offset // columns[row]
        x = start_x[row] + offset % columns[row]
        location, owner = first + y * width + x, reachable[row]
        distances = distances_from_boxes(grid.points[location], boxes[owner])
        largest = distances.amax(1)
        valid = (distances.amin(1) > 0) & (largest > low) & (largest <= high)
        pairs.append((location[valid], owner[valid]))
        first += height * width
    return torch.cat([location for location, _ in pairs]), torch.cat([owner for _, owner in pairs])


def sample_mask_positives(
    targets: DenseTargets,
    ground_truths: list[GroundTruth],
    image_ids: list[int],
    limit: int = 100,
    seed: int = 0,
    epoch: int = 0,
) -> list[Tensor]:
    """Sample the locations of each image that train masks, before any mask is assembled.

    Targets and objects are on one device, the samples in host memory. Locations of objects that have a box but no
    outline are left out. The sample depends only on seed, epoch and image id: it is the same for any number of ranks.

    Args:
        targets: targets (B, L, .).
        ground_truths: objects of B images.
        image_ids: B ids.
        limit: maximum number of locations per image.
        seed: seed of the run.
        epoch: epoch, counted from 0.

    Returns:
        B tensors (M,) int64 of location indices, ascending, in host memory.
    """
    samples = []
    for positive, image_id in zip(_outlined_locations(targets, ground_truths), image_ids, strict=True):
        if len(positive) > limit:
            generator = torch.Generator().manual_seed(((seed * 1_000_003 + epoch) * 1_000_003 + image_id) % 2**63)
            positive = positive[torch.randperm(len(positive), generator=generator)[:limit].sort().values]
        samples.append(positive)
    return samples


def _outlined_locations(targets: DenseTargets, ground_truths: list[GroundTruth]) -> list[Tensor]:
    """Return the locations (M,) of each image whose object has an outline, ascending and on the host."""
    windows = [g.mask_windows for g in ground_truths]
    has_outline = torch.cat([windows[0].new_zeros(1, dtype=torch.bool), *(w[:, 2] > w[:, 0] for w in windows)])
    first = _first_index(ground_truths).to(targets.object_index.device)[:, None]
    index = targets.object_index
    outlined = has_outline[torch.where(index >= 0, index + first + 1, 0)]  # row 0 is the background
    image, place = outlined.nonzero().cpu().unbind(1)
    return list(place.split(torch.bincount(image, minlength=len(ground_truths)).tolist()))
