"""YOLACT, the peer: each step against a slow obvious loop, shapes at the paper's sizes, a run through our engine."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.finder import load_finder
from benchmarks.yolact import anchors as boxes_and_anchors
from benchmarks.yolact import losses, postprocess, system, targets
from benchmarks.yolact.model import AnchorOutputs, Yolact, build_yolact
from benchmarks.yolact.targets import BACKGROUND, IGNORED
from sais.config import Experiment, check_ranges, from_dict, to_dict
from sais.data.formats import find
from sais.data.paths import DataPaths
from sais.data.synthetic import write_shapes
from sais.engine.evaluate import evaluate
from sais.engine.train import train
from sais.images import place
from sais.structures import Batch, Objects, Placement, SaisError

LITE = "tf_efficientnet_lite0.in1k"


def iou(one: list[float], other: list[float]) -> float:
    across = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    down = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (one, other)]
    return across * down / (areas[0] + areas[1] - across * down)


def random_boxes(number: int, seed: int, side: float = 128.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(number, 2, generator=generator) * side * 0.8
    sides = torch.rand(number, 2, generator=generator) * side * 0.4 + 2
    return torch.cat([low, low + sides], dim=1)


def around(boxes: Tensor, number: int, seed: int) -> Tensor:
    """`number` boxes near each of `boxes`, of every degree of overlap."""
    generator = torch.Generator().manual_seed(seed)
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(number, 2)
    shift = torch.randn(len(sides), 4, generator=generator) * sides * 0.15
    return boxes.repeat(number, 1) + shift


def objects_of(boxes: Tensor, labels: list[int], canvas: int = 128) -> Objects:
    """Objects whose masks are discs in their boxes; half of the cells are covered by a half."""
    windows, values = [], [torch.zeros(0, dtype=torch.uint8)]
    for x1, y1, x2, y2 in boxes.tolist():
        window = [math.floor(x1 / 4), math.floor(y1 / 4), math.ceil(x2 / 4), math.ceil(y2 / 4)]
        window = [min(max(v, 0), canvas // 4) for v in window]
        windows.append(window)
        y, x = torch.meshgrid(
            *(torch.arange(window[i], window[i + 2]) * 4 + 2.0 for i in (1, 0)),
            indexing="ij",
        )
        away = ((x - (x1 + x2) / 2) / (x2 - x1)) ** 2 + ((y - (y1 + y2) / 2) / (y2 - y1)) ** 2
        values.append(((away < 0.2) * 255 + ((away >= 0.2) & (away < 0.25)) * 127).to(torch.uint8).flatten())
    return Objects(
        boxes,
        torch.tensor(labels, dtype=torch.int64),
        torch.tensor(windows, dtype=torch.int64).view(-1, 4),
        torch.cat(values),
    )


def nothing() -> Objects:
    return objects_of(torch.zeros(0, 4), [])


def tiny_yolact(num_classes: int = 3) -> Yolact:
    torch.manual_seed(0)
    settings = replace(Experiment().model, backbone=LITE, channels=32, prototype_channels=16, pretrained=False)
    return build_yolact(settings, num_classes)


# --- anchors


def test_anchors_lie_where_the_paper_has_them() -> None:
    level_sizes = ((69, 69), (35, 35), (18, 18), (9, 9), (5, 5))
    found = boxes_and_anchors.anchor_boxes(level_sizes, (550, 550))
    expected = []
    for (height, width), stride, scale in zip(level_sizes, (8, 16, 32, 64, 128), (24, 48, 96, 192, 384), strict=True):
        for y in range(height):
            for x in range(width):
                for ratio in (1, 1 / 2, 2):  # width : height
                    w, h = scale * ratio**0.5, scale / ratio**0.5
                    centre = (x + 0.5) * stride, (y + 0.5) * stride
                    expected.append([centre[0] - w / 2, centre[1] - h / 2, centre[0] + w / 2, centre[1] + h / 2])
    assert len(found) == 19248  # the paper's input has as many
    torch.testing.assert_close(found, torch.tensor(expected))
    # Scales grow with the input, places do not.
    larger = boxes_and_anchors.anchor_boxes(((2, 2), (1, 1), (1, 1), (1, 1), (1, 1)), (700, 700))
    assert larger[3].tolist() == pytest.approx([12 - 15.2727, 4 - 15.2727, 12 + 15.2727, 4 + 15.2727], abs=1e-3)


def test_boxes_return_from_their_offsets() -> None:
    anchors, boxes = random_boxes(50, 1), random_boxes(50, 2)
    offsets = boxes_and_anchors.encode(anchors, boxes)
    torch.testing.assert_close(boxes_and_anchors.decode(anchors, offsets), boxes, atol=1e-3, rtol=1e-4)
    # An anchor of 10 x 20 at (10, 20); the box is 1 right, 4 down, twice as wide, as high.
    one = boxes_and_anchors.encode(torch.tensor([5.0, 10, 15, 30]), torch.tensor([1.0, 14, 21, 34]))
    assert one.tolist() == pytest.approx([1 / 10 / 0.1, 4 / 20 / 0.1, math.log(2) / 0.2, 0])
    flat = boxes_and_anchors.encode(torch.tensor([5.0, 10, 15, 30]), torch.tensor([3.0, 5, 3, 9]))
    assert flat.isfinite().all()


def test_iou_of_all_pairs() -> None:
    first, second = random_boxes(12, 3), random_boxes(9, 4)
    found = boxes_and_anchors.pairwise_iou(first, second)
    expected = [[iou(a, b) for b in second.tolist()] for a in first.tolist()]
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-5, rtol=1e-4)
    empty = torch.zeros(2, 4)
    assert boxes_and_anchors.pairwise_iou(empty, empty).tolist() == [[0, 0], [0, 0]]


# --- targets


def matched_slowly(anchors: Tensor, boxes: Tensor) -> list[int]:
    overlap = [[iou(box, anchor) for anchor in anchors.tolist()] for box in boxes.tolist()]
    index = []
    for anchor in range(len(anchors)):
        column = [row[anchor] for row in overlap]
        best = max(range(len(boxes)), key=lambda i: column[i])
        index.append(best if column[best] >= 0.5 else BACKGROUND if column[best] < 0.4 else IGNORED)
    free_objects, free_anchors = set(range(len(boxes))), set(range(len(anchors)))
    while free_objects and free_anchors:
        owner, anchor = max(
            ((o, a) for o in sorted(free_objects) for a in sorted(free_anchors)),
            key=lambda pair: overlap[pair[0]][pair[1]],
        )
        index[anchor] = owner
        free_objects.remove(owner)
        free_anchors.remove(anchor)
    return index


@pytest.mark.parametrize("seed", range(6))
def test_matching_equals_a_loop(seed: int) -> None:
    level_sizes = ((8, 8), (4, 4), (2, 2), (1, 1), (1, 1))
    anchors = boxes_and_anchors.anchor_boxes(level_sizes, (64, 64))
    boxes = random_boxes(12, seed, 64)
    anchors = torch.cat([anchors, around(boxes, 8, 20 + seed)])
    boxes = torch.cat([boxes, boxes[:4] + torch.tensor([0.3, 0.2, 0.9, 0.7])])  # near twins want the same anchor
    found = targets.match(anchors, boxes)
    assert found.tolist() == matched_slowly(anchors, boxes)
    assert set(range(len(boxes))) <= set(found.tolist())
    assert {BACKGROUND, IGNORED} <= set(found.tolist())


def test_more_objects_than_anchors_and_no_objects() -> None:
    anchors, boxes = random_boxes(3, 1), random_boxes(5, 2)
    assert targets.match(anchors, boxes).tolist() == matched_slowly(anchors, boxes)
    assert targets.match(anchors, torch.zeros(0, 4)).tolist() == [BACKGROUND] * 3


def test_targets_tell_label_and_offsets() -> None:
    objects = [objects_of(random_boxes(4, 6), [2, 0, 1, 1]), nothing()]
    anchors = torch.cat([random_boxes(50, 5), around(objects[0].boxes, 5, 20)])
    found = targets.build_targets(objects, anchors)
    for anchor, owner in enumerate(found.object_index[0].tolist()):
        if owner < 0:
            assert found.labels[0, anchor] == owner
            assert not found.offsets[0, anchor].any()
        else:
            assert found.labels[0, anchor] == objects[0].labels[owner]
            box = boxes_and_anchors.decode(anchors[anchor], found.offsets[0, anchor])
            torch.testing.assert_close(box, objects[0].boxes[owner], atol=1e-3, rtol=1e-4)
    assert (found.labels[1] == BACKGROUND).all()
    assert not found.offsets[1].any()


def test_mask_positives_are_few_the_same_again_and_outlined() -> None:
    objects = objects_of(random_boxes(6, 8), [0] * 6)
    anchors = around(objects.boxes, 15, 7)
    start = int(((objects.mask_windows[:2, 2:] - objects.mask_windows[:2, :2]).prod(1)).sum())
    first = int((objects.mask_windows[0, 2:] - objects.mask_windows[0, :2]).prod())
    objects.mask_values = torch.cat([objects.mask_values[:first], objects.mask_values[start:]])
    objects.mask_windows[1] = 0  # a box without an outline
    found = targets.build_targets([objects], anchors)
    allowed = [a for a, owner in enumerate(found.object_index[0].tolist()) if owner >= 0 and owner != 1]
    assert targets.choose_mask_positives(found, [objects], [3])[0].tolist() == allowed
    draws = [
        targets.choose_mask_positives(found, [objects], [image], 10, seed, epoch)[0].tolist()
        for image, seed, epoch in [(3, 0, 0), (3, 0, 0), (4, 0, 0), (3, 1, 0), (3, 0, 1)]
    ]
    assert draws[0] == draws[1] == sorted(draws[0])
    assert all(len(set(d)) == 10 and set(d) <= set(allowed) for d in draws)
    assert len({tuple(d) for d in draws}) == 4


def test_semantic_targets_are_the_union_of_a_class() -> None:
    objects = objects_of(random_boxes(7, 9), [0, 0, 0, 2, 2, 3, 3])
    last = int((objects.mask_windows[6, 2:] - objects.mask_windows[6, :2]).prod())
    objects.mask_values = objects.mask_values[:-last]
    objects.mask_windows[6] = 0
    found, told = targets.semantic_targets(objects, 5, (16, 16))
    assert told.tolist() == [1, 1, 1, 0, 1]
    expected = np.zeros((5, 32, 32))
    start = 0
    for label, (x1, y1, x2, y2) in zip(objects.labels.tolist(), objects.mask_windows.tolist(), strict=True):
        for y in range(y1, y2):
            for x in range(x1, x2):
                expected[label, y, x] = max(expected[label, y, x], int(objects.mask_values[start]) / 255)
                start += 1
    for label in range(5):
        for y in range(16):
            for x in range(16):
                half = expected[label, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].mean() > 0.5
                assert bool(found[label, y, x]) == half
    assert found[0].any()
    assert not found[1].any()


# --- losses


def test_hard_negatives_equal_a_loop() -> None:
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(-2, 1, (4, 60), generator=generator)
    labels[1] = torch.where(labels[1] >= 0, BACKGROUND, labels[1])  # no positive: three negatives
    labels[2, :50] = 1  # more are wanted than there are
    entropies = torch.rand(4, 60, generator=generator)
    entropies[3] = 0.5  # ties: the lower anchor first
    found = losses.hard_negatives(entropies, labels)
    for image in range(4):
        negatives = [a for a in range(60) if labels[image, a] == BACKGROUND]
        wanted = 3 * max(1, sum(int(labels[image, a]) >= 0 for a in range(60)))
        hardest = sorted(negatives, key=lambda a: (-float(entropies[image, a]), a))[:wanted]
        assert found[image].nonzero().squeeze(1).tolist() == sorted(hardest)
    assert found[1].sum() == 3


def random_outputs(batch: int, anchors: int, classes: int, seed: int, canvas: int = 128) -> AnchorOutputs:
    generator = torch.Generator().manual_seed(seed)
    grid = canvas // 4
    return AnchorOutputs(
        class_logits=torch.randn(batch, anchors, classes + 1, generator=generator).requires_grad_(),
        offsets=torch.randn(batch, anchors, 4, generator=generator).requires_grad_(),
        coefficients=torch.randn(batch, anchors, 8, generator=generator).tanh().requires_grad_(),
        prototypes=torch.rand(batch, 8, grid, grid, generator=generator).requires_grad_(),
        semantic_logits=torch.randn(batch, classes, grid // 2, grid // 2, generator=generator).requires_grad_(),
        level_sizes=(),
        canvas_size=(canvas, canvas),
    )


def test_losses_equal_loops() -> None:
    objects = [objects_of(random_boxes(3, 11), [0, 2, 1]), objects_of(random_boxes(2, 12), [1, 1]), nothing()]
    anchors = torch.cat([random_boxes(285, 10), around(objects[0].boxes, 5, 19)])
    outputs = random_outputs(3, 300, 3, 13)
    wanted = targets.build_targets(objects, anchors)
    chosen = targets.choose_mask_positives(wanted, objects, [1, 2, 3], limit=4)
    found = losses.compute_losses(outputs, wanted, objects, chosen)
    positives = int((wanted.object_index >= 0).sum())
    assert int((wanted.object_index[0] >= 0).sum()) > len(chosen[0]) == 4  # the limit bites
    sums = {"classification": 0.0, "box": 0.0, "mask": 0.0, "semantic": 0.0}
    for image in range(3):
        log_shares = outputs.class_logits[image].detach().log_softmax(1)
        labels = wanted.labels[image].tolist()
        mine = [a for a, label in enumerate(labels) if label >= 0]
        worst = sorted((a for a, label in enumerate(labels) if label == -1), key=lambda a: float(log_shares[a, 0]))
        for a in mine:
            sums["classification"] -= float(log_shares[a, labels[a] + 1])
            for x in (outputs.offsets[image, a].detach() - wanted.offsets[image, a]).abs().tolist():
                sums["box"] += 0.5 * x * x if x < 1 else x - 0.5
        sums["classification"] -= sum(float(log_shares[a, 0]) for a in worst[: 3 * max(1, len(mine))])
        for a in chosen[image].tolist():
            sums["mask"] += mask_loss_slowly(outputs, objects[image], image, a, wanted) * len(mine) / len(chosen[image])
        truth, _ = targets.semantic_targets(objects[image], 3, (16, 16))
        assert outputs.semantic_logits is not None
        p = outputs.semantic_logits[image].detach().sigmoid()
        sums["semantic"] -= float((truth * p.log() + (1 - truth) * (1 - p).log()).sum()) / 16 / 16
    assert found["classification"].item() == pytest.approx(sums["classification"] / positives, rel=1e-4)
    assert found["box"].item() == pytest.approx(1.5 * sums["box"] / positives, rel=1e-4)
    assert found["mask"].item() == pytest.approx(6.125 * sums["mask"] / positives, rel=1e-4)
    assert found["semantic"].item() == pytest.approx(sums["semantic"] / 3, rel=1e-4)


def mask_loss_slowly(
    outputs: AnchorOutputs, objects: Objects, image: int, anchor: int, wanted: targets.AnchorTargets
) -> float:
    owner = int(wanted.object_index[image, anchor])
    sizes = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in objects.mask_windows.tolist()]
    values = objects.mask_values[sum(sizes[:owner]) :].tolist()
    x1, y1, x2, y2 = objects.mask_windows[owner].tolist()
    box = objects.boxes[owner].tolist()
    total = 0.0
    for i, (y, x) in enumerate((y, x) for y in range(y1, y2) for x in range(x1, x2)):
        logit = float((outputs.coefficients[image, anchor] * outputs.prototypes[image, :, y, x]).sum().detach())
        share, truth = 1 / (1 + math.exp(-logit)), values[i] / 255
        total -= truth * math.log(share) + (1 - truth) * math.log(1 - share)
    return total / ((box[2] - box[0]) * (box[3] - box[1]) / 16)


# --- detections


def fast_nms_slowly(boxes: Tensor, scores: Tensor, best: int, detections: int) -> list[tuple[int, int]]:
    kept = []
    for label in range(scores.shape[1]):
        ranked = sorted(range(len(boxes)), key=lambda i: (-float(scores[i, label]), i))[:best]
        for place_, i in enumerate(ranked):
            better = ranked[:place_]  # gone or not
            if all(iou(boxes[i].tolist(), boxes[j].tolist()) <= 0.5 for j in better) and scores[i, label] > 0.05:
                kept.append((i, label))
    return sorted(kept, key=lambda pair: -float(scores[pair]))[:detections]


@pytest.mark.parametrize(("best", "detections"), [(200, 100), (30, 100), (200, 20)])
def test_fast_nms_equals_a_loop(best: int, detections: int) -> None:
    boxes = random_boxes(120, 14)
    scores = torch.rand(120, 4, generator=torch.Generator().manual_seed(15)) ** 4
    index, labels, values = postprocess.fast_nms(boxes, scores, detections=detections, best=best)
    expected = fast_nms_slowly(boxes, scores, best, detections)
    assert list(zip(index.tolist(), labels.tolist(), strict=True)) == expected
    assert values.tolist() == [float(scores[pair]) for pair in expected]
    assert all(a >= b for a, b in pairwise(values.tolist()))


def test_fast_nms_lets_a_box_that_is_gone_suppress() -> None:
    row = torch.tensor([[0.0, 0, 10, 10], [3, 0, 13, 10], [6, 0, 16, 10]])  # each overlaps the next by 0.54
    scores = torch.tensor([[0.9], [0.8], [0.7]])
    assert postprocess.fast_nms(row, scores)[0].tolist() == [0]  # plain NMS would keep the last too
    assert len(postprocess.fast_nms(torch.zeros(0, 4), torch.zeros(0, 3))[0]) == 0


def test_detect_clips_to_the_picture_and_fills_slots() -> None:
    anchors = random_boxes(400, 16)
    outputs = random_outputs(2, 400, 3, 17)
    outputs.class_logits.data[1, :, 0] = 50  # background everywhere
    found = postprocess.detect(outputs, anchors, [(100.0, 90.0), (128.0, 128.0)], detections=30)
    assert found.boxes.shape == (2, 30, 4)
    assert found.coefficients is not None
    assert (found.scores[0] > 0.05).all()
    assert not found.scores[1].any()
    assert not found.boxes[1].any()
    probabilities = outputs.class_logits[0].softmax(1)[:, 1:]
    decoded = boxes_and_anchors.decode(anchors, outputs.offsets[0])
    limit = torch.tensor([90.0, 100.0, 90.0, 100.0])
    for box, score, label, coefficients in zip(
        found.boxes[0], found.scores[0], found.labels[0], found.coefficients[0], strict=True
    ):
        anchor = int((probabilities[:, label] == score).nonzero()[0])
        torch.testing.assert_close(box, torch.minimum(decoded[anchor].clamp(min=0), limit))
        assert torch.equal(coefficients, outputs.coefficients[0, anchor])
        assert (box[2:] > box[:2]).all()


def test_full_masks_equal_a_loop() -> None:
    generator = torch.Generator().manual_seed(18)
    prototypes = torch.rand(5, 9, 12, generator=generator)
    coefficients = torch.randn(4, 5, generator=generator)
    boxes = torch.tensor([[3.0, 2, 30, 20], [0, 0, 48, 27], [40.2, 20.9, 47, 26], [10, 10, 11, 11]])
    height, width = 27, 48
    found = postprocess.full_masks(prototypes, coefficients, boxes, (height, width))
    assert found.shape == (4, height, width)
    for d in range(4):
        grid = np.zeros((9, 12))
        x1, y1, x2, y2 = (v / 4 if i % 2 == 0 else v / 3 for i, v in enumerate(boxes[d].tolist()))
        for y in range(9):
            for x in range(12):
                if x1 - 1 <= x < x2 + 1 and y1 - 1 <= y < y2 + 1:
                    grid[y, x] = 1 / (1 + math.exp(-float((coefficients[d] * prototypes[:, y, x]).sum())))
        for row in range(height):
            for column in range(width):
                y, x = min(max((row + 0.5) / 3 - 0.5, 0), 8), min(max((column + 0.5) / 4 - 0.5, 0), 11)
                top, left = min(int(y), 7), min(int(x), 10)
                down, across = y - top, x - left
                upper = grid[top, left] * (1 - across) + grid[top, left + 1] * across
                lower = grid[top + 1, left] * (1 - across) + grid[top + 1, left + 1] * across
                value = upper * (1 - down) + lower * down
                assert bool(found[d, row, column]) == (value > 0.5) or abs(value - 0.5) < 1e-5
    assert found.any()
    assert postprocess.full_masks(prototypes, coefficients[:0], boxes[:0], (27, 48)).shape == (0, 27, 48)


# --- network and system


@pytest.mark.parametrize(
    ("side", "level_sides"), [(550, (69, 35, 18, 9, 5)), (700, (88, 44, 22, 11, 6)), (192, (24, 12, 6, 3, 2))]
)
@torch.no_grad()
def test_shapes_at_the_sizes_of_the_paper_and_ours(side: int, level_sides: tuple[int, ...]) -> None:
    model = tiny_yolact(num_classes=3).train()
    outputs = model(torch.zeros(1, 3, side, side, dtype=torch.uint8))
    number = 3 * sum(s * s for s in level_sides)
    assert outputs.level_sizes == tuple((s, s) for s in level_sides)
    assert outputs.class_logits.shape == (1, number, 4)
    assert outputs.offsets.shape == (1, number, 4)
    assert outputs.coefficients.shape == (1, number, 32)
    assert outputs.prototypes.shape == (1, 32, 2 * level_sides[0], 2 * level_sides[0])
    assert outputs.semantic_logits.shape == (1, 3, level_sides[0], level_sides[0])
    assert len(boxes_and_anchors.anchor_boxes(outputs.level_sizes, outputs.canvas_size)) == number
    assert model.eval()(torch.zeros(1, 3, 64, 96)).semantic_logits is None


@torch.no_grad()
def test_anchors_and_outputs_have_one_order() -> None:
    """The anchor of the greatest answer lies where the level was bright, with the ratio whose filter answered."""
    head = tiny_yolact(2).head
    for convolution in (head.shared, head.class_logits):
        torch.nn.init.zeros_(convolution.weight)
    head.shared.weight[0, 0, 1, 1] = 1
    head.class_logits.weight[2 * 3 + 1, 0, 1, 1] = 5  # the third ratio, 2 : 1, and its first class
    sizes = ((6, 8), (3, 4), (2, 2), (1, 1), (1, 1))
    levels = [torch.zeros(1, 32, *size) for size in sizes]
    levels[1][0, 0, 2, 3] = 1
    logits, _, _ = head(levels)
    anchor, label = divmod(int(logits[0].flatten().argmax()), 3)
    x1, y1, x2, y2 = boxes_and_anchors.anchor_boxes(sizes, (550, 550))[anchor].tolist()
    assert label == 1
    assert ((x1 + x2) / 2, (y1 + y2) / 2) == pytest.approx((3.5 * 16, 2.5 * 16))
    assert (x2 - x1) / (y2 - y1) == pytest.approx(2)


def test_pictures_without_objects_train() -> None:
    model = tiny_yolact().train()
    pictures = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    batch = Batch(pictures, [nothing(), nothing()], [1, 2], [place((64, 64), "fixed", (64, 64))] * 2)
    terms = system.yolact_losses(model, batch, Experiment(), epoch=0)
    assert list(terms) == ["classification", "box", "mask", "semantic"]
    assert terms["box"] == terms["mask"] == 0
    assert terms["classification"] > 0
    torch.stack(list(terms.values())).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert model.semantic.weight.grad is not None
    assert model.semantic.weight.grad.any()
    with pytest.raises(ValueError, match="training mode"):
        losses.semantic_loss(model.eval()(pictures), batch.objects)


def test_frozen_parts_are_as_the_settings_say() -> None:
    lite = replace(Experiment().model, backbone=LITE, channels=32, prototype_channels=16)
    frozen = build_yolact(lite, 2)
    free = build_yolact(replace(lite, frozen_stages=0, frozen_batch_norm=False), 2)
    random = build_yolact(replace(lite, pretrained=False), 2)
    assert not all(p.requires_grad for p in frozen.backbone.parameters())
    assert all(p.requires_grad for p in [*free.parameters(), *random.parameters()])


def test_both_assemblies_agree() -> None:
    """The paper's masks and ours, of the same network: the same but for the box's edge (padding of the crop)."""
    model = tiny_yolact()
    torch.nn.init.normal_(model.head.class_logits.weight, std=0.5)
    experiment = replace(Experiment(), test=replace(Experiment().test, score=0.3, detections=20))
    finder = system.YOLACT.finder(model, experiment, ("a", "b", "c"), (1, 2, 3), "cpu")
    pictures = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    found = finder.detect(pictures, [Placement((64, 96), (64, 96), (1.0, 1.0))] * 2)
    with torch.inference_mode():
        outputs = model(pictures)
    anchors = boxes_and_anchors.anchor_boxes(outputs.level_sizes, outputs.canvas_size)
    settings = experiment.test
    instances = postprocess.detect(outputs, anchors, [(64.0, 96.0)] * 2, settings.score, settings.nms, 20)
    assert instances.coefficients is not None
    assert instances.prototypes is not None
    assert sum(len(f) for f in found) > 5
    for image, detections in enumerate(found):
        n = int((instances.scores[image] > 0).sum())
        boxes, coefficients = instances.boxes[image, :n], instances.coefficients[image, :n]
        masks = postprocess.full_masks(instances.prototypes[image], coefficients, boxes, (64, 96))
        np.testing.assert_allclose(detections.boxes, boxes.numpy(), atol=1e-4)
        np.testing.assert_allclose(detections.scores, instances.scores[image, :n].numpy())
        assert masks.shape == (len(detections), 64, 96)
        for ours, theirs, (x1, y1, x2, y2) in zip(detections.masks(), masks.numpy(), detections.boxes, strict=True):
            inside = np.s_[math.ceil(y1 + 4) : math.floor(y2 - 4), math.ceil(x1 + 4) : math.floor(x2 - 4)]
            if ours[inside].size:  # probabilities instead of logits are interpolated: almost the same pixels
                assert (ours[inside] == theirs[inside]).mean() > 0.95
            far = theirs.copy()
            far[max(0, int(y1) - 9) : int(y2) + 10, max(0, int(x1) - 9) : int(x2) + 10] = False
            assert not far.any()


def test_recipes_are_whole() -> None:
    for recipe in (system.yolact_550_r50(), system.yolact_700_r101()):
        check_ranges(recipe)
        assert from_dict(Experiment, to_dict(recipe)) == recipe
        place((480, 640), recipe.input.mode, recipe.input.size)


@pytest.mark.slow
def test_eight_pictures_are_learnt_by_heart(tiny: Experiment, tmp_path: Path) -> None:
    write_shapes(tmp_path / "eight", train=8, valid=1, size=(96, 96), seed=3)
    experiment = replace(
        tiny,
        input=replace(tiny.input, size=(128, 128), flip=0.0),
        optim=replace(tiny.optim, lr=1e-3, clip=10.0),
        schedule=replace(tiny.schedule, epochs=60),
    )
    result = train(experiment, DataPaths(tmp_path / "eight"), tmp_path / "run", system=system.YOLACT)
    assert result.iterations == 120
    finder = load_finder(tmp_path / "run" / "model.safetensors", system.YOLACT, "cpu")
    metrics = evaluate(finder, find(tmp_path / "eight", "train"), workers=0).metrics
    assert metrics is not None
    assert metrics.mask is not None
    print(f"mask AP50 {metrics.mask.AP50:.3f}, AP {metrics.mask.AP:.3f}, {result.seconds:.1f} s")
    assert metrics.mask.AP50 > 0.9
    with pytest.raises(SaisError, match="a run of yolact, not of sais"):
        train(experiment, DataPaths(tmp_path / "eight"), tmp_path / "run", resume=True)
