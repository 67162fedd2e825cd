"""Muon: compared with the singular value decomposition, with AdamW, and step by step with a slow loop."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sais.config import Experiment, OptimConfig
from sais.engine.muon import COEFFICIENTS, MOMENTUM, orthogonalize
from sais.engine.optim import build_optimizer, parameter_groups, set_learning_rate
from sais.modeling.sais import build_model

SETTINGS = OptimConfig(name="muon", lr=1e-3, weight_decay=0.05, bias_lr_factor=1.0, muon_lr_factor=10.0)


class Network(nn.Module):
    """A backbone, two hidden convolutions of which one is tall and has a bias, and a prediction."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3))
        self.tower = nn.Sequential(nn.Conv2d(4, 8, 3, bias=False), nn.GroupNorm(2, 8), nn.Conv2d(8, 24, 1))
        self.depthwise = nn.Conv2d(24, 24, 3, groups=24)
        self.class_logits = nn.Conv2d(24, 5, 1)

    def forward(self, images: Tensor) -> Tensor:
        maps: Tensor = self.class_logits(self.depthwise(self.tower(self.backbone(images)).relu()))
        return maps


def gradients_of(network: nn.Module, seed: int) -> None:
    """Set the gradients of a loss of random images."""
    images = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(seed))
    network.zero_grad()
    network(images).square().mean().backward()


@pytest.mark.parametrize("shape", [(3, 8, 72), (2, 72, 8), (1, 16, 16), (1, 1, 9)])
def test_orthogonalize_keeps_singular_vectors_and_evens_singular_values(shape: tuple[int, ...]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 1e-6
    result = orthogonalize(matrices)
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    inside = left.mT @ result @ right.mT  # diagonal in the bases of the singular vectors
    evened = inside.diagonal(dim1=1, dim2=2)
    assert torch.allclose(inside, torch.diag_embed(evened), atol=1e-9)
    clear = values / matrices.norm(dim=(1, 2))[:, None] > 0.01
    assert clear.float().mean() > 0.9
    assert float(evened[clear].min()) > 0.65
    assert float(evened.max()) < 1.25


def test_orthogonalize_leaves_a_matrix_of_zeros() -> None:
    assert torch.equal(orthogonalize(torch.zeros(1, 4, 6)), torch.zeros(1, 4, 6))


def test_muon_groups_are_hidden_convolutions_outside_the_backbone() -> None:
    network = Network()
    groups = parameter_groups(network, SETTINGS)
    by_muon = {p for group in groups if group["muon"] for p in group["params"]}
    assert by_muon == {network.tower[0].weight, network.tower[2].weight}
    (group,) = (group for group in groups if group["muon"])
    assert (group["factor"], group["weight_decay"]) == (10.0, 0.0)
    decays = {p: group["weight_decay"] for group in groups for p in group["params"]}
    assert decays[network.class_logits.weight] == 0.05
    assert decays[network.tower[1].weight] == decays[network.tower[2].bias] == 0.0


def test_muon_updates_fpn_towers_and_protonet(tiny: Experiment) -> None:
    model = build_model(tiny.model, 3)
    groups = parameter_groups(model, SETTINGS)
    by_muon = {p for group in groups if group["muon"] for p in group["params"]}
    names = {name for name, p in model.named_parameters() if p in by_muon}
    assert {name.split(".")[0] for name in names} == {"fpn", "head", "protonet"}
    convolutions = {f"{n}.weight" for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.groups == 1}
    left_out = {n for n in convolutions - names if not n.startswith("backbone.")}
    predictions = ("class_logits", "quality_logits", "distances", "coefficients")
    assert left_out == {f"head.{name}.weight" for name in predictions} | {"protonet.prototypes.weight"}
    given = [p for group in groups for p in group["params"]]
    assert len(given) == len(set(given)) == sum(p.requires_grad for p in model.parameters())


def test_muon_equals_the_slow_loop_and_adamw_elsewhere() -> None:
    network = Network()
    reference = copy.deepcopy(network)
    optimizer = build_optimizer(network, SETTINGS)
    plain = torch.optim.AdamW([{"params": [p], "weight_decay": decay_of(optimizer, p)} for p in reference.parameters()])
    momenta: dict[str, Tensor] = {}
    a, b, c = COEFFICIENTS
    for step, lr in enumerate((1e-3, 7e-4, 2e-4)):
        set_learning_rate(optimizer, lr)
        for model in (network, reference):
            gradients_of(model, step)
        for name in ("tower.0.weight", "tower.2.weight"):  # one matrix at a time, textbook form
            parameter = reference.get_parameter(name)
            assert parameter.grad is not None
            momenta[name] = MOMENTUM * momenta.get(name, torch.zeros(())) + (1 - MOMENTUM) * parameter.grad
            x = ((1 - MOMENTUM) * parameter.grad + MOMENTUM * momenta[name]).flatten(1).double()
            x = x / x.norm()
            for _ in range(5):
                x = a * x + b * (x @ x.T) @ x + c * (x @ x.T) @ (x @ x.T) @ x
            scale = max(1.0, len(x) / x.shape[1]) ** 0.5
            with torch.no_grad():
                parameter -= 10 * lr * scale * x.reshape(parameter.shape).float()
            parameter.grad = None
        for group in plain.param_groups:
            group["lr"] = lr
        optimizer.step()
        plain.step()
    for (name, parameter), expected in zip(network.named_parameters(), reference.parameters(), strict=True):
        if name in momenta:
            torch.testing.assert_close(parameter, expected, rtol=1e-5, atol=1e-6)
        else:
            torch.testing.assert_close(parameter, expected, rtol=1e-4, atol=1e-6)


def decay_of(optimizer: torch.optim.Optimizer, parameter: Any) -> float:
    """Return the weight decay of the parameter with this shape and position in the optimizer's network."""
    decays = {tuple(p.shape): float(g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    return decays[tuple(parameter.shape)]


def test_muon_continues_after_load_state_dict() -> None:
    """Torch replaces state and groups there, which the AdamW inside must follow."""
    network = Network()
    optimizer = build_optimizer(network, SETTINGS)
    gradients_of(network, 0)
    optimizer.step()
    other = copy.deepcopy(network)
    resumed = build_optimizer(other, SETTINGS)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for model, of_model in ((network, optimizer), (other, resumed)):
        gradients_of(model, 1)
        of_model.step()
    for parameter, expected in zip(other.parameters(), network.parameters(), strict=True):
        assert torch.equal(parameter, expected)


def test_muon_leaves_parameters_without_gradients() -> None:
    network = Network()
    optimizer = build_optimizer(network, SETTINGS)
    gradients_of(network, 0)
    for parameter in network.tower.parameters():
        parameter.grad = None
    before = copy.deepcopy(network.tower.state_dict())
    optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in network.tower.state_dict().items())
