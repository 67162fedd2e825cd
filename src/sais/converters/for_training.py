"""Prepare a network for training on a device: one call of the engine.

Frozen batch-norm is folded, weights get the memory layout in which the device is faster, convolutions and activation
checkpointing follow the settings. Names and shapes of the state dict stay the same.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from sais.config import Experiment
from sais.modeling.backbones import Backbone
from sais.modeling.sais import SAIS


def for_training(model: nn.Module, experiment: Experiment, device: torch.device) -> nn.Module:
    """Move a network to its device and rewrite it for training, in place.

    Networks of other architectures than SAIS keep their layers and layout: only frozen batch-norm of a `Backbone` is
    folded, and strided convolutions are guarded in half precision on a CPU.

    Args:
        model: network as `Architecture.build` returns it, with or without weights.
        experiment: settings of the run.
        device: device it trains on.

    Returns:
        The network.

    Raises:
        ConfigError: activation checkpointing "all" with a backbone that does not consist of stages.
    """
    model.to(device)
    settings, run = experiment.model, experiment.run
    backbone = getattr(model, "backbone", None)
    if isinstance(backbone, Backbone) and settings.pretrained and settings.frozen_batch_norm:
        from sais.converters.frozen_batch_norm import fold_frozen_batch_norms

        fold_frozen_batch_norms(backbone.network)
    if isinstance(model, SAIS):
        model.to(memory_format=torch.channels_last)
    if device.type == "cpu":
        from sais.converters.cpu.for_training import for_cpu_training

        for_cpu_training(model, run.cpu_convolutions, run.precision, experiment.input.size)
    elif device.type == "cuda" and isinstance(model, SAIS) and not run.compile:  # a compiler keeps the layout itself
        from sais.converters.gpu.group_norm import keep_layout_in_group_norms

        keep_layout_in_group_norms(model)
    if isinstance(model, SAIS):
        from sais.converters.activation_checkpointing import apply_activation_checkpointing

        apply_activation_checkpointing(model, run.activation_checkpointing)
    return model


def changes_buffers(model: nn.Module) -> bool:
    """Return whether training may change buffers of a network: statistics of batch-norm, or any of foreign modules."""
    if not isinstance(model, SAIS):
        return True
    frozen = {
        module
        for module in model.backbone.modules()
        if isinstance(module, _BatchNorm) and not any(parameter.requires_grad for parameter in module.parameters())
    }
    with_buffers = [module for module in model.modules() if next(module.buffers(recurse=False), None) is not None]
    return any(not type(module).__module__.startswith("sais.") for module in with_buffers if module not in frozen)
