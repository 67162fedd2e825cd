"""Tests of YOLACT's post-processing: Fast NMS and mask assembly against simple loops."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from peers.yolact import anchors as boxes_and_anchors
from peers.yolact import architecture, postprocess
from sais.config import Experiment
from sais.inference.predictor import Predictor
from sais.inference.trained_model import TrainedModel
from sais.ops.letterbox import CanvasMap
from tests.peers.yolact.yolact_samples import iou, random_boxes, random_outputs, tiny_yolact


def fast_nms_loop(boxes: Tensor, scores: Tensor, topk: int, max_detections: int) -> list[tuple[int, int]]:
    selected = []
    for label in range(scores.shape[1]):
        ranked = sorted(range(len(boxes)), key=lambda i: (-float(scores[i, label]), i))[:topk]
        for rank, i in enumerate(ranked):
            better = ranked[:rank]  # removed or not
            if all(iou(boxes[i].tolist(), boxes[j].tolist()) <= 0.5 for j in better) and scores[i, label] > 0.05:
                selected.append((i, label))
    return sorted(selected, key=lambda pair: -float(scores[pair]))[:max_detections]


@pytest.mark.parametrize(("topk", "max_detections"), [(200, 100), (30, 100), (200, 20)])
def test_fast_nms_equals_loop(topk: int, max_detections: int) -> None:
    boxes = random_boxes(120, 14)
    scores = torch.rand(120, 4, generator=torch.Generator().manual_seed(15)) ** 4
    index, labels, values = postprocess.fast_nms(boxes, scores, max_detections=max_detections, topk=topk)
    expected = fast_nms_loop(boxes, scores, topk, max_detections)
    assert list(zip(index.tolist(), labels.tolist(), strict=True)) == expected
    assert values.tolist() == [float(scores[pair]) for pair in expected]
    assert all(a >= b for a, b in pairwise(values.tolist()))


def test_fast_nms_removed_boxes_remove_others() -> None:
    row = torch.tensor([[0.0, 0, 10, 10], [3, 0, 13, 10], [6, 0, 16, 10]])  # each overlaps the next by 0.54
    scores = torch.tensor([[0.9], [0.8], [0.7]])
    assert postprocess.fast_nms(row, scores)[0].tolist() == [0]  # standard NMS would keep the last box as well
    assert len(postprocess.fast_nms(torch.zeros(0, 4), torch.zeros(0, 3))[0]) == 0


def test_postprocess_clips_boxes_and_fills_slots() -> None:
    anchors = random_boxes(400, 16)
    outputs = random_outputs(2, 400, 3, 17)
    outputs.class_logits.data[1, :, 0] = 50  # background everywhere
    instances = postprocess.postprocess(outputs, anchors, [(100.0, 90.0), (128.0, 128.0)], max_detections=30)
    assert instances.boxes.shape == (2, 30, 4)
    assert instances.coefficients is not None
    assert (instances.scores[0] > 0.05).all()
    assert not instances.scores[1].any()
    assert not instances.boxes[1].any()
    probabilities = outputs.class_logits[0].softmax(1)[:, 1:]
    decoded = boxes_and_anchors.decode(anchors, outputs.offsets[0])
    limit = torch.tensor([90.0, 100.0, 90.0, 100.0])
    for box, score, label, coefficients in zip(
        instances.boxes[0], instances.scores[0], instances.labels[0], instances.coefficients[0], strict=True
    ):
        anchor = int((probabilities[:, label] == score).nonzero()[0])
        torch.testing.assert_close(box, torch.minimum(decoded[anchor].clamp(min=0), limit))
        assert torch.equal(coefficients, outputs.coefficients[0, anchor])
        assert (box[2:] > box[:2]).all()


def test_full_masks_equals_loop() -> None:
    generator = torch.Generator().manual_seed(18)
    prototypes = torch.rand(5, 9, 12, generator=generator)
    coefficients = torch.randn(4, 5, generator=generator)
    boxes = torch.tensor([[3.0, 2, 30, 20], [0, 0, 48, 27], [40.2, 20.9, 47, 26], [10, 10, 11, 11]])
    height, width = 27, 48
    masks = postprocess.full_masks(prototypes, coefficients, boxes, (height, width))
    assert masks.shape == (4, height, width)
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
                dy, dx = y - top, x - left
                upper = grid[top, left] * (1 - dx) + grid[top, left + 1] * dx
                lower = grid[top + 1, left] * (1 - dx) + grid[top + 1, left + 1] * dx
                value = upper * (1 - dy) + lower * dy
                assert bool(masks[d, row, column]) == (value > 0.5) or abs(value - 0.5) < 1e-5
    assert masks.any()
    assert postprocess.full_masks(prototypes, coefficients[:0], boxes[:0], (27, 48)).shape == (0, 27, 48)


def test_mask_assemblies_agree() -> None:
    """Masks of the paper's assembly and of the predictor are equal except near the box's border."""
    model = tiny_yolact()
    torch.nn.init.normal_(model.head.class_logits.weight, std=0.5)
    default = Experiment()
    experiment = replace(
        default,
        model=replace(default.model, architecture=architecture.YOLACT_NAME),
        postprocess=replace(default.postprocess, score_threshold=0.3, max_detections=20),
    )
    predictor = Predictor(TrainedModel(model, experiment, ("a", "b", "c"), (1, 2, 3)), device="cpu")
    images = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    results = predictor.detect(images, [CanvasMap((64, 96), (64, 96), (1.0, 1.0))] * 2)
    with torch.inference_mode():
        outputs = model.eval()(images)
    anchors = boxes_and_anchors.anchor_boxes(outputs.level_sizes, outputs.canvas_size)
    settings = experiment.postprocess
    instances = postprocess.postprocess(
        outputs, anchors, [(64.0, 96.0)] * 2, settings.score_threshold, settings.nms_iou, 20
    )
    assert instances.coefficients is not None
    assert instances.prototypes is not None
    assert sum(len(detections) for detections in results) > 5
    for image, detections in enumerate(results):
        n = int((instances.scores[image] > 0).sum())
        boxes, coefficients = instances.boxes[image, :n], instances.coefficients[image, :n]
        masks = postprocess.full_masks(instances.prototypes[image], coefficients, boxes, (64, 96))
        np.testing.assert_allclose(detections.boxes, boxes.numpy(), atol=1e-4)
        np.testing.assert_allclose(detections.scores, instances.scores[image, :n].numpy())
        assert masks.shape == (len(detections), 64, 96)
        for mask, paper_mask, (x1, y1, x2, y2) in zip(detections.masks(), masks.numpy(), detections.boxes, strict=True):
            inside = np.s_[math.ceil(y1 + 4) : math.floor(y2 - 4), math.ceil(x1 + 4) : math.floor(x2 - 4)]
            if mask[inside].size:  # the paper interpolates probabilities instead of logits: almost equal pixels
                assert (mask[inside] == paper_mask[inside]).mean() > 0.95
            outside = paper_mask.copy()
            outside[max(0, int(y1) - 9) : int(y2) + 10, max(0, int(x1) - 9) : int(x2) + 10] = False
            assert not outside.any()
