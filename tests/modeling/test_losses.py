"""Losses by hand, against torchvision's, and the box-local mask loss against the whole map in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torchvision.ops import box_iou, generalized_box_iou_loss, sigmoid_focal_loss

from sais.errors import ConfigError
from sais.modeling.losses import focal_loss, giou_loss, iou_loss, iou_quality
from sais.ops.boxes import boxes_from_distances


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
    assert float(focal_loss(logits, labels)) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_focal_loss_and_gradient_equal_torchvision(dtype: torch.dtype, tolerance: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 4 * torch.randn(3, 40, 5, generator=generator, dtype=torch.float64)
    logits[0, :2] = torch.tensor([-80.0, -30.0, 0.0, 30.0, 80.0])
    labels = torch.randint(-1, 5, (3, 40), generator=generator)
    labels[2] = -1
    results = []
    for own in (True, False):
        leaf = logits.to(dtype, copy=True).requires_grad_()
        if own:
            loss = focal_loss(leaf, labels)
        else:
            wanted = (labels[..., None] == torch.arange(5)).to(dtype)
            loss = sigmoid_focal_loss(leaf, wanted, 0.25, 2.0, reduction="sum")
        (3 * loss).backward()
        results.append((loss.detach(), leaf.grad))
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)
    assert focal_loss(logits.to(dtype), labels).grad_fn is None  # without a gradient to compute


def test_focal_loss_gradcheck() -> None:
    logits = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([[-1, 0, 3], [2, -1, -1]])
    assert torch.autograd.gradcheck(lambda x: focal_loss(x, labels), (logits,))


def test_focal_loss_refuses_a_second_derivative() -> None:
    """Its saved gradient is a constant, so that a second derivative would be zero without an error."""
    logits = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1), requires_grad=True)
    loss = focal_loss(logits, torch.tensor([[-1, 0, 3], [2, -1, -1]]))
    (gradient,) = torch.autograd.grad(loss, logits, create_graph=True)
    with pytest.raises(ConfigError, match="its second derivative is not implemented"):
        gradient.square().sum().backward()


def test_box_losses_equal_torchvision() -> None:
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(200, 2, generator=generator) * 500
    predicted = (torch.randn(200, 4, generator=generator) + 3).exp()
    wanted = (torch.randn(200, 4, generator=generator) + 3).exp()
    wanted[:5] = predicted[:5]
    first, second = boxes_from_distances(points, predicted), boxes_from_distances(points, wanted)
    iou = box_iou(first.double(), second.double()).diagonal()
    torch.testing.assert_close(iou_loss(predicted, wanted).double(), -iou.log(), rtol=1e-4, atol=1e-5)
    giou = generalized_box_iou_loss(first.double(), second.double())
    torch.testing.assert_close(giou_loss(predicted, wanted).double(), giou, rtol=1e-4, atol=1e-5)
    assert iou_loss(predicted[:5], wanted[:5]).abs().max() < 1e-6
    assert giou_loss(predicted[:5], wanted[:5]).abs().max() < 1e-6


def test_box_losses_of_boxes_that_do_not_contain_the_location() -> None:
    """Distances from the center are negative there, when a head predicts them from the corner of a cell."""
    predicted = torch.tensor([[6.0, 8.0, -2.0, 3.0], [9.0, 9.0, -4.0, -4.0]], requires_grad=True)
    targets = torch.tensor([[5.0, 5.0, 5.0, 5.0], [3.0, 3.0, 4.0, 4.0]])  # the second pair is disjoint
    signs = torch.tensor([-1.0, -1.0, 1.0, 1.0])
    expected = generalized_box_iou_loss(predicted * signs, targets * signs)
    torch.testing.assert_close(giou_loss(predicted, targets), expected)
    iou_loss(predicted, targets).sum().backward()
    assert predicted.grad is not None
    assert torch.isfinite(predicted.grad).all()


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.6, 1.5)])
def test_focal_loss_with_soft_targets_of_one_equals_hard_targets(alpha: float, gamma: float) -> None:
    generator = torch.Generator().manual_seed(2)
    logits = 3 * torch.randn(2, 9, 4, generator=generator, dtype=torch.float64)
    labels = torch.randint(-1, 4, (2, 9), generator=generator)
    ones = torch.ones(2, 9, dtype=torch.float64)
    values = []
    for soft in ((None, None), (ones, None), (None, ones), (ones, ones)):
        leaf = logits.clone().requires_grad_()
        loss = focal_loss(leaf, labels, *soft, alpha=alpha, gamma=gamma)
        loss.backward()
        values.append((loss.detach(), leaf.grad))
    for loss, gradient in values[1:]:
        torch.testing.assert_close(loss, values[0][0])
        torch.testing.assert_close(gradient, values[0][1])


def test_focal_loss_with_soft_targets_and_weights_by_hand() -> None:
    logits = torch.tensor([[[2.0, -1.0], [0.5, 0.0]]], dtype=torch.float64)
    labels, scores = torch.tensor([[0, -1]]), torch.tensor([[0.7, 0.0]], dtype=torch.float64)
    weights = torch.tensor([[2.0, 0.5]], dtype=torch.float64)
    expected = 0.0
    for location in range(2):
        for kind in range(2):
            p = 1 / (1 + math.exp(-float(logits[0, location, kind])))
            own = int(labels[0, location]) == kind
            y = 0.7 if own else 0.0
            entropy = -(y * math.log(p) + (1 - y) * math.log(1 - p))
            expected += float(weights[0, location]) * (0.25 if own else 0.75) * abs(y - p) ** 2 * entropy
    assert float(focal_loss(logits, labels, scores, weights)) == pytest.approx(expected, rel=1e-9)


def test_iou_quality_equals_torchvision_and_has_no_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    predicted = (torch.randn(50, 4, generator=generator) + 3).exp().requires_grad_()
    targets = (torch.randn(50, 4, generator=generator) + 3).exp()
    points = torch.rand(50, 2, generator=generator) * 100
    boxes = [boxes_from_distances(points, distances.detach()) for distances in (predicted, targets)]
    quality = iou_quality(targets, predicted)
    torch.testing.assert_close(quality, box_iou(*boxes).diagonal(), rtol=1e-4, atol=1e-5)
    assert not quality.requires_grad
