"""A location for every object, against a plain loop over objects and locations; the paper's assignment is unchanged."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from sais.config import CriterionConfig, Experiment
from sais.errors import ConfigError
from sais.modeling.assigners import (
    ASSIGNERS,
    OUTSIDE_DISTANCE,
    LocationGrid,
    ObjectAssignment,
    build_targets,
    location_grid,
)
from sais.modeling.criterion import build_criterion
from sais.modeling.losses import centerness_quality, iou_loss
from sais.modeling.unassigned_objects import assign_all_objects
from sais.recipes import RECIPES, recipe
from sais.structures import STRIDES, Batch, GroundTruth

UPPER_BOUNDS = (64.0, 128.0, 256.0, 512.0)


def objects_of(boxes: np.ndarray) -> GroundTruth:
    """Return objects of one class without outlines."""
    labels, windows = torch.zeros(len(boxes), dtype=torch.int64), torch.zeros(len(boxes), 4, dtype=torch.int64)
    values = torch.zeros(0, dtype=torch.uint8)
    return GroundTruth(torch.from_numpy(boxes.astype(np.float32).reshape(-1, 4)), labels, windows, values)


def loop(owners: list[int], boxes: np.ndarray, grid: LocationGrid) -> list[int]:
    """Serve the objects one by one and look at every location."""
    levels = [level for level, (h, w) in enumerate(grid.level_sizes) for _ in range(h * w)]
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in boxes]
    served = [number for number in range(len(boxes)) if number not in owners and areas[number] > 0]
    for number in sorted(served, key=lambda i: (areas[i], i)):
        x1, y1, x2, y2 = boxes[number]
        half = max(x2 - x1, y2 - y1) / 2
        best, nearest = -1, np.inf
        for place, (x, y) in enumerate(grid.points.numpy()):
            low, high = grid.level_ranges[levels[place]]
            if not low < half <= high or (owners[place] >= 0 and owners.count(owners[place]) == 1):
                continue
            distance = (x - (x1 + x2) / 2) ** 2 + (y - (y1 + y2) / 2) ** 2
            if distance < nearest:
                best, nearest = place, distance
        if best >= 0:
            owners[best] = number
    return owners


def random_boxes(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return up to 40 boxes: tiny ones, thin ones, others, doubles and one without an area."""
    count = int(random.integers(0, 40))
    center = random.uniform(0, 1, (count, 2)) * (width, height)
    sides = np.exp(random.uniform(np.log(1), np.log(40), (count, 2)))
    sides[: count // 4] = random.uniform(1, 7, (count // 4, 2))
    sides[count // 4 : count // 3, 0] = random.uniform(60, 90)
    boxes = np.concatenate([center - sides / 2, center + sides / 2], 1)
    boxes = np.clip(boxes, 0, (width, height, width, height)).astype(np.float32)
    boxes[count // 2 : count // 2 + 3] = boxes[: len(boxes[count // 2 : count // 2 + 3])]
    if count:
        boxes[-1, 2] = boxes[-1, 0]
    return boxes


@pytest.mark.parametrize("assigner", ["center", "area"])
@pytest.mark.parametrize("seed", range(12))
def test_assign_all_objects_equals_a_plain_loop(seed: int, assigner: str) -> None:
    random = np.random.default_rng(seed)
    grid = location_grid((96, 128), STRIDES, UPPER_BOUNDS)
    boxes = [random_boxes(random, 96, 128) for _ in range(3)]
    ground_truths = [objects_of(b) for b in boxes]
    before = ASSIGNERS[assigner](ground_truths, grid)
    kept = before.object_index.clone()
    after = assign_all_objects(before, ground_truths, grid)
    assert torch.equal(before.object_index, kept)
    for image, image_boxes in enumerate(boxes):
        assert after.object_index[image].tolist() == loop(kept[image].tolist(), image_boxes, grid)
        areas = (image_boxes[:, 2:] - image_boxes[:, :2]).prod(1)
        assert set(after.object_index[image].tolist()) - {-1} == set(np.flatnonzero(areas > 0).tolist())


def test_assign_all_objects_serves_objects_that_had_none() -> None:
    """A tiny object between locations, two equal ones, and one whose only location is not taken from it."""
    grid = location_grid((64, 64), STRIDES, UPPER_BOUNDS)
    boxes = np.array([[6, 6, 11, 11], [20, 20, 44, 44], [20, 20, 44, 44], [33, 33, 39, 39]])
    ground_truths = [objects_of(boxes)]
    before = ASSIGNERS["center"](ground_truths, grid)
    counts = [int((before.object_index == number).sum()) for number in range(4)]
    assert counts[0] == counts[2] == 0  # the second of two equal objects
    assert counts[3] == 1
    after = assign_all_objects(before, ground_truths, grid).object_index[0]
    assert after[9] == 0  # the location (12, 12), the nearest of four to (8.5, 8.5)
    assert (after == 2).sum() == 1
    assert (after == 3).sum() == 1


def test_assign_all_objects_without_enough_locations() -> None:
    grid = location_grid((32, 32), STRIDES, UPPER_BOUNDS)  # 16 locations of P3
    boxes = np.tile(np.array([[1.0, 1, 3, 3]]), (20, 1))
    after = assign_all_objects(ASSIGNERS["center"]([objects_of(boxes)], grid), [objects_of(boxes)], grid)
    assert sorted(after.object_index[0][:16].tolist()) == list(range(16))
    none = objects_of(np.zeros((0, 4)))
    assert (assign_all_objects(ASSIGNERS["center"]([none], grid), [none], grid).object_index == -1).all()


def test_assign_all_objects_gives_soft_targets_and_weights_of_1() -> None:
    grid = location_grid((32, 32), STRIDES, UPPER_BOUNDS)
    objects = [objects_of(np.array([[1.0, 1, 3, 3], [8.0, 8, 30, 30]]))]
    index = ASSIGNERS["center"](objects, grid).object_index
    soft = ObjectAssignment(index, torch.full(index.shape, 0.5), torch.full(index.shape, 0.25))
    after = assign_all_objects(soft, objects, grid)
    changed = after.object_index != index
    assert changed.sum() == 1
    assert after.score_targets is not None
    assert after.weights is not None
    assert set(after.score_targets[changed].tolist()) == set(after.weights[changed].tolist()) == {1.0}
    assert set(after.score_targets[~changed].tolist()) == {0.5}


def test_build_targets_extends_the_box_to_a_location_outside() -> None:
    grid = location_grid((64, 64), STRIDES, UPPER_BOUNDS)
    objects = [objects_of(np.array([[6.0, 6, 11, 11]]))]
    assigned = assign_all_objects(ASSIGNERS["center"](objects, grid), objects, grid)
    targets = build_targets(assigned, objects, grid.points, centerness_quality)
    assert targets.distances[0, 9].tolist() == [6, 6, OUTSIDE_DISTANCE, OUTSIDE_DISTANCE]  # from (12, 12)
    assert targets.quality is not None
    assert float(targets.quality[0, 9]) == pytest.approx(1 / 6)
    assert torch.isfinite(iou_loss(torch.ones(1, 4), targets.distances[:, 9])).all()


def test_criterion_assigns_all_objects_on_request_only(tiny: Experiment) -> None:
    assert not any(recipe(name).criterion.assign_all_objects for name in RECIPES)
    objects = objects_of(np.array([[6.0, 6, 11, 11], [16, 16, 60, 60]]))
    batch = Batch(torch.zeros(1, 3, 64, 64, dtype=torch.uint8), [objects], [0], [])
    grid = location_grid((64, 64), STRIDES, UPPER_BOUNDS)
    plain, complete = (
        build_criterion(replace(tiny, criterion=replace(tiny.criterion, assign_all_objects=on))) for on in (False, True)
    )
    before = plain.assign(batch, None, 0).targets
    assert torch.equal(before.object_index, ASSIGNERS["center"]([objects], grid).object_index)
    after = complete.assign(batch, None, 0)
    assert int((after.targets.object_index == 0).sum()) == 1
    assert float(after.normalizers["positives"]) == float(plain.assign(batch, None, 0).normalizers["positives"]) + 1


def predicting_assigner(*_: object) -> None:
    """Stand for an assigner that needs predictions."""


predicting_assigner.needs_predictions = True  # type: ignore[attr-defined]


def test_build_criterion_refuses_assigners_that_need_predictions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ASSIGNERS, "predicting", predicting_assigner)  # type: ignore[arg-type]
    settings = CriterionConfig(assigner="predicting", assign_all_objects=True)
    with pytest.raises(ConfigError, match="assign_all_objects: not with the assigner 'predicting'"):
        build_criterion(Experiment(criterion=settings))
