"""Assigners against a plain loop written from Eqs. 2-4 and the candidate rule."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sais.modeling.assigners import (
    ASSIGNERS,
    LocationGrid,
    build_targets,
    candidate_pairs,
    level_ranges,
    location_grid,
    sample_mask_positives,
)
from sais.modeling.losses import centerness_quality
from sais.ops.boxes import locations
from sais.structures import DenseTargets, GroundTruth

STRIDES = (8, 16, 32, 64, 128)
UPPER_BOUNDS = (64.0, 128.0, 256.0, 512.0)
Sizes = tuple[tuple[int, int], ...]


def grid_of(sizes: Sizes) -> LocationGrid:
    """The locations of levels of any sizes."""
    return LocationGrid(locations(sizes, STRIDES), sizes, STRIDES, level_ranges(UPPER_BOUNDS))


def assign(boxes: torch.Tensor, sizes: Sizes, assigner: str = "center") -> torch.Tensor:
    """The object index (L,) of each location of one image."""
    objects = GroundTruth(boxes, torch.zeros(len(boxes), dtype=torch.int64), torch.zeros(0), torch.zeros(0))
    return ASSIGNERS[assigner]([objects], grid_of(sizes)).object_index[0]


def targets_of(ground_truths: list[GroundTruth], sizes: Sizes, assigner: str = "center") -> DenseTargets:
    """The targets of a batch with centerness as quality."""
    grid = grid_of(sizes)
    return build_targets(ASSIGNERS[assigner](ground_truths, grid), ground_truths, grid.points, centerness_quality)


def sizes_of(height: int, width: int) -> Sizes:
    """Level sizes of a canvas, as the stride-2 convolutions of P6 and P7 round them."""
    sizes = [(height // 8, width // 8), (height // 16, width // 16), (height // 32, width // 32)]
    for _ in range(2):
        sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
    return tuple(sizes)


def oracle(boxes: np.ndarray, sizes: Sizes) -> dict[str, np.ndarray]:
    """The owner of every location under both rules, object by object from small to large (Eq. 2), in float32."""
    points, low, high = [], [], []
    ranges = ((0, 64), (64, 128), (128, 256), (256, 512), (512, np.inf))
    for (height, width), stride, (least, most) in zip(sizes, STRIDES, ranges, strict=True):
        for row in range(height):
            for column in range(width):
                points.append(((column + 0.5) * stride, (row + 0.5) * stride))
        low += [least] * (height * width)
        high += [most] * (height * width)
    x, y = np.array(points, np.float32).T
    lowest, highest = np.array(low, np.float32), np.array(high, np.float32)
    area_owner, center_owner = np.full(len(x), -1), np.full(len(x), -1)
    best = np.full(len(x), -1.0)
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in boxes]
    for number in sorted(range(len(boxes)), key=lambda i: (areas[i], i)):
        x1, y1, x2, y2 = boxes[number]
        left, top, right, bottom = x - x1, y - y1, x2 - x, y2 - y
        inside = (left > 0) & (top > 0) & (right > 0) & (bottom > 0)
        largest = np.maximum(np.maximum(left, right), np.maximum(top, bottom))
        here = np.flatnonzero(inside & (largest > lowest) & (largest <= highest))
        area_owner[here[area_owner[here] < 0]] = number  # the smallest came first
        left, top, right, bottom = left[here], top[here], right[here], bottom[here]
        across = np.minimum(left, right) / np.maximum(left, right)
        down = np.minimum(top, bottom) / np.maximum(top, bottom)
        central = np.sqrt((across * down).astype(np.float64))  # Eq. 3; a float32 root would round ties into being
        more = central > best[here]  # Eq. 4: strictly, so the smaller keeps a tie
        center_owner[here[more]] = number
        best[here[more]] = central[more]
    return {"area": area_owner, "center": center_owner}


def check(boxes: np.ndarray, height: int, width: int) -> dict[str, np.ndarray]:
    """Compare `assign` with the oracle; returns the oracle's owners."""
    sizes = sizes_of(height, width)
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    wanted = oracle(boxes, sizes)
    for rule, owners in wanted.items():
        actual = assign(torch.from_numpy(boxes), sizes, rule)
        np.testing.assert_array_equal(actual.numpy(), owners, err_msg=rule)
    return wanted


def random_boxes(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Up to 60 boxes: fractional, whole, on the grid, doubled, mirrored, beyond the borders, much too large, empty."""
    number = int(random.integers(0, 61))
    center = random.uniform(0, 1, (number, 2)) * (width, height)
    sides = np.exp(random.uniform(np.log(3), np.log(1.2 * max(height, width)), (number, 2)))
    boxes = np.concatenate([center - sides / 2, center + sides / 2], 1)
    kind = random.integers(0, 10, number)
    boxes[kind == 1] = boxes[kind == 1].round()
    on_grid = kind == 2
    boxes[on_grid] = (boxes[on_grid] / 8).round() * 8 + random.choice((0, 4), (int(on_grid.sum()), 1))
    boxes[kind == 3] = np.clip(boxes[kind == 3], 0, (width, height, width, height))
    boxes[kind == 4] += random.uniform(-1, 1, (int((kind == 4).sum()), 1)) * 700  # may lie wholly outside
    boxes[kind == 5] = boxes[kind == 5] * 4 - 100  # distances beyond 256 and 512
    for i in np.flatnonzero(kind >= 8):
        other = boxes[int(random.integers(0, number))].copy()
        turn = int(random.integers(0, 4))
        boxes[i] = other  # a double, or mirrored in an axis of locations: equal centerness there, equal area
        if turn == 1:
            boxes[i, [0, 2]] = 2 * 68 - other[[2, 0]]
        elif turn == 2:  # twice as far from a location on all sides: equal centerness there, another area
            boxes[i] = 2 * other - (68, 60, 68, 60)
        elif turn == 3:
            boxes[i, 2] = boxes[i, 0]
    return boxes.astype(np.float32)


@pytest.mark.parametrize("part", range(10))
def test_assigners_equal_a_plain_loop_on_1000_scenes(part: int) -> None:
    differ = positive = 0
    for number in range(100):
        random = np.random.default_rng([part, number])
        height, width = (32 * random.integers(3, 9, 2)).tolist()
        owners = check(random_boxes(random, height, width), height, width)
        differ += int((owners["area"] != owners["center"]).sum())
        positive += int((owners["area"] >= 0).sum())
    assert positive > 10_000
    assert differ > 1_000  # the scenes do tell the rules apart


@pytest.mark.parametrize("number", range(5))
def test_assigners_equal_a_plain_loop_on_all_levels(number: int) -> None:
    random = np.random.default_rng([77, number])
    height, width = 992, 1344
    boxes = random_boxes(random, height, width)
    boxes = np.concatenate(
        [boxes, [[3, 5, 1300.5, 980], [0, 0, 1344, 992], [100, 200, 900, 700], [9, 9, 60, 50], [20, 700, 140, 800]]]
    ).astype(np.float32)
    owners = check(boxes, height, width)["center"]
    first = 0
    for level_height, level_width in sizes_of(height, width):
        last = first + level_height * level_width
        assert (owners[first:last] >= 0).any()
        first = last


def test_assigners_equal_a_plain_loop_with_500_objects() -> None:
    random = np.random.default_rng(5)
    corner = random.uniform(-20, 760, (500, 2))
    boxes = np.concatenate([corner, corner + np.exp(random.uniform(1.5, 6.5, (500, 2)))], 1)
    check(boxes, 768, 768)


def test_assigners_without_objects() -> None:
    owners = check(np.zeros((0, 4)), 96, 128)
    assert (owners["center"] == -1).all()


def test_assign_center_ties_go_to_smaller_area_then_lower_index() -> None:
    sizes = sizes_of(96, 96)
    column, row = 4, 4
    place = row * sizes[0][1] + column  # the location (36, 36) of P3

    def owner(*boxes: tuple[float, float, float, float], rule: str = "center") -> int:
        return int(assign(torch.tensor(boxes, dtype=torch.float32), sizes, rule)[place])

    large, small = (16.0, 16.0, 56.0, 56.0), (26.0, 26.0, 46.0, 46.0)  # both centerd on it: centerness 1
    assert owner(large, small) == 1
    assert owner(small, large) == 0
    # Mirrored in the location: equal centerness and equal area.
    assert owner((20, 20, 60, 50), (12, 22, 52, 52)) == 0
    assert owner((12, 22, 52, 52), (20, 20, 60, 50)) == 0
    assert owner(large, large, rule="area") == 0
    # The same centerness at the location, another area: twice as far on all sides.
    assert owner((4, 20, 52, 60), (20, 28, 44, 48)) == 1
    assert owner((20, 28, 44, 48), (4, 20, 52, 60)) == 0


def test_assigners_on_figure_2() -> None:
    """A small object over the large one's center; both on P7, which has no upper bound, so that no level parts them."""
    sizes = ((0, 0), (0, 0), (0, 0), (0, 0), (30, 40))  # P7 of a canvas of 3840 x 5120
    points = locations(sizes, STRIDES)
    boxes = torch.tensor([[512.0, 384.0, 4480.0, 3456.0], [2304.0, 1792.0, 3712.0, 2944.0]])
    center = torch.tensor([2496.0, 1920.0])
    assert ((boxes[0, :2] + boxes[0, 2:]) / 2 == center).all()
    in_small = ((points > boxes[1, :2]) & (points < boxes[1, 2:])).all(1)
    in_large = ((points > boxes[0, :2]) & (points < boxes[0, 2:])).all(1)
    area = assign(boxes, sizes, "area")
    assert (area[in_small] == 1).all()
    assert (area[in_large & ~in_small] == 0).all()
    assert (area[~in_large] == -1).all()
    central = assign(boxes, sizes)
    around = ((points - center).abs() < 200).all(1)
    assert around.sum() >= 4
    assert (in_small & around).sum() >= 4
    assert (central[around] == 0).all()  # the large object keeps its own center, inside the small box too
    own_center = ((points - (boxes[1, :2] + boxes[1, 2:]) / 2).abs() < 100).all(1)
    assert own_center.sum() >= 1
    assert (central[own_center] == 1).all()
    assert ((central >= 0) == in_large).all()


def test_candidate_pairs_lists_each_pair_once() -> None:
    random = np.random.default_rng(3)
    boxes = torch.from_numpy(random_boxes(random, 256, 192))
    sizes = sizes_of(256, 192)
    location, owner = candidate_pairs(boxes, grid_of(sizes))
    pairs = list(zip(location.tolist(), owner.tolist(), strict=True))
    assert len(pairs) == len(set(pairs)) > 100


def test_level_ranges_are_half_open_and_without_upper_bound_on_the_last_level() -> None:
    assert level_ranges(UPPER_BOUNDS) == ((0, 64), (64, 128), (128, 256), (256, 512), (512, float("inf")))
    grid = location_grid((96, 160), STRIDES, (32.0, 64.0, 256.0, 512.0))
    assert grid.level_sizes == ((12, 20), (6, 10), (3, 5), (2, 3), (1, 2))
    assert grid.level_ranges[0] == (0, 32)
    box = torch.tensor([[0.0, 0.0, 80.0, 80.0]])  # largest distances from 40 to 80: P4 with these ranges
    objects = GroundTruth(box, torch.zeros(1, dtype=torch.int64), torch.zeros(0), torch.zeros(0))
    index = ASSIGNERS["center"]([objects], grid).object_index[0]
    assert (index[:240] == -1).all()
    assert (index[240:300] == 0).any()


def objects_of(boxes: list[list[float]], labels: list[int]) -> GroundTruth:
    """Objects with an outline each (windows of one cell; the values do not matter here)."""
    values = torch.zeros(len(boxes), dtype=torch.uint8)
    windows = torch.tensor([[0, 0, 1, 1]], dtype=torch.int64).repeat(len(boxes), 1)
    return GroundTruth(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor(labels, dtype=torch.int64),
        windows,
        values,
    )


def test_build_targets_by_value() -> None:
    sizes = sizes_of(96, 96)
    length = sum(height * width for height, width in sizes)
    objects = [objects_of([], []), objects_of([[10.0, 20.0, 50.0, 44.0], [0.0, 0.0, 96.0, 96.0]], [7, 3])]
    targets = targets_of(objects, sizes)
    assert targets.object_index.shape == targets.labels.shape == targets.quality.shape == (2, length)
    assert targets.distances.shape == (2, length, 4)
    assert targets.quality is not None
    assert (targets.object_index[0] == -1).all()
    assert (targets.labels[0] == -1).all()
    assert targets.distances[0].abs().max() == targets.quality[0].max() == 0
    place = 3 * 12 + 2  # (20, 28) of P3
    assert int(targets.object_index[1, place]) == 0
    assert int(targets.labels[1, place]) == 7
    assert targets.distances[1, place].tolist() == [10, 8, 30, 16]
    assert float(targets.quality[1, place]) == pytest.approx((10 / 30 * 8 / 16) ** 0.5)
    place = 144 + 3 * 6 + 0  # (8, 56) of P4, distances 8 56 88 40
    assert int(targets.labels[1, place]) == 3
    assert targets.distances[1, place].tolist() == [8, 56, 88, 40]
    background = targets.object_index == -1
    assert (targets.labels[background] == -1).all()
    assert targets.distances[background].abs().sum() == targets.quality[background].sum() == 0
    positive = ~background
    assert (targets.distances[positive] > 0).all()
    assert ((targets.quality[positive] > 0) & (targets.quality[positive] <= 1)).all()


@pytest.mark.parametrize("rule", ["center", "area"])
def test_assigners_treat_images_of_a_batch_independently(rule: str) -> None:
    sizes = sizes_of(160, 192)
    boxes = [random_boxes(np.random.default_rng([3, number]), 160, 192) for number in range(3)]
    boxes = [boxes[0], boxes[1], boxes[0], np.zeros((0, 4), np.float32), boxes[2]]  # the same boxes twice
    objects = [objects_of(truth.tolist(), list(range(len(truth)))) for truth in boxes]
    together = targets_of(objects, sizes, rule)
    for number, truth in enumerate(objects):
        alone = targets_of([truth], sizes, rule)
        assert torch.equal(alone.object_index[0], assign(truth.boxes, sizes, rule))
        for name in ("object_index", "labels", "distances", "quality"):
            assert torch.equal(getattr(together, name)[number], getattr(alone, name)[0]), (number, name)


def test_sample_mask_positives_depends_on_seed_epoch_and_image_id() -> None:
    sizes = sizes_of(128, 128)
    first = objects_of([[0.0, 0.0, 60.0, 60.0], [50.0, 50.0, 110.0, 110.0]], [0, 1])
    few = objects_of([[0.0, 0.0, 30.0, 30.0]], [0])
    scene = [first, few, objects_of([], [])]
    targets = targets_of(scene, sizes)
    chosen = sample_mask_positives(targets, scene, [11, 12, 13], limit=20, seed=4, epoch=2)
    positive = (targets.object_index[0] >= 0).nonzero().squeeze(1)
    assert len(positive) > 20 == len(chosen[0])
    assert set(chosen[0].tolist()) <= set(positive.tolist())
    assert chosen[0].tolist() == sorted(set(chosen[0].tolist()))
    assert chosen[1].tolist() == (targets.object_index[1] >= 0).nonzero().squeeze(1).tolist()  # fewer than the limit
    assert len(chosen[2]) == 0
    alone = targets_of([few, first], sizes)
    again = sample_mask_positives(alone, [few, first], [12, 11], limit=20, seed=4, epoch=2)
    assert torch.equal(again[1], chosen[0])
    for other in ({"seed": 4, "epoch": 3}, {"seed": 5, "epoch": 2}):
        assert not torch.equal(sample_mask_positives(targets, scene, [11, 12, 13], limit=20, **other)[0], chosen[0])
    assert not torch.equal(sample_mask_positives(targets, scene, [21, 12, 13], limit=20, seed=4, epoch=2)[0], chosen[0])


def test_sample_mask_positives_skips_objects_without_outline() -> None:
    sizes = sizes_of(128, 128)
    objects = objects_of([[0.0, 0.0, 60.0, 60.0], [64.0, 64.0, 120.0, 120.0]], [0, 1])
    objects.mask_windows[1] = 0
    targets = targets_of([objects], sizes)
    (chosen,) = sample_mask_positives(targets, [objects], [1])
    assert set(targets.object_index[0, chosen].tolist()) == {0}
    assert len(chosen) == int((targets.object_index[0] == 0).sum())
