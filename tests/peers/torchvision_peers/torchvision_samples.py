"""Small networks, ground truth and batches for the tests of the torchvision peers."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from peers.torchvision_peers.architectures import FCOS, FCOS_NAME, MASK_RCNN, MASK_RCNN_NAME
from sais.config import Experiment
from sais.modeling.architecture import Architecture
from sais.ops.letterbox import letterbox
from sais.structures import Batch, GroundTruth

CLASSES = ("a", "b", "c")
TWO = [[8.0, 12.0, 50.0, 60.0], [40.0, 30.0, 90.0, 80.0]]
BOTH = pytest.mark.parametrize("architecture", [MASK_RCNN, FCOS], ids=lambda architecture: architecture.name)
NAMES = {"mask-rcnn": MASK_RCNN_NAME, "fcos-torchvision": FCOS_NAME}


def small(architecture: Architecture, **model: object) -> Experiment:
    """Return an experiment with 64 channels and random weights."""
    settings = {
        "backbone": "tf_efficientnet_lite0.in1k",
        "channels": 64,
        "pretrained": False,
        "masks": architecture is MASK_RCNN,
        "architecture": NAMES[architecture.name],
    }
    return replace(Experiment(), model=replace(Experiment().model, **(settings | model)))


def built(architecture: Architecture, **model: object) -> nn.Module:
    torch.manual_seed(0)
    return architecture.build(small(architecture, **model), len(CLASSES))


def objects_of(boxes: list[list[float]], masks: bool = True) -> GroundTruth:
    """Return objects with labels 0, 1, 2, ... and random coverage in their mask windows."""
    windows, values = [], [torch.zeros(0, dtype=torch.uint8)]
    generator = torch.Generator().manual_seed(1)
    for x1, y1, x2, y2 in boxes:
        window = [math.floor(x1 / 4), math.floor(y1 / 4), math.ceil(x2 / 4), math.ceil(y2 / 4)] if masks else [0] * 4
        windows.append(window)
        area = (window[2] - window[0]) * (window[3] - window[1])
        values.append(torch.randint(0, 256, (area,), generator=generator, dtype=torch.uint8))
    return GroundTruth(
        torch.tensor(boxes).view(-1, 4),
        torch.arange(len(boxes)) % len(CLASSES),
        torch.tensor(windows, dtype=torch.int64).view(-1, 4),
        torch.cat(values),
    )


def batch_of(*objects: GroundTruth, side: int = 96) -> Batch:
    generator = torch.Generator().manual_seed(2)
    images = torch.randint(0, 256, (len(objects), 3, side, side), generator=generator, dtype=torch.uint8)
    canvas_maps = [letterbox((side, side), "fixed", (side, side))] * len(objects)
    return Batch(images, list(objects), list(range(len(objects))), canvas_maps)
