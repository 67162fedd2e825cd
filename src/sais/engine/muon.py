"""Muon: momentum whose update of a convolution is orthogonalized, so that all its directions learn at one rate.

Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024). The weight of a convolution is a matrix
of its output channels and everything else. The first singular values of its momentum are usually many times the others;
with the singular values of the update near 1, rare directions are learned too. Layers without such a matrix, and those
whose scale matters (predictions, norms, biases, a pretrained backbone), are updated by AdamW.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

MOMENTUM = 0.95
"""Decay of Muon's momentum, that of its authors."""
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Coefficients a, b, c of the iteration X <- a X + b (X X') X + c (X X')^2 X, those of its authors: five repetitions
bring singular values from 1 down to 0.005 into 0.7 to 1.2."""
REPETITIONS = 5


class MuonAdamW(torch.optim.Optimizer):
    """Muon for the parameter groups whose "muon" is true, AdamW for the others.

    Args:
        groups: parameter groups with "muon", "factor" and "weight_decay"; parameters of Muon have at least two
            dimensions and are not decayed.
        lr: learning rate before the factors of the groups.
        fused: passed to `torch.optim.AdamW`.
    """

    def __init__(self, groups: list[dict[str, Any]], lr: float, fused: bool | None = None) -> None:
        super().__init__(groups, {"lr": lr})
        others = [group for group in self.param_groups if not group["muon"]]
        self.adamw = torch.optim.AdamW(others, lr=lr, fused=fused) if others else None

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update all parameters that have gradients; return what `closure` returns, as torch's optimizers do."""
        result = None
        if closure is not None:
            with torch.enable_grad():
                result = closure()
        for group in self.param_groups:
            if group["muon"]:
                self._update(group)
        if self.adamw is not None:  # state and groups are this optimizer's, also after `load_state_dict`
            self.adamw.state = self.state
            self.adamw.param_groups = [group for group in self.param_groups if not group["muon"]]
            self.adamw.step()
        return result

    def _update(self, group: dict[str, Any]) -> None:
        """Update the parameters (any shape) of a group, those of one shape together: small products are slow."""
        by_shape: dict[tuple[torch.Size, torch.dtype], list[tuple[Tensor, Tensor]]] = {}
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            if not state:
                state["momentum_buffer"] = torch.zeros_like(parameter)
            momentum: Tensor = state["momentum_buffer"].lerp_(parameter.grad, 1 - MOMENTUM)
            direction = parameter.grad.lerp(momentum, MOMENTUM).flatten(1)  # Nesterov
            by_shape.setdefault((direction.shape, direction.dtype), []).append((parameter, direction))
        for (shape, _), pairs in by_shape.items():
            updates = orthogonalize(torch.stack([direction for _, direction in pairs]))
            rate = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
            for (parameter, _), update in zip(pairs, updates, strict=True):
                parameter.add_(update.view(parameter.shape), alpha=-rate)


def orthogonalize(matrices: Tensor) -> Tensor:
    """Bring the singular values of matrices near 1 without changing their singular vectors (Newton-Schulz iteration).

    Args:
        matrices: (N, rows, columns) float.

    Returns:
        (N, rows, columns), singular values 0.7 to 1.2, but smaller where they were below 0.005 of the Frobenius norm; a
        matrix of zeros stays one.
    """
    a, b, c = COEFFICIENTS
    x = matrices / matrices.norm(dim=(1, 2), keepdim=True).clamp(min=torch.finfo(matrices.dtype).tiny)
    is_tall = x.shape[1] > x.shape[2]  # the smaller square product
    x = x.mT if is_tall else x
    for _ in range(REPETITIONS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if is_tall else x
