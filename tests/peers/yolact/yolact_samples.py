"""Boxes, ground truth, network outputs, a small network and IoU in a loop for the tests of YOLACT."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from peers.yolact.model import AnchorOutputs, Yolact, build_yolact
from sais.config import Experiment
from sais.structures import GroundTruth

LITE = "tf_efficientnet_lite0.in1k"


def iou(first: list[float], second: list[float]) -> float:
    width = max(0.0, min(first[2], second[2]) - max(first[0], second[0]))
    height = max(0.0, min(first[3], second[3]) - max(first[1], second[1]))
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (first, second)]
    return width * height / (areas[0] + areas[1] - width * height)


def random_boxes(number: int, seed: int, side: float = 128.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(number, 2, generator=generator) * side * 0.8
    sides = torch.rand(number, 2, generator=generator) * side * 0.4 + 2
    return torch.cat([low, low + sides], dim=1)


def around(boxes: Tensor, number: int, seed: int) -> Tensor:
    """Return `number` boxes near each of `boxes`, with various overlaps."""
    generator = torch.Generator().manual_seed(seed)
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(number, 2)
    shift = torch.randn(len(sides), 4, generator=generator) * sides * 0.15
    return boxes.repeat(number, 1) + shift


def objects_of(boxes: Tensor, labels: list[int], canvas: int = 128) -> GroundTruth:
    """Return objects with elliptic masks; cells at their border have a coverage of one half."""
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
    return GroundTruth(
        boxes,
        torch.tensor(labels, dtype=torch.int64),
        torch.tensor(windows, dtype=torch.int64).view(-1, 4),
        torch.cat(values),
    )


def no_objects() -> GroundTruth:
    return objects_of(torch.zeros(0, 4), [])


def tiny_yolact(num_classes: int = 3) -> Yolact:
    torch.manual_seed(0)
    settings = replace(Experiment().model, backbone=LITE, channels=32, prototype_channels=16, pretrained=False)
    return build_yolact(settings, num_classes)


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
