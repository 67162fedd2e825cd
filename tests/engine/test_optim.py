"""Parameter groups, learning rate schedules and the moving average, compared with values computed by hand."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sais.config import Experiment, ModelConfig, OptimConfig, ScheduleConfig
from sais.engine.optim import (
    MovingAverage,
    build_optimizer,
    learning_rate,
    parameter_groups,
    set_learning_rate,
)
from sais.errors import ConfigError
from sais.modeling.sais import build_model


class Small(nn.Module):
    """A frozen stem, a backbone, a head with both kinds of norm."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4))
        self.backbone[0].requires_grad_(False)
        self.head = nn.Sequential(nn.Conv2d(4, 4, 1), nn.GroupNorm(2, 4))
        self.scale = nn.Parameter(torch.ones(()))


def factor_and_decay(groups: list[dict[str, Any]], parameter: nn.Parameter) -> tuple[float, float]:
    """Return (factor, decay) of the only group that contains the parameter."""
    (values,) = [(g["factor"], g["weight_decay"]) for g in groups for p in g["params"] if p is parameter]
    return values


def test_parameter_groups_of_sgd_are_those_of_the_paper() -> None:
    """Convolution biases have twice the rate and no decay, norm layers are like weights, frozen ones are left out."""
    model = Small()
    groups = parameter_groups(model, OptimConfig())
    conv, norm = model.head[0], model.head[1]
    assert factor_and_decay(groups, conv.weight) == (1.0, 1e-4)
    assert factor_and_decay(groups, conv.bias) == (2.0, 0.0)
    assert factor_and_decay(groups, norm.weight) == (1.0, 1e-4)
    assert factor_and_decay(groups, norm.bias) == (1.0, 1e-4)
    assert factor_and_decay(groups, model.backbone[2].bias) == (1.0, 1e-4)
    assert factor_and_decay(groups, model.scale) == (1.0, 1e-4)
    given = {id(p) for g in groups for p in g["params"]}
    assert given == {id(p) for p in model.parameters() if p.requires_grad}


def test_parameter_groups_of_adamw_do_not_decay_norms() -> None:
    model = Small()
    settings = OptimConfig(name="adamw", weight_decay=0.05, bias_lr_factor=1.0, backbone_lr_factor=0.3)
    groups = parameter_groups(model, settings)
    assert factor_and_decay(groups, model.head[0].weight) == (1.0, 0.05)
    assert factor_and_decay(groups, model.head[0].bias) == (1.0, 0.0)
    assert factor_and_decay(groups, model.head[1].weight) == (1.0, 0.0)
    assert factor_and_decay(groups, model.backbone[1].weight) == (0.3, 0.05)
    assert factor_and_decay(groups, model.backbone[2].weight) == (0.3, 0.0)


def test_parameter_groups_contain_every_trained_parameter_once(tiny: Experiment) -> None:
    model = build_model(tiny.model, 3)
    given = [p for group in parameter_groups(model, tiny.optim) for p in group["params"]]
    assert len(given) == len({id(p) for p in given}) == sum(p.requires_grad for p in model.parameters())
    assert len(given) < len(list(model.parameters()))  # stem, C2 and batch-norm are frozen
    free = build_model(ModelConfig(**{**vars(tiny.model), "pretrained": False}), 3)
    assert all(p.requires_grad for p in free.parameters())


@pytest.mark.parametrize(("name", "kind"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)])
def test_build_optimizer_returns_the_named_optimizer(name: str, kind: type) -> None:
    optimizer = build_optimizer(Small(), OptimConfig(name=name))
    assert isinstance(optimizer, kind)
    set_learning_rate(optimizer, 0.5)
    assert {group["lr"] for group in optimizer.param_groups} == {0.5, 1.0}
    if name == "sgd":
        assert {group["momentum"] for group in optimizer.param_groups} == {0.9}


def test_learning_rate_of_the_paper() -> None:
    """12 epochs of 7330 iterations: 0.01 / 3 for 500 iterations, then 0.01, divided by 10 after epochs 8 and 11."""
    per_epoch, schedule = 7330, ScheduleConfig()
    for iteration, wanted in [
        (0, 0.01 / 3),
        (499, 0.01 / 3),
        (500, 0.01),
        (8 * per_epoch - 1, 0.01),
        (8 * per_epoch, 0.001),
        (11 * per_epoch - 1, 0.001),
        (11 * per_epoch, 0.0001),
        (12 * per_epoch - 1, 0.0001),
    ]:
        assert learning_rate(iteration, per_epoch, 0.01, schedule) == pytest.approx(wanted, rel=1e-12)


def test_learning_rate_warms_up_for_at_most_a_tenth_of_a_short_run() -> None:
    schedule = ScheduleConfig(epochs=10, milestones=())
    rates = [learning_rate(i, 20, 1.0, schedule) for i in range(200)]
    assert rates == pytest.approx([1 / 3] * 20 + [1.0] * 180)
    assert learning_rate(0, 1, 1.0, ScheduleConfig(epochs=1, milestones=())) == 1.0  # a single step has no warm-up


def test_learning_rate_with_linear_warm_up_and_cosine_schedule() -> None:
    schedule = ScheduleConfig(epochs=10, kind="cosine", warmup=10, warmup_factor=0.1, warmup_kind="linear")
    rates = [learning_rate(i, 20, 2.0, schedule) for i in range(200)]
    for i, rate in enumerate(rates):
        cosine = 0.5 * (1 + math.cos(math.pi * i / 200))
        assert rate == pytest.approx(2.0 * cosine * (0.1 + 0.9 * min(1, i / 10)))
    assert rates[0] == pytest.approx(0.2)
    assert rates[100] == pytest.approx(1.0)
    assert 0 < rates[-1] < 2.0 * 1e-4
    assert learning_rate(200, 20, 2.0, schedule) == pytest.approx(0, abs=1e-12)


def test_moving_average_equals_values_computed_by_hand() -> None:
    """average <- d average + (1 - d) weight, d = min(decay, (1 + n) / (10 + n)) at the nth update."""
    model = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1))
    model[0].bias.requires_grad_(False)
    with torch.no_grad():
        model[0].weight.fill_(0.0)
        model[0].bias.fill_(7.0)
    average = MovingAverage(model, 0.3)
    wanted = 0.0
    for n, value in enumerate([1.0, -2.0, 5.0, 3.0, 8.0, -1.0], start=1):
        with torch.no_grad():
            model[0].weight.fill_(value)
            model[1].running_mean.fill_(10 * value)
            model[1].num_batches_tracked.fill_(n)
        average.update(model)
        decay = min(0.3, (1 + n) / (10 + n))
        wanted = decay * wanted + (1 - decay) * value
        assert average.model[0].weight.item() == pytest.approx(wanted, rel=1e-5)  # type: ignore[index]
    assert average.updates == 6
    inner = average.model
    assert inner[0].bias.item() == 7.0  # type: ignore[index]
    assert inner[1].running_mean.item() == -10.0  # type: ignore[index]
    assert inner[1].num_batches_tracked.item() == 6  # type: ignore[index]
    assert not inner.training
    assert not any(p.requires_grad for p in inner.parameters())
    assert model[0].weight.item() == -1.0  # the model itself is unchanged


def test_parameter_groups_apply_layer_decay_per_stage() -> None:
    model = build_model(ModelConfig(channels=64, prototype_channels=16, frozen_stages=0), 3)
    groups = parameter_groups(model, OptimConfig(backbone_lr_factor=0.5, layer_decay=0.8))
    network = model.backbone.network
    for name, stage in (("layer4", 1), ("layer3", 2), ("layer2", 3), ("layer1", 4), ("conv1", 4)):
        weight = next(p for n, p in network.named_parameters() if n.startswith(name) and p.requires_grad)
        assert factor_and_decay(groups, weight)[0] == pytest.approx(0.5 * 0.8**stage), name
    assert factor_and_decay(groups, model.head.class_logits.weight)[0] == 1.0
    plain = parameter_groups(model, OptimConfig(backbone_lr_factor=0.5))
    assert {g["factor"] for g in plain} == {0.5, 1.0, 2.0}


def test_build_optimizer_is_torch_default_on_a_cpu() -> None:
    for name in ("sgd", "adamw"):
        optimizer = build_optimizer(Small(), OptimConfig(name=name))
        assert {group["fused"] for group in optimizer.param_groups} == {None}


def test_build_optimizer_gives_fused_optimizers_gradients_of_equal_strides() -> None:
    """Strides of a 1x1 kernel are ambiguous: its gradient may have those of another layout."""
    parameter = nn.Parameter(torch.arange(12.0).as_strided((4, 3, 1, 1), (3, 1, 3, 3)))
    gradient = torch.arange(12.0).add(1).as_strided((4, 3, 1, 1), (3, 1, 1, 1))
    for fused in (None, True):
        model = nn.ParameterList([parameter])
        optimizer = build_optimizer(model, OptimConfig(name="adamw"))
        optimizer.param_groups[0]["fused"] = fused
        parameter.grad = gradient
        assert parameter.stride() != gradient.stride()
        optimizer.step()
        assert (parameter.grad.stride() == parameter.stride()) == bool(fused)
        assert torch.equal(parameter.grad, gradient)
        assert parameter.grad.data_ptr() == gradient.data_ptr()
        assert {state["exp_avg"].stride() for state in optimizer.state.values()} == {parameter.stride()}


OWN = """
import torch


def rmsprop(groups, config):
    return torch.optim.RMSprop(groups, lr=config.lr)


def nothing(groups, config):
    pass


def linear(iteration, per_epoch, lr, config):
    return lr * (1 - iteration / (config.epochs * per_epoch))
"""


def test_build_optimizer_and_learning_rate_resolve_functions_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_optim.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_optim", raising=False)
    assert isinstance(build_optimizer(Small(), OptimConfig(name="own_optim:rmsprop")), torch.optim.RMSprop)
    schedule = ScheduleConfig(epochs=2, kind="own_optim:linear", warmup=0)
    assert learning_rate(5, 10, 1.0, schedule) == 0.75
    with pytest.raises(ConfigError, match=r"nothing': returns NoneType\. Return a torch\.optim\.Optimizer\."):
        build_optimizer(Small(), OptimConfig(name="own_optim:nothing"))
    with pytest.raises(ConfigError, match="did you mean 'adamw'"):
        build_optimizer(Small(), OptimConfig(name="adam"))
    with pytest.raises(ConfigError, match="schedule 'cosinus': unknown"):
        learning_rate(0, 10, 1.0, ScheduleConfig(kind="cosinus"))
