"""The mask loss against whole maps, by object on the CPU and by image on an accelerator, with gradients."""

from __future__ import annotations

import pytest
import torch

from sais.errors import ConfigError
from sais.modeling.assigners import sample_mask_positives
from sais.modeling.dice import dice_loss
from sais.modeling.mask_loss import image_mask_loss, mask_losses
from sais.modeling.mask_loss_grid import grid_losses
from sais.ops.transfers import move_ground_truths
from sais.structures import GroundTruth
from tests.modeling.dense_samples import GRID, PROTOTYPES, random_objects, random_outputs, targets_of, whole_map_loss
from tests.simulated_device import DEVICE, SimulatedDevice, to_host

WAYS = pytest.mark.parametrize(("margin", "dice_weight"), [(0.0, 0.0), (0.1, 0.0), (0.0, 0.7), (0.1, 2.0)])


@WAYS
def test_mask_loss_and_gradients_equal_the_whole_map(margin: float, dice_weight: float) -> None:
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
            loss = whole_map_loss(outputs, targets, objects, 0, chosen, margin, dice_weight)
        else:
            owners = targets.object_index[0, chosen]
            coefficients = outputs.coefficients[0, chosen]
            loss = image_mask_loss(outputs.prototypes[0], coefficients, owners, objects[0], margin, dice_weight)
        loss.backward()
        gradients.append((loss.detach(), outputs.coefficients.grad, outputs.prototypes.grad))
    for actual, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dice_weight", [0.0, 1.5])
def test_mask_loss_gradcheck(dice_weight: float) -> None:
    boxes = torch.tensor([[0.0, 0.0, 12.0, 8.0], [4.0, 4.0, 12.0, 16.0]])
    windows = torch.tensor([[0, 0, 3, 2], [1, 1, 3, 4]])
    objects = GroundTruth(boxes, torch.zeros(2, dtype=torch.int64), windows, torch.arange(0, 240, 20).to(torch.uint8))
    generator = torch.Generator().manual_seed(0)
    prototypes = torch.randn(2, 4, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    coefficients = torch.randn(3, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    owners = torch.tensor([1, 0, 1])
    assert torch.autograd.gradcheck(
        lambda p, c: image_mask_loss(p, c, owners, objects, dice_weight=dice_weight), (prototypes, coefficients)
    )


def test_dice_loss_of_nothing_has_no_gradient() -> None:
    losses, gradients = dice_loss(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, 0.5]]), torch.zeros(3, 2))
    assert losses.tolist() == [1.0, 1.0, 1.0]
    assert gradients.abs().max() == 0
    losses, gradients = dice_loss(torch.tensor([[0.25, 1.0]]), torch.tensor([[0.25, 1.0]]))  # covered in part
    assert losses.tolist() == [0.0]
    assert gradients.abs().max() == 0


@pytest.mark.parametrize("by_object", [True, False])
def test_mask_loss_refuses_a_second_derivative(by_object: bool) -> None:
    """The saved gradients are constants, so that a second derivative would lack terms without an error."""
    objects = random_objects(5, 2)
    generator = torch.Generator().manual_seed(0)
    prototypes = torch.randn(PROTOTYPES, *GRID, generator=generator, requires_grad=True)
    coefficients = torch.randn(3, PROTOTYPES, generator=generator, requires_grad=True)
    index = torch.tensor([0, 1, 0])
    if by_object:
        loss = image_mask_loss(prototypes, coefficients, index, objects)
    else:
        areas = torch.ones(len(objects.boxes))
        loss = grid_losses([prototypes], [coefficients], [index], [objects.mask_windows], [areas], [objects])
    for gradient in torch.autograd.grad(loss, (prototypes, coefficients), create_graph=True):
        with pytest.raises(ConfigError, match="its second derivative is not implemented"):
            gradient.square().sum().backward(retain_graph=True)


def test_mask_loss_skips_objects_without_outline() -> None:
    objects = random_objects(5, 2)
    x1, y1, x2, y2 = objects.mask_windows[0].tolist()
    objects.mask_windows[0] = 0
    objects.mask_values = objects.mask_values[(x2 - x1) * (y2 - y1) :]
    prototypes = torch.rand(PROTOTYPES, *GRID)
    coefficients = torch.rand(3, PROTOTYPES, requires_grad=True)
    image_mask_loss(prototypes, coefficients, torch.tensor([0, 1, 0]), objects, dice_weight=1.0).backward()
    assert coefficients.grad is not None
    assert coefficients.grad[[0, 2]].abs().max() == 0
    assert coefficients.grad[1].abs().min() > 0


@WAYS
def test_mask_loss_on_an_accelerator_equals_the_cpu(margin: float, dice_weight: float) -> None:
    """Images with many objects, none, one without outline and only one, in one call without waiting."""
    objects = [random_objects(7, 6, margin), random_objects(8, 0), random_objects(9, 3, margin)]
    objects.append(random_objects(10, 1, margin))
    x1, y1, x2, y2 = objects[2].mask_windows[1].tolist()
    start = int((objects[2].mask_windows[0, 2:] - objects[2].mask_windows[0, :2]).prod())
    kept = objects[2].mask_values
    objects[2].mask_values = torch.cat([kept[:start], kept[start + (x2 - x1) * (y2 - y1) :]])
    objects[2].mask_windows[1] = 0
    generator = torch.Generator().manual_seed(0)
    index = [torch.tensor([4, 0, 0, 5, 2]), torch.zeros(0, dtype=torch.int64), torch.tensor([1, 2, 1, 0])]
    index.append(torch.tensor([0, 0]))
    prototypes = [torch.randn(PROTOTYPES, *GRID, generator=generator, dtype=torch.float64) for _ in index]
    coefficients = [torch.randn(len(i), PROTOTYPES, generator=generator, dtype=torch.float64) for i in index]
    leaves = [tensor.requires_grad_() for tensor in (*prototypes, *coefficients)]
    expected = mask_losses(prototypes, coefficients, index, objects, margin, dice_weight)
    wanted = torch.autograd.grad(expected, leaves)
    with SimulatedDevice() as device:
        moved = [leaf.detach().to(DEVICE).requires_grad_() for leaf in leaves]
        on_device = move_ground_truths(objects, DEVICE)
        loss = mask_losses(moved[:4], moved[4:], index, on_device, margin, dice_weight)
        gradients = torch.autograd.grad(loss, moved)
        assert device.waits.total() == 0
    torch.testing.assert_close(to_host(loss), expected)
    for gradient, reference in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(to_host(gradient), reference)
