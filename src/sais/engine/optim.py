"""The optimizer's parameter groups, the course of the learning rate, and the moving average of the weights."""

from __future__ import annotations

import contextlib
import copy
import math
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sais.config import OptimConfig, ScheduleConfig
from sais.errors import SaisError
from sais.modeling.backbones import Backbone, parameters_through

Model = TypeVar("Model", bound=nn.Module)

NORMS = (_BatchNorm, nn.GroupNorm, nn.LayerNorm)


def parameter_groups(model: nn.Module, config: OptimConfig) -> list[dict[str, object]]:
    """Groups with a `factor` on the learning rate and their own decay.

    Convolution biases learn at `bias_lr_factor` without decay, everything in `model.backbone` at `backbone_lr_factor`
    times `layer_decay` for its own stage and each one above; frozen parameters are left out. Norm layers are treated as
    weights, as the paper's detector does, except that AdamW, whose decay is far stronger, spares them.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    backbone = getattr(model, "backbone", None)
    heights = stages_from_the_top(backbone) if isinstance(backbone, Backbone) else {}
    for module_name, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            factor, decay = 1.0, config.weight_decay
            if module_name.startswith("backbone."):
                factor *= config.backbone_lr_factor * config.layer_decay ** heights.get(parameter, 0)
            if isinstance(module, NORMS):
                decay = 0.0 if config.name == "adamw" else decay
            elif name == "bias":
                factor *= config.bias_lr_factor
                decay = 0.0
            groups.setdefault((factor, decay), []).append(parameter)
    return [{"params": p, "factor": factor, "weight_decay": decay} for (factor, decay), p in groups.items()]


def stages_from_the_top(backbone: Backbone) -> dict[nn.Parameter, int]:
    """For each parameter of a backbone the number of its stage, from 1 for the last one downwards. A stem that is no
    stage of its own counts with the first."""
    info: Any = backbone.network.feature_info
    names = list(info.module_name())
    heights = dict.fromkeys(backbone.parameters(), 1)
    for height, name in enumerate(reversed(names), start=1):
        with contextlib.suppress(SaisError):  # an activation, without parameters
            for parameter in parameters_through(backbone.network, name):
                heights[parameter] = height
    return heights


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """SGD with momentum (the paper) or AdamW over `parameter_groups`."""
    groups = parameter_groups(model, config)
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, weight_decay=config.weight_decay)
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay)


def learning_rate(iteration: int, per_epoch: int, lr: float, config: ScheduleConfig) -> float:
    """The learning rate of an iteration (counted from 0), before the groups' factors."""
    total = max(1, config.epochs * per_epoch)
    warmup = min(config.warmup, total // 10)
    if config.kind == "cosine":
        lr *= 0.5 * (1 + math.cos(math.pi * min(1.0, iteration / total)))
    else:
        lr *= config.gamma ** sum(iteration >= step * per_epoch for step in config.milestones)
    if iteration < warmup:
        share = iteration / warmup if config.warmup_kind == "linear" else 0.0
        lr *= config.warmup_factor + (1 - config.warmup_factor) * share
    return lr


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group its share of `lr`."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["factor"]


class MovingAverage(Generic[Model]):
    """An exponential moving average of a model's trained weights; what is frozen or counted is copied.

    Args:
        model: the model in training.
        decay: share of the average that each update keeps; less in the first updates, so that the average does not
            remember the random start.
    """

    def __init__(self, model: Model, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, model: Model) -> None:
        """Take one step towards the weights of `model`."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        averaged: list[Tensor] = []
        current: list[Tensor] = []
        for average, parameter in zip(self.model.parameters(), model.parameters(), strict=True):
            if parameter.requires_grad:
                averaged.append(average)
                current.append(parameter.detach())
        torch._foreach_lerp_(averaged, current, 1 - decay)
        for kept, buffer in zip(self.model.buffers(), model.buffers(), strict=True):
            kept.copy_(buffer)
