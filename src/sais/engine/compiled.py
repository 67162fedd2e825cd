"""Training with `torch.compile`, by the option `run.compile`: the network, and the loss of all locations and classes.

The other losses are those of the positive locations, whose number differs in each step. They stay as they are.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from sais.config import Experiment
from sais.converters.for_device import check_compiler
from sais.engine.hardware import has_fixed_canvas
from sais.modeling.criterion import Criterion, SaisCriterion

BACKEND = "inductor"
"""Backend of `torch.compile`."""


def compile_training(model: nn.Module, criterion: Criterion, experiment: Experiment, device: torch.device) -> Criterion:
    """Compile a network in place; it keeps its names, and its copies are not compiled.

    Args:
        model: network that `for_training` returned.
        criterion: training objective of its architecture.
        experiment: settings of the run.
        device: device it trains on.

    Returns:
        The criterion, with a compiled classification loss if it is SAIS's own.

    Raises:
        MissingDependencyError: there is no compiler.
    """
    check_compiler(device.type)
    # Changing shapes are compiled once for all of them, fixed ones for these alone.
    options: dict[str, Any] = {"backend": BACKEND, "dynamic": False if has_fixed_canvas(experiment) else None}
    model.compile(**options)
    if isinstance(criterion, SaisCriterion):
        return replace(criterion, classification_loss=torch.compile(criterion.classification_loss, **options))
    return criterion
