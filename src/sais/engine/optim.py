"""Optimizers, learning rate schedules, and the moving average of the weights."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sais.config import OptimConfig, ScheduleConfig
from sais.errors import ConfigError, SaisError
from sais.modeling.backbones import Backbone, parameters_through
from sais.resolve import resolve

Model = TypeVar("Model", bound=nn.Module)
ParameterGroup = dict[str, Any]
OptimizerBuilder = Callable[[list[ParameterGroup], OptimConfig], torch.optim.Optimizer]
"""(parameter groups, settings) -> optimizer; the groups have a `weight_decay` of their own."""
Schedule = Callable[[int, int, float, ScheduleConfig], float]
"""(iteration from 0, iterations per epoch, initial learning rate, settings) -> learning rate without warm-up."""

NORMS = (_BatchNorm, nn.GroupNorm, nn.LayerNorm)
PREDICTIONS = ("class_logits", "quality_logits", "distances", "coefficients", "prototypes")
"""Names of the layers whose outputs are predictions; Muon leaves them to AdamW. Use them in a head of your own."""


def parameter_groups(model: nn.Module, config: OptimConfig) -> list[ParameterGroup]:
    """Return the parameter groups of a model, each with its `factor` of the learning rate and its weight decay.

    Convolution biases have `bias_lr_factor` and no decay. All parameters of `model.backbone` have `backbone_lr_factor`
    times `layer_decay` to the power of their stage, counted from the last one. Frozen parameters are left out. Norm
    layers are treated like weights, as in mmdetection's FCOS, but AdamW, whose decay is far stronger, does not decay
    them. With Muon, convolutions outside the backbone that are no predictions are groups with "muon" true,
    `muon_lr_factor` and no decay.
    """
    groups: dict[tuple[float, float, bool], list[nn.Parameter]] = {}
    backbone = getattr(model, "backbone", None)
    stages = stages_from_last(backbone) if isinstance(backbone, Backbone) else {}
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            factor, decay = 1.0, config.weight_decay
            if module_name.startswith("backbone."):
                factor *= config.backbone_lr_factor * config.layer_decay ** stages.get(parameter, 0)
            by_muon = config.name == "muon" and name == "weight" and _is_hidden_convolution(module_name, module)
            if by_muon:
                factor, decay = factor * config.muon_lr_factor, 0.0
            elif isinstance(module, NORMS):
                decay = 0.0 if config.name in ("adamw", "muon") else decay
            elif name == "bias":
                factor *= config.bias_lr_factor
                decay = 0.0
            groups.setdefault((factor, decay, by_muon), []).append(parameter)
    return [
        {"params": parameters, "factor": factor, "weight_decay": decay, "muon": muon}
        for (factor, decay, muon), parameters in groups.items()
    ]


def _is_hidden_convolution(name: str, module: nn.Module) -> bool:
    """Return whether a module is a full convolution outside the backbone that is no prediction."""
    if name.startswith("backbone.") or name.rpartition(".")[2] in PREDICTIONS:
        return False
    return isinstance(module, nn.Conv2d) and module.groups == 1


def stages_from_last(backbone: Backbone) -> dict[nn.Parameter, int]:
    """Return the stage of each parameter of a backbone, counted from 1 for the last stage.

    A stem that is not a stage of its own belongs to the first stage.
    """
    info: Any = backbone.network.feature_info
    names = list(info.module_name())
    stages = dict.fromkeys(backbone.parameters(), 1)
    for stage, name in enumerate(reversed(names), start=1):
        with contextlib.suppress(SaisError):  # an activation, without parameters
            for parameter in parameters_through(backbone.network, name):
                stages[parameter] = stage
    return stages


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """Build the optimizer `config.name`: a row of `OPTIMIZERS` or "module:function".

    Raises:
        ConfigError: no such optimizer, or a function that returns none.
    """
    build: OptimizerBuilder = resolve(config.name, OPTIMIZERS, "optimizer")
    groups = parameter_groups(model, config)
    if config.name not in OPTIMIZERS:
        from sais.callables import check_callable

        check_callable(build, config.name, "optimizer", groups, config)
    optimizer = build(groups, config)
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ConfigError(
            f"optim.name {config.name!r}: returns {type(optimizer).__name__}. Return a torch.optim.Optimizer."
        )
    optimizer.register_step_pre_hook(lambda optimizer, *_: match_gradient_strides(optimizer))
    return optimizer


def _sgd(groups: list[ParameterGroup], config: OptimConfig) -> torch.optim.Optimizer:
    momentum, decay, fused = config.momentum, config.weight_decay, _is_fused(groups)
    return torch.optim.SGD(groups, lr=config.lr, momentum=momentum, weight_decay=decay, fused=fused)


def _adamw(groups: list[ParameterGroup], config: OptimConfig) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=config.lr, weight_decay=config.weight_decay, fused=_is_fused(groups))


def _muon(groups: list[ParameterGroup], config: OptimConfig) -> torch.optim.Optimizer:
    from sais.engine.muon import MuonAdamW  # other optimizers do not load it

    return MuonAdamW(groups, config.lr, _is_fused(groups))


def _is_fused(groups: list[ParameterGroup]) -> bool | None:
    """Return whether one kernel updates many parameters: on CUDA. None: torch's default, which a CPU keeps."""
    parameters = [parameter for group in groups for parameter in group["params"]]
    return True if parameters and all(parameter.device.type == "cuda" for parameter in parameters) else None


OPTIMIZERS: dict[str, OptimizerBuilder] = {"sgd": _sgd, "adamw": _adamw, "muon": _muon}
"""Optimizers by name, for `optim.name`."""


def learning_rate(iteration: int, per_epoch: int, lr: float, config: ScheduleConfig) -> float:
    """Return the learning rate of an iteration, before the factors of the parameter groups.

    Args:
        iteration: number of the iteration, from 0.
        per_epoch: number of iterations per epoch.
        lr: initial learning rate.
        config: schedule and warm-up.

    Raises:
        ConfigError: no schedule is called `config.kind`.
    """
    schedule: Schedule = resolve(config.kind, SCHEDULES, "schedule")
    lr = schedule(iteration, per_epoch, lr, config)
    warmup = min(config.warmup, max(1, config.epochs * per_epoch) // 10)
    if iteration < warmup:
        progress = iteration / warmup if config.warmup_kind == "linear" else 0.0
        lr *= config.warmup_factor + (1 - config.warmup_factor) * progress
    return lr


def _steps(iteration: int, per_epoch: int, lr: float, config: ScheduleConfig) -> float:
    return lr * config.gamma ** sum(iteration >= epoch * per_epoch for epoch in config.milestones)


def _cosine(iteration: int, per_epoch: int, lr: float, config: ScheduleConfig) -> float:
    total = max(1, config.epochs * per_epoch)
    return lr * (0.5 * (1 + math.cos(math.pi * min(1.0, iteration / total))))


SCHEDULES: dict[str, Schedule] = {"steps": _steps, "cosine": _cosine}
"""Learning rate schedules by name, for `schedule.kind`."""


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every parameter group to `lr` times its factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["factor"]


@torch.no_grad()
def match_gradient_strides(optimizer: torch.optim.Optimizer) -> None:
    """Give the gradients of a fused optimizer the strides of their parameters, which it requires.

    Autograd leaves them different in dimensions of size 1, such as those of 1x1 convolutions (pytorch issue 106951).
    """
    for group in optimizer.param_groups:
        for parameter in group["params"] if group.get("fused") else ():
            gradient = parameter.grad
            if gradient is not None and gradient.stride() != parameter.stride():
                parameter.grad = gradient.as_strided(parameter.shape, parameter.stride())


class MovingAverage(Generic[Model]):
    """An exponential moving average of a model's trained weights; frozen weights and buffers are copied.

    Args:
        model: model in training.
        decay: fraction of the average that each update keeps; smaller in the first updates, so that the average
            forgets the initial weights.
    """

    def __init__(self, model: Model, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, model: Model) -> None:
        """Move the average towards the weights of `model`."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        averaged: list[Tensor] = []
        current: list[Tensor] = []
        for average, parameter in zip(self.model.parameters(), model.parameters(), strict=True):
            if parameter.requires_grad:
                averaged.append(average)
                current.append(parameter.detach())
        torch._foreach_lerp_(averaged, current, 1 - decay)
        if buffers := list(model.buffers()):
            torch._foreach_copy_(list(self.model.buffers()), buffers)


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """Return the optimizer's state as tensors (of any shape) named `parameter name/state name`."""
    return {
        f"{name}/{key}": value
        for name, parameter in model.named_parameters()
        if parameter in optimizer.state
        for key, value in optimizer.state[parameter].items()
        if isinstance(value, Tensor)
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Set the optimizer's state to the tensors (of any shape) that `optimizer_tensors` returned."""
    parameters = dict(model.named_parameters())
    on_device = {p for group in optimizer.param_groups if _counts_on_device(group) for p in group["params"]}
    for name, tensor in tensors.items():
        parameter_name, key = name.rsplit("/", 1)
        parameter = parameters[parameter_name]
        # AdamW counts its steps on the CPU, unless it is fused; other state has the layout and device of its parameter.
        if key == "step":
            value = tensor.to(parameter.device if parameter in on_device else "cpu", copy=True)
        else:
            value = torch.empty_like(parameter).copy_(tensor)
        optimizer.state[parameter][key] = value


def _counts_on_device(group: ParameterGroup) -> bool:
    """Return whether the steps of a parameter group are counted on the device of its parameters."""
    return bool(group.get("fused") or group.get("capturable"))
