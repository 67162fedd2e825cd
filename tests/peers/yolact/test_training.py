"""Tests of YOLACT's anchors, matching, targets and losses against simple loops."""

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
from sais.modeling.criterion import Assignment
from sais.structures import GroundTruth
from tests.peers.yolact.yolact_samples import around, iou, no_objects, objects_of, random_boxes, random_outputs

# --- anchors


def test_anchor_boxes_are_those_of_the_paper() -> None:
    level_sizes = ((69, 69), (35, 35), (18, 18), (9, 9), (5, 5))
    anchors = boxes_and_anchors.anchor_boxes(level_sizes, (550, 550))
    expected = []
    for (height, width), stride, scale in zip(level_sizes, (8, 16, 32, 64, 128), (24, 48, 96, 192, 384), strict=True):
        for y in range(height):
            for x in range(width):
                for ratio in (1, 1 / 2, 2):  # width : height
                    w, h = scale * ratio**0.5, scale / ratio**0.5
                    center = (x + 0.5) * stride, (y + 0.5) * stride
                    expected.append([center[0] - w / 2, center[1] - h / 2, center[0] + w / 2, center[1] + h / 2])
    assert len(anchors) == 19248  # as in the paper
    torch.testing.assert_close(anchors, torch.tensor(expected))
    # Scales grow with the input, centers do not.
    larger = boxes_and_anchors.anchor_boxes(((2, 2), (1, 1), (1, 1), (1, 1), (1, 1)), (700, 700))
    assert larger[3].tolist() == pytest.approx([12 - 15.2727, 4 - 15.2727, 12 + 15.2727, 4 + 15.2727], abs=1e-3)


def test_decode_inverts_encode() -> None:
    anchors, boxes = random_boxes(50, 1), random_boxes(50, 2)
    offsets = boxes_and_anchors.encode(anchors, boxes)
    torch.testing.assert_close(boxes_and_anchors.decode(anchors, offsets), boxes, atol=1e-3, rtol=1e-4)
    # An anchor of 10 x 20 at (10, 20); the box is shifted by (1, 4), twice as wide and equally high.
    offset = boxes_and_anchors.encode(torch.tensor([5.0, 10, 15, 30]), torch.tensor([1.0, 14, 21, 34]))
    assert offset.tolist() == pytest.approx([1 / 10 / 0.1, 4 / 20 / 0.1, math.log(2) / 0.2, 0])
    flat = boxes_and_anchors.encode(torch.tensor([5.0, 10, 15, 30]), torch.tensor([3.0, 5, 3, 9]))
    assert flat.isfinite().all()


def test_pairwise_iou_equals_loop() -> None:
    first, second = random_boxes(12, 3), random_boxes(9, 4)
    overlaps = boxes_and_anchors.pairwise_iou(first, second)
    expected = [[iou(a, b) for b in second.tolist()] for a in first.tolist()]
    torch.testing.assert_close(overlaps, torch.tensor(expected), atol=1e-5, rtol=1e-4)
    empty = torch.zeros(2, 4)
    assert boxes_and_anchors.pairwise_iou(empty, empty).tolist() == [[0, 0], [0, 0]]


# --- targets


def match_loop(anchors: Tensor, boxes: Tensor) -> list[int]:
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
def test_match_equals_loop(seed: int) -> None:
    level_sizes = ((8, 8), (4, 4), (2, 2), (1, 1), (1, 1))
    anchors = boxes_and_anchors.anchor_boxes(level_sizes, (64, 64))
    boxes = random_boxes(12, seed, 64)
    anchors = torch.cat([anchors, around(boxes, 8, 20 + seed)])
    boxes = torch.cat([boxes, boxes[:4] + torch.tensor([0.3, 0.2, 0.9, 0.7])])  # near duplicates
    matched = targets.match(anchors, boxes)
    assert matched.tolist() == match_loop(anchors, boxes)
    assert set(range(len(boxes))) <= set(matched.tolist())
    assert {BACKGROUND, IGNORED} <= set(matched.tolist())


def test_match_with_few_anchors_and_without_objects() -> None:
    anchors, boxes = random_boxes(3, 1), random_boxes(5, 2)
    assert targets.match(anchors, boxes).tolist() == match_loop(anchors, boxes)
    assert targets.match(anchors, torch.zeros(0, 4)).tolist() == [BACKGROUND] * 3


def test_build_targets_labels_and_offsets() -> None:
    objects = [objects_of(random_boxes(4, 6), [2, 0, 1, 1]), no_objects()]
    anchors = torch.cat([random_boxes(50, 5), around(objects[0].boxes, 5, 20)])
    assigned = targets.build_targets(objects, anchors)
    for anchor, owner in enumerate(assigned.object_index[0].tolist()):
        if owner < 0:
            assert assigned.labels[0, anchor] == owner
            assert not assigned.offsets[0, anchor].any()
        else:
            assert assigned.labels[0, anchor] == objects[0].labels[owner]
            box = boxes_and_anchors.decode(anchors[anchor], assigned.offsets[0, anchor])
            torch.testing.assert_close(box, objects[0].boxes[owner], atol=1e-3, rtol=1e-4)
    assert (assigned.labels[1] == BACKGROUND).all()
    assert not assigned.offsets[1].any()


def test_sample_mask_positives_is_limited_and_deterministic() -> None:
    objects = objects_of(random_boxes(6, 8), [0] * 6)
    anchors = around(objects.boxes, 15, 7)
    start = int(((objects.mask_windows[:2, 2:] - objects.mask_windows[:2, :2]).prod(1)).sum())
    first = int((objects.mask_windows[0, 2:] - objects.mask_windows[0, :2]).prod())
    objects.mask_values = torch.cat([objects.mask_values[:first], objects.mask_values[start:]])
    objects.mask_windows[1] = 0  # a box without a mask
    assigned = targets.build_targets([objects], anchors)
    allowed = [a for a, owner in enumerate(assigned.object_index[0].tolist()) if owner >= 0 and owner != 1]
    assert targets.sample_mask_positives(assigned, [objects], [3])[0].tolist() == allowed
    draws = [
        targets.sample_mask_positives(assigned, [objects], [image], 10, seed, epoch)[0].tolist()
        for image, seed, epoch in [(3, 0, 0), (3, 0, 0), (4, 0, 0), (3, 1, 0), (3, 0, 1)]
    ]
    assert draws[0] == draws[1] == sorted(draws[0])
    assert all(len(set(d)) == 10 and set(d) <= set(allowed) for d in draws)
    assert len({tuple(d) for d in draws}) == 4


def test_semantic_targets_are_the_union_of_each_class() -> None:
    objects = objects_of(random_boxes(7, 9), [0, 0, 0, 2, 2, 3, 3])
    last = int((objects.mask_windows[6, 2:] - objects.mask_windows[6, :2]).prod())
    objects.mask_values = objects.mask_values[:-last]
    objects.mask_windows[6] = 0
    masks, valid = targets.semantic_targets(objects, 5, (16, 16))
    assert valid.tolist() == [1, 1, 1, 0, 1]
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
                assert bool(masks[label, y, x]) == half
    assert masks[0].any()
    assert not masks[1].any()


# --- losses


def test_hard_negatives_equals_loop() -> None:
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(-2, 1, (4, 60), generator=generator)
    labels[1] = torch.where(labels[1] >= 0, BACKGROUND, labels[1])  # no positives: three negatives
    labels[2, :50] = 1  # fewer negatives than required
    entropies = torch.rand(4, 60, generator=generator)
    entropies[3] = 0.5  # ties: the lower anchor first
    selected = losses.hard_negatives(entropies, labels)
    for image in range(4):
        negatives = [a for a in range(60) if labels[image, a] == BACKGROUND]
        count = 3 * max(1, sum(int(labels[image, a]) >= 0 for a in range(60)))
        hardest = sorted(negatives, key=lambda a: (-float(entropies[image, a]), a))[:count]
        assert selected[image].nonzero().squeeze(1).tolist() == sorted(hardest)
    assert selected[1].sum() == 3


def test_compute_losses_equals_loops() -> None:
    objects = [objects_of(random_boxes(3, 11), [0, 2, 1]), objects_of(random_boxes(2, 12), [1, 1]), no_objects()]
    anchors = torch.cat([random_boxes(285, 10), around(objects[0].boxes, 5, 19)])
    outputs = random_outputs(3, 300, 3, 13)
    expected = targets.build_targets(objects, anchors)
    samples = targets.sample_mask_positives(expected, objects, [1, 2, 3], limit=4)
    positives = int((expected.object_index >= 0).sum())
    normalizers = {"positives": torch.tensor(float(positives)), "images": torch.tensor(3.0)}
    actual = losses.compute_losses(outputs, objects, Assignment(expected, normalizers, samples))
    assert int((expected.object_index[0] >= 0).sum()) > len(samples[0]) == 4  # more positives than the limit
    sums = {"classification": 0.0, "box": 0.0, "mask": 0.0, "semantic": 0.0}
    for image in range(3):
        log_probabilities = outputs.class_logits[image].detach().log_softmax(1)
        labels = expected.labels[image].tolist()
        positive = [a for a, label in enumerate(labels) if label >= 0]
        hardest = sorted(
            (a for a, label in enumerate(labels) if label == -1), key=lambda a: float(log_probabilities[a, 0])
        )
        for a in positive:
            sums["classification"] -= float(log_probabilities[a, labels[a] + 1])
            for x in (outputs.offsets[image, a].detach() - expected.offsets[image, a]).abs().tolist():
                sums["box"] += 0.5 * x * x if x < 1 else x - 0.5
        sums["classification"] -= sum(float(log_probabilities[a, 0]) for a in hardest[: 3 * max(1, len(positive))])
        for a in samples[image].tolist():
            sums["mask"] += (
                mask_loss_loop(outputs, objects[image], image, a, expected) * len(positive) / len(samples[image])
            )
        truth, _ = targets.semantic_targets(objects[image], 3, (16, 16))
        assert outputs.semantic_logits is not None
        p = outputs.semantic_logits[image].detach().sigmoid()
        sums["semantic"] -= float((truth * p.log() + (1 - truth) * (1 - p).log()).sum()) / 16 / 16
    assert actual["classification"].item() == pytest.approx(sums["classification"] / positives, rel=1e-4)
    assert actual["box"].item() == pytest.approx(1.5 * sums["box"] / positives, rel=1e-4)
    assert actual["mask"].item() == pytest.approx(6.125 * sums["mask"] / positives, rel=1e-4)
    assert actual["semantic"].item() == pytest.approx(sums["semantic"] / 3, rel=1e-4)


def mask_loss_loop(
    outputs: AnchorOutputs, objects: GroundTruth, image: int, anchor: int, assigned: targets.AnchorTargets
) -> float:
    owner = int(assigned.object_index[image, anchor])
    sizes = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in objects.mask_windows.tolist()]
    values = objects.mask_values[sum(sizes[:owner]) :].tolist()
    x1, y1, x2, y2 = objects.mask_windows[owner].tolist()
    box = objects.boxes[owner].tolist()
    total = 0.0
    for i, (y, x) in enumerate((y, x) for y in range(y1, y2) for x in range(x1, x2)):
        logit = float((outputs.coefficients[image, anchor] * outputs.prototypes[image, :, y, x]).sum().detach())
        probability, truth = 1 / (1 + math.exp(-logit)), values[i] / 255
        total -= truth * math.log(probability) + (1 - truth) * math.log(1 - probability)
    return total / ((box[2] - box[0]) * (box[3] - box[1]) / 16)
