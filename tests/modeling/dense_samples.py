"""Random ground truth and dense outputs for the tests of losses and criterion."""

from __future__ import annotations

import torch
from torch import Tensor

from sais.modeling.assigners import assign_center, build_targets, location_grid
from sais.modeling.losses import centerness_quality
from sais.structures import DenseOutputs, DenseTargets, GroundTruth

CANVAS = (64, 96)
STRIDES = (8, 16, 32, 64, 128)
LOCATIONS = location_grid(CANVAS, STRIDES, (64.0, 128.0, 256.0, 512.0))
SIZES = LOCATIONS.level_sizes
GRID = (16, 24)
"""(h, w) of the prototypes."""
CLASSES, PROTOTYPES = 3, 4


def random_objects(seed: int, number: int, margin: float = 0.0) -> GroundTruth:
    """Objects with random boxes on the canvas and random mask patches around them."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(number, 2, generator=generator) * torch.tensor([60.0, 35.0])
    side = 8 + torch.rand(number, 2, generator=generator) * torch.tensor([28.0, 20.0])
    boxes = torch.cat([corner, corner + side], 1)
    grow = torch.cat([-side, side], 1) * margin
    low = ((boxes + grow)[:, :2] / 4).floor().long().clamp(min=0)
    high = torch.minimum(((boxes + grow)[:, 2:] / 4).ceil().long(), torch.tensor([GRID[1], GRID[0]]))
    total = int((high - low).prod(1).sum())
    values = torch.randint(0, 256, (total,), generator=generator).to(torch.uint8)
    labels = torch.randint(0, CLASSES, (number,), generator=generator)
    return GroundTruth(boxes, labels, torch.cat([low, high], 1), values)


def random_outputs(seed: int, batch: int, dtype: torch.dtype = torch.float32) -> DenseOutputs:
    """Outputs that need gradients."""
    generator = torch.Generator().manual_seed(seed)
    length = sum(h * w for h, w in SIZES)

    def leaf(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    return DenseOutputs(
        class_logits=leaf(batch, length, CLASSES).requires_grad_(),
        quality_logits=leaf(batch, length).requires_grad_(),
        distances=(2.5 + 0.7 * leaf(batch, length, 4)).exp().requires_grad_(),
        coefficients=leaf(batch, length, PROTOTYPES).tanh().requires_grad_(),
        prototypes=leaf(batch, PROTOTYPES, *GRID).relu().requires_grad_(),
        level_sizes=SIZES,
    )


def targets_of(ground_truths: list[GroundTruth]) -> DenseTargets:
    """Center-aware targets (B, L, .) with centerness as quality."""
    return build_targets(assign_center(ground_truths, LOCATIONS), ground_truths, LOCATIONS.points, centerness_quality)


def leaves(outputs: DenseOutputs) -> list[Tensor]:
    """Everything a loss could reach."""
    tensors = (outputs.class_logits, outputs.quality_logits, outputs.distances)
    return [tensor for tensor in (*tensors, outputs.coefficients, outputs.prototypes) if tensor is not None]


def whole_map_loss(
    outputs: DenseOutputs,
    targets: DenseTargets,
    objects: list[GroundTruth],
    image: int,
    chosen: Tensor,
    margin: float,
    dice_weight: float = 0.0,
) -> Tensor:
    """The usual way: the whole map of every chosen location, element by element, then cropped."""
    assert outputs.coefficients is not None
    assert outputs.prototypes is not None
    total = outputs.prototypes.new_zeros(())
    image_objects = objects[image]
    first = 0
    patches = []
    for x1, y1, x2, y2 in image_objects.mask_windows.tolist():
        last = first + (y2 - y1) * (x2 - x1)
        patches.append(image_objects.mask_values[first:last].reshape(y2 - y1, x2 - x1))
        first = last
    for place in chosen.tolist():
        owner = int(targets.object_index[image, place])
        weights = outputs.coefficients[image, place]
        probability = torch.einsum("k,khw->hw", weights, outputs.prototypes[image]).sigmoid()  # Eq. 1
        x1, y1, x2, y2 = image_objects.mask_windows[owner].tolist()
        truth = torch.zeros(GRID, dtype=probability.dtype)
        truth[y1:y2, x1:x2] = patches[owner].to(probability.dtype) / 255
        entropy = -(truth * probability.log() + (1 - truth) * (1 - probability).log())
        width, height = (image_objects.boxes[owner, 2:] - image_objects.boxes[owner, :2]).tolist()
        area = width * (1 + 2 * margin) * height * (1 + 2 * margin) / 16  # in cells of 4 x 4 pixels
        total = total + entropy[y1:y2, x1:x2].sum() / max(area, 1)
        p, t = probability[y1:y2, x1:x2], truth[y1:y2, x1:x2]
        total = total + dice_weight * (1 - 2 * (p * t).sum() / ((p * p).sum() + (t * t).sum()))
    return total
