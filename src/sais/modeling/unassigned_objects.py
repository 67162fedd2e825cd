"""A location for every object, which the paper does not promise: objects without one train nothing.

An object has no location if it is smaller than the distance between locations, or if other objects won all of its
candidates. It is given the location nearest to its center, on the level whose range contains half of its longest side,
the largest distance of a location at its center. The only location of another object is not taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from sais.modeling.assigners import LocationGrid, ObjectAssignment
from sais.structures import GroundTruth


def assign_all_objects(
    assignment: ObjectAssignment, ground_truths: Sequence[GroundTruth], grid: LocationGrid
) -> ObjectAssignment:
    """Return an assignment (B, L) in which every object with an area has a location, as long as there are enough.

    Objects without one are served from small to large, those of equal area by index. Of equally near locations, the
    lower index is taken.

    Args:
        assignment: assignment of locations to objects, in host memory.
        ground_truths: objects of B images, in host memory.
        grid: the L locations.
    """
    index = assignment.object_index.clone()
    for owners, objects in zip(index, ground_truths, strict=True):
        _assign_image(owners, objects.boxes, grid)
    changed = index != assignment.object_index
    soft = (assignment.score_targets, assignment.weights)
    scores, weights = (None if values is None else torch.where(changed, 1.0, values) for values in soft)
    return replace(assignment, object_index=index, score_targets=scores, weights=weights)


def _assign_image(owners: Tensor, boxes: Tensor, grid: LocationGrid) -> None:
    """Change the owners (L,) of the locations of an image with boxes (N, 4) in place."""
    counts = torch.bincount(owners[owners >= 0], minlength=len(boxes))  # (N,)
    sides = boxes[:, 2:] - boxes[:, :2]
    areas = sides.prod(1)
    missing = ((counts == 0) & (areas > 0)).nonzero().squeeze(1)
    for number in missing[torch.argsort(areas[missing], stable=True)].tolist():
        places = _places_of_level(float(sides[number].max()) / 2, grid)
        center = (boxes[number, :2] + boxes[number, 2:]) / 2
        distances = (grid.points[places] - center).square().sum(1)  # squared, (locations of the level,)
        owned = owners[places]
        needed = (owned >= 0) & (counts[owned.clamp(min=0)] == 1)
        distances[needed] = torch.inf
        if not len(distances) or not bool(distances.min() < torch.inf):
            continue
        place = places.start + int(distances.argmin())
        if owners[place] >= 0:
            counts[owners[place]] -= 1
        owners[place], counts[number] = number, 1


def _places_of_level(largest_distance: float, grid: LocationGrid) -> slice:
    """Return the locations of the level whose range contains a distance in canvas pixels."""
    first = 0
    for (height, width), (low, high) in zip(grid.level_sizes, grid.level_ranges, strict=True):
        if low < largest_distance <= high:
            return slice(first, first + height * width)
        first += height * width
    return slice(0, 0)
