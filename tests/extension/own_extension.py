"""Everything that a researcher may bring: copied by the tests to a folder outside of the package."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sais.config import Experiment, InputConfig, ModelConfig, OptimConfig, PostprocessConfig, RunConfig
from sais.data.annotations import DatasetSplit, ImageRecord, make_annotation
from sais.modeling.assigners import LocationGrid, ObjectAssignment
from sais.modeling.criterion import Assignment
from sais.modeling.head import HeadOutputs, flatten_locations
from sais.ops.boxes import distances_from_boxes
from sais.ops.distances import intersection_and_union
from sais.structures import Batch, DenseOutputs, GroundTruth, Sample


def tiny() -> Experiment:
    """A recipe small enough for a test."""
    return Experiment(
        name="own-tiny",
        input=InputConfig(size=(64, 64)),
        model=ModelConfig(
            backbone="resnet10t.c3_in1k", pretrained=False, channels=32, tower_depth=1, prototype_channels=16
        ),
        postprocess=PostprocessConfig(score_threshold=0.005),
        optim=OptimConfig(batch_size=4),
        run=RunConfig(workers=0, device="cpu", loggers=()),
    )


def assign_nearest(ground_truths: list[GroundTruth], grid: LocationGrid) -> ObjectAssignment:
    """Assign each location inside a box to the object whose center is nearest, on all levels."""
    rows = []
    for objects in ground_truths:
        boxes, points = objects.boxes, grid.points
        if len(boxes) == 0:
            rows.append(torch.full((len(points),), -1, dtype=torch.int64, device=points.device))
            continue
        inside = distances_from_boxes(points[:, None], boxes[None]).amin(2) > 0  # (L, N)
        centers = (boxes[:, :2] + boxes[:, 2:]) / 2
        squares = (points[:, None] - centers[None]).square().sum(2).masked_fill(~inside, torch.inf)
        best = squares.min(1)
        rows.append(torch.where(best.values < torch.inf, best.indices, -1))
    return ObjectAssignment(torch.stack(rows))


def assign_by_cost(ground_truths: list[GroundTruth], grid: LocationGrid, outputs: DenseOutputs) -> ObjectAssignment:
    """Assign the k locations of lowest cost to each object, k from the IoUs of the predictions (after SimOTA)."""
    index = torch.full(outputs.class_logits.shape[:2], -1, dtype=torch.int64, device=grid.points.device)
    scores = torch.zeros(index.shape, device=grid.points.device)
    for image, objects in enumerate(ground_truths):
        if len(objects.boxes) == 0:
            continue
        targets = distances_from_boxes(grid.points[None], objects.boxes[:, None])  # (N, L, 4)
        inside = targets.amin(2) > 0
        predicted = outputs.distances[image].expand_as(targets)
        intersection, union = intersection_and_union(predicted, targets.clamp(min=1e-3))
        iou = intersection / union  # (N, L)
        probability = outputs.class_logits[image].sigmoid()[:, objects.labels].T
        cost = -probability.clamp(min=1e-6).log() - 3 * iou.clamp(min=1e-6).log() + 1e5 * ~inside
        assigned = torch.zeros_like(inside)
        for number, count in enumerate(iou.topk(10, dim=1).values.sum(1).clamp(min=1).int().tolist()):
            assigned[number, cost[number].topk(count, largest=False).indices] = True
        lowest = cost.masked_fill(~(assigned & inside), torch.inf).min(0)
        positive = lowest.values < torch.inf
        index[image] = torch.where(positive, lowest.indices, -1)
        scores[image] = torch.where(positive, iou.gather(0, lowest.indices[None])[0].clamp(min=0.1), 0)
    return ObjectAssignment(index, score_targets=scores)


assign_by_cost.needs_predictions = True  # type: ignore[attr-defined]


def l1_of_logarithms(predicted: Tensor, targets: Tensor) -> Tensor:
    """A box loss: the mean absolute difference of the distances' logarithms, (P, 4) twice -> (P,)."""
    return (predicted.log() - targets.clamp(min=1e-3).log()).abs().mean(1)


def prototype_size(outputs: DenseOutputs, batch: Batch, assignment: Assignment) -> Tensor:
    """An additional loss term: the mean of the prototypes."""
    assert outputs.prototypes is not None
    assert len(assignment.mask_positives) == len(batch.image_ids)
    return 0.1 * outputs.prototypes.mean()


class PlainHead(nn.Module):
    """A head without towers and without a quality branch."""

    def __init__(self, num_classes: int, strides: Sequence[int], channels: int, prototypes: int, **_: Any) -> None:
        super().__init__()
        self.sizes = (num_classes, 4, prototypes)
        self.strides = tuple(strides)
        self.convolution = nn.Conv2d(channels, sum(self.sizes), 3, padding=1)
        nn.init.normal_(self.convolution.weight, std=0.01)
        nn.init.zeros_(self.convolution.bias)  # type: ignore[arg-type]
        nn.init.constant_(self.convolution.bias[:num_classes], -4.0)  # type: ignore[index]

    def forward(self, levels: list[Tensor]) -> HeadOutputs:
        """[P3 .. P7] (B, channels, h, w) -> predictions (B, L, .)."""
        logits, distances, coefficients = [], [], []
        for level, stride in zip(levels, self.strides, strict=True):
            parts = flatten_locations(self.convolution(level)).float().split(self.sizes, 2)
            logits.append(parts[0])
            distances.append(parts[1].clamp(max=6).exp() * stride)
            coefficients.append(parts[2].tanh())
        return HeadOutputs(torch.cat(logits, 1), None, torch.cat(distances, 1), torch.cat(coefficients, 1))


def squares() -> dict[str, DatasetSplit]:
    """A data set in memory: bright squares, drawn when the module is imported."""
    random = np.random.default_rng(0)
    splits = {}
    for name, count in (("train", 8), ("valid", 4)):
        records = []
        for number in range(count):
            image = random.integers(0, 60, (80, 96, 3), dtype=np.uint8)
            x, y = random.integers(0, 40, 2)
            image[y : y + 36, x : x + 36] = 220
            mask = np.zeros((80, 96), bool)
            mask[y : y + 36, x : x + 36] = True
            annotation = make_annotation(number + 1, 0, segmentation=mask)
            records.append(ImageRecord(number + 1, image, (80, 96), (annotation,)))
        splits[name] = DatasetSplit(f"squares {name}", ("square",), images=tuple(records))
    return splits


def darken(sample: Sample, random: np.random.Generator) -> Sample:
    """An augmentation: a random factor on all pixels."""
    sample.image = (sample.image * random.uniform(0.5, 1)).astype(np.uint8)
    return sample
