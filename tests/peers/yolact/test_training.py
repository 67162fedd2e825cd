"""What YOLACT learns from: anchors, matching, targets, losses, each against a slow obvious loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from peers.yolact import anchors as boxes_and_anchors
from peers.yolact import losses, targets
from peers.yolact.model import AnchorOutputs
from peers.yolact.targets import BACKGROUND, IGNORED
from sais.structures import GroundTruth
from tests.peers.yolact.yolact_samples import around, iou, nothing, objects_of, random_boxes, random_outputs

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
                    center = (x + 0.5) * stride, (y + 0.5) * stride
                    expected.append([center[0] - w / 2, center[1] - h / 2, center[0] + w / 2, center[1] + h / 2])
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
    assert targets.sample_mask_positives(found, [objects], [3])[0].tolist() == allowed
    draws = [
        targets.sample_mask_positives(found, [objects], [image], 10, seed, epoch)[0].tolist()
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


def test_losses_equal_loops() -> None:
    objects = [objects_of(random_boxes(3, 11), [0, 2, 1]), objects_of(random_boxes(2, 12), [1, 1]), nothing()]
    anchors = torch.cat([random_boxes(285, 10), around(objects[0].boxes, 5, 19)])
    outputs = random_outputs(3, 300, 3, 13)
    wanted = targets.build_targets(objects, anchors)
    chosen = targets.sample_mask_positives(wanted, objects, [1, 2, 3], limit=4)
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
    outputs: AnchorOutputs, objects: GroundTruth, image: int, anchor: int, wanted: targets.AnchorTargets
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
