"""Losses by hand, against torchvision's, and the box-local mask loss against the whole map in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou, generalized_box_iou_loss, sigmoid_focal_loss

from sais.modeling.assigners import build_targets, sample_mask_positives
from sais.modeling.losses import (
    LossTerms,
    box_losses,
    classification_loss,
    compute_losses,
    count_normalizers,
    image_mask_loss,
)
from sais.ops.boxes import boxes_from_distances, locations
from sais.structures import DenseOutputs, DenseTargets, GroundTruth

STRIDES = (8, 16, 32, 64, 128)
SIZES = ((8, 12), (4, 6), (2, 3), (1, 2), (1, 1))
"""Of a canvas of 64 x 96; its prototype grid is 16 x 24."""
GRID = (16, 24)
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
        centerness_logits=leaf(batch, length).requires_grad_(),
        distances=(2.5 + 0.7 * leaf(batch, length, 4)).exp().requires_grad_(),
        coefficients=leaf(batch, length, PROTOTYPES).tanh().requires_grad_(),
        prototypes=leaf(batch, PROTOTYPES, *GRID).relu().requires_grad_(),
        level_sizes=SIZES,
    )


def targets_of(objects: list[GroundTruth]) -> DenseTargets:
    """Center-aware targets of the objects."""
    return build_targets(objects, SIZES, STRIDES, locations(SIZES, STRIDES))


def leaves(outputs: DenseOutputs) -> list[Tensor]:
    """Everything a loss could reach."""
    found = (outputs.class_logits, outputs.centerness_logits, outputs.distances)
    assert outputs.coefficients is not None
    assert outputs.prototypes is not None
    return [*found, outputs.coefficients, outputs.prototypes]


def test_focal_loss_by_hand() -> None:
    logits = torch.tensor([[[2.0, -1.0], [0.5, 0.0], [-3.0, 4.0]]], dtype=torch.float64)
    labels = torch.tensor([[0, -1, 1]])
    wanted = 0.0
    for location in range(3):
        for kind in range(2):
            p = 1 / (1 + math.exp(-float(logits[0, location, kind])))
            if int(labels[0, location]) == kind:
                wanted += 0.25 * (1 - p) ** 2 * -math.log(p)
            else:
                wanted += 0.75 * p**2 * -math.log(1 - p)
    assert float(classification_loss(logits, labels)) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_focal_loss_and_its_gradient_against_torchvision(dtype: torch.dtype, tolerance: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(3, 40, 5, generator=generator, dtype=torch.float64)
    logits[0, :2] = torch.tensor([-80.0, -30.0, 0.0, 30.0, 80.0])
    labels = torch.randint(-1, 5, (3, 40), generator=generator)
    labels[2] = -1
    found = []
    for ours in (True, False):
        leaf = logits.to(dtype, copy=True).requires_grad_()
        if ours:
            loss = classification_loss(leaf, labels)
        else:
            wanted = (labels[..., None] == torch.arange(5)).to(dtype)
            loss = sigmoid_focal_loss(leaf, wanted, 0.25, 2.0, reduction="sum")
        (3 * loss).backward()
        found.append((loss.detach(), leaf.grad))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)
    assert classification_loss(logits.to(dtype), labels).grad_fn is None  # without a gradient to compute


def test_focal_loss_gradcheck() -> None:
    logits = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([[-1, 0, 3], [2, -1, -1]])
    assert torch.autograd.gradcheck(lambda x: classification_loss(x, labels), (logits,))


def test_box_losses_against_torchvision() -> None:
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(200, 2, generator=generator) * 500
    predicted = (torch.randn(200, 4, generator=generator) + 3).exp()
    wanted = (torch.randn(200, 4, generator=generator) + 3).exp()
    wanted[:5] = predicted[:5]
    first, second = boxes_from_distances(points, predicted), boxes_from_distances(points, wanted)
    iou = box_iou(first.double(), second.double()).diagonal()
    torch.testing.assert_close(box_losses(predicted, wanted, "iou").double(), -iou.log(), rtol=1e-4, atol=1e-5)
    giou = generalized_box_iou_loss(first.double(), second.double())
    torch.testing.assert_close(box_losses(predicted, wanted, "giou").double(), giou, rtol=1e-4, atol=1e-5)
    assert box_losses(predicted[:5], wanted[:5], "iou").abs().max() < 1e-6
    assert box_losses(predicted[:5], wanted[:5], "giou").abs().max() < 1e-6


@pytest.mark.parametrize("kind", ["iou", "giou"])
def test_the_terms_by_hand(kind: str) -> None:
    objects = [random_objects(1, 4), random_objects(2, 2)]
    outputs, targets = random_outputs(3, 2, torch.float64), targets_of(objects)
    chosen = sample_mask_positives(targets, objects, [0, 1], limit=15)
    normalizers = count_normalizers(targets, chosen)
    terms = compute_losses(outputs, targets, objects, chosen, normalizers, box=kind, weights=(1.0, 2.0, 3.0, 4.0))
    positives, centers = 0, 0.0
    box = centerness = mask = 0.0
    points = locations(SIZES, STRIDES)
    for image in range(2):
        for place in (targets.object_index[image] >= 0).nonzero().squeeze(1).tolist():
            weight = float(targets.centerness[image, place])
            positives, centers = positives + 1, centers + weight
            owner = int(targets.object_index[image, place])
            found = boxes_from_distances(points[place], outputs.distances[image, place].detach())
            truth = objects[image].boxes[owner].double()
            if kind == "iou":
                box += weight * -math.log(float(box_iou(found[None], truth[None])))
            else:
                box += weight * float(generalized_box_iou_loss(found[None], truth[None], reduction="sum"))
            p = 1 / (1 + math.exp(-float(outputs.centerness_logits[image, place].detach())))
            centerness -= weight * math.log(p) + (1 - weight) * math.log(1 - p)
        mask += float(whole_map_loss(outputs, targets, objects, image, chosen[image], 0.0).detach())
    assert positives > 20
    assert float(normalizers.positives) == positives
    assert float(normalizers.centerness) == pytest.approx(centers, rel=1e-5)
    assert float(normalizers.mask_positives) == sum(len(c) for c in chosen)
    focal = float(classification_loss(outputs.class_logits.detach(), targets.labels))
    terms = LossTerms(*(t.detach() for t in (terms.classification, terms.box, terms.centerness, terms.mask)))
    assert float(terms.classification) == pytest.approx(focal / positives, rel=1e-5)
    assert float(terms.box) == pytest.approx(2 * box / centers, rel=1e-5)
    assert float(terms.centerness) == pytest.approx(3 * centerness / positives, rel=1e-5)
    assert float(terms.mask) == pytest.approx(4 * mask / sum(len(c) for c in chosen), rel=1e-5)
    total = terms.classification + terms.box + terms.centerness + terms.mask
    assert float(terms.total) == float(total)


def whole_map_loss(
    outputs: DenseOutputs, targets: DenseTargets, objects: list[GroundTruth], image: int, chosen: Tensor, margin: float
) -> Tensor:
    """The usual way: the whole map of every chosen location, element by element, then cropped."""
    assert outputs.coefficients is not None
    assert outputs.prototypes is not None
    total = outputs.prototypes.new_zeros(())
    mine = objects[image]
    first = 0
    patches = []
    for x1, y1, x2, y2 in mine.mask_windows.tolist():
        last = first + (y2 - y1) * (x2 - x1)
        patches.append(mine.mask_values[first:last].reshape(y2 - y1, x2 - x1))
        first = last
    for place in chosen.tolist():
        owner = int(targets.object_index[image, place])
        weights = outputs.coefficients[image, place]
        probability = torch.einsum("k,khw->hw", weights, outputs.prototypes[image]).sigmoid()  # Eq. 1
        x1, y1, x2, y2 = mine.mask_windows[owner].tolist()
        truth = torch.zeros(GRID, dtype=probability.dtype)
        truth[y1:y2, x1:x2] = patches[owner].to(probability.dtype) / 255
        entropy = -(truth * probability.log() + (1 - truth) * (1 - probability).log())
        width, height = (mine.boxes[owner, 2:] - mine.boxes[owner, :2]).tolist()
        area = width * (1 + 2 * margin) * height * (1 + 2 * margin) / 16  # in cells of 4 x 4 pixels
        total = total + entropy[y1:y2, x1:x2].sum() / max(area, 1)
    return total


@pytest.mark.parametrize("margin", [0.0, 0.1])
def test_mask_loss_and_gradients_equal_the_whole_map(margin: float) -> None:
    objects = [random_objects(5, 5, margin)]
    targets = targets_of(objects)
    chosen = sample_mask_positives(targets, objects, [0])[0]
    assert len(chosen) > 20
    gradients = []
    for whole in (False, True):
        outputs = random_outputs(6, 1, torch.float64)
        assert outputs.coefficients is not None
        assert outputs.prototypes is not None
        if whole:
            loss = whole_map_loss(outputs, targets, objects, 0, chosen, margin)
        else:
            owners = targets.object_index[0, chosen]
            loss = image_mask_loss(outputs.prototypes[0], outputs.coefficients[0, chosen], owners, objects[0], margin)
        loss.backward()
        gradients.append((loss.detach(), outputs.coefficients.grad, outputs.prototypes.grad))
    for found, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


def test_mask_loss_gradcheck() -> None:
    boxes = torch.tensor([[0.0, 0.0, 12.0, 8.0], [4.0, 4.0, 12.0, 16.0]])
    windows = torch.tensor([[0, 0, 3, 2], [1, 1, 3, 4]])
    objects = GroundTruth(boxes, torch.zeros(2, dtype=torch.int64), windows, torch.arange(0, 240, 20).to(torch.uint8))
    generator = torch.Generator().manual_seed(0)
    prototypes = torch.randn(2, 4, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    coefficients = torch.randn(3, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    owners = torch.tensor([1, 0, 1])
    assert torch.autograd.gradcheck(lambda p, c: image_mask_loss(p, c, owners, objects), (prototypes, coefficients))


def test_an_object_without_outline_teaches_no_mask() -> None:
    objects = random_objects(5, 2)
    x1, y1, x2, y2 = objects.mask_windows[0].tolist()
    objects.mask_windows[0] = 0
    objects.mask_values = objects.mask_values[(x2 - x1) * (y2 - y1) :]
    prototypes = torch.rand(PROTOTYPES, *GRID)
    coefficients = torch.rand(3, PROTOTYPES, requires_grad=True)
    image_mask_loss(prototypes, coefficients, torch.tensor([0, 1, 0]), objects).backward()
    assert coefficients.grad is not None
    assert coefficients.grad[[0, 2]].abs().max() == 0
    assert coefficients.grad[1].abs().min() > 0


def test_without_objects_everything_is_finite_and_has_a_gradient() -> None:
    objects = [random_objects(0, 0), random_objects(0, 0)]
    outputs, targets = random_outputs(1, 2), targets_of(objects)
    chosen = sample_mask_positives(targets, objects, [0, 1])
    terms = compute_losses(outputs, targets, objects, chosen, count_normalizers(targets, chosen))
    assert terms.box == terms.centerness == terms.mask == 0
    assert torch.isfinite(terms.total)
    assert terms.total > 0
    terms.total.backward()
    for i, leaf in enumerate(leaves(outputs)):
        assert leaf.grad is not None, i  # DistributedDataParallel waits for every parameter's gradient
        assert torch.isfinite(leaf.grad).all()
        assert (leaf.grad.abs().max() == 0) == (i > 0)


def test_extreme_outputs_stay_finite() -> None:
    objects = [random_objects(1, 4)]
    outputs, targets = random_outputs(3, 1), targets_of(objects)
    with torch.no_grad():
        outputs.class_logits *= 1e4
        outputs.centerness_logits *= 1e4
        outputs.distances[:, ::2] = 1e-20
        outputs.distances[:, 1::2] = math.exp(12)
        assert outputs.coefficients is not None
        outputs.coefficients *= 1e4
    chosen = sample_mask_positives(targets, objects, [0])
    for kind in ("iou", "giou"):
        terms = compute_losses(outputs, targets, objects, chosen, count_normalizers(targets, chosen), box=kind)
        terms.total.backward()
        assert torch.isfinite(terms.total)
        assert all(leaf.grad is not None and torch.isfinite(leaf.grad).all() for leaf in leaves(outputs))


def test_two_halves_with_summed_counts_equal_the_whole() -> None:
    objects = [random_objects(1, 4), random_objects(2, 0), random_objects(7, 6), random_objects(8, 1)]
    targets = targets_of(objects)
    chosen = sample_mask_positives(targets, objects, [0, 1, 2, 3], limit=25)
    whole = random_outputs(9, 4, torch.float64)
    total = compute_losses(whole, targets, objects, chosen, count_normalizers(targets, chosen)).total
    total.backward()
    halves = random_outputs(9, 4, torch.float64)

    def part(of: DenseTargets, rows: slice) -> DenseTargets:
        return DenseTargets(of.object_index[rows], of.labels[rows], of.distances[rows], of.centerness[rows])

    rows = (slice(0, 2), slice(2, 4))
    counts = [count_normalizers(part(targets, r), chosen[r]) for r in rows]
    both = counts[0] + counts[1]
    value = 0.0
    for r in rows:
        assert halves.coefficients is not None
        assert halves.prototypes is not None
        outputs = DenseOutputs(
            halves.class_logits[r], halves.centerness_logits[r], halves.distances[r], halves.coefficients[r],
            halves.prototypes[r], SIZES,
        )  # fmt: skip
        loss = compute_losses(outputs, part(targets, r), objects[r], chosen[r], both).total
        loss.backward()
        value += float(loss.detach())
    assert value == pytest.approx(float(total.detach()), rel=1e-6)
    for found, wanted in zip(leaves(halves), leaves(whole), strict=True):
        torch.testing.assert_close(found.grad, wanted.grad, rtol=1e-6, atol=1e-9)


def test_boxes_alone() -> None:
    objects = [random_objects(1, 4)]
    outputs, targets = random_outputs(3, 1), targets_of(objects)
    outputs.prototypes = outputs.coefficients = None
    terms = compute_losses(
        outputs, targets, objects, [torch.zeros(0, dtype=torch.int64)], count_normalizers(targets, [])
    )
    assert terms.mask == 0
    assert terms.box > 0
