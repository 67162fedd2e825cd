"""Functions with a gradient of their own have no second derivative: asking for it is an error, not a wrong number.

`torch.autograd.function.once_differentiable` raises only where the incoming gradient requires a gradient. A penalty on
the gradient of a sum of losses would silently lack the terms of these functions.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sais.errors import ConfigError


class _Refusal(torch.autograd.Function):
    """Return a gradient unchanged; its own derivative raises an error."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, name: str) -> Tensor:
        ctx.name = name
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None]:
        raise ConfigError(
            f"{ctx.name}: its second derivative is not implemented. Differentiate twice only functions of torch's own "
            "operations."
        )


def first_derivative(gradient: Tensor, name: str) -> Tensor:
    """Return a gradient of any shape that cannot be differentiated again.

    Args:
        gradient: gradient that the backward of an autograd function returns.
        name: what has this gradient, for the error message.
    """
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():  # enabled in backward with create_graph only
        return gradient
    refusal: Tensor = _Refusal.apply(gradient.detach().requires_grad_(), name)
    return refusal
