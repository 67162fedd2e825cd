"""ProtoNet: P3 -> K prototype maps at stride 4, from which every mask is a weighted sum."""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from sais.converters.activation_checkpointing import checkpointed
from sais.converters.cpu.training_convolution import is_fast_convolution


class ProtoNet(nn.Module):
    """3x3 convolutions, bilinear x2, one more 3x3, one 1x1; ReLU after each (Figure 1, as in YOLACT).

    Args:
        in_channels: of P3.
        channels: inside.
        prototypes: K.
        depth: 3x3 convolutions before the upsampling.
    """

    def __init__(self, in_channels: int = 256, channels: int = 256, prototypes: int = 32, depth: int = 3) -> None:
        super().__init__()
        self.recompute = "none"
        """What of it is made again in backward: `recompute.KINDS`. No choice changes a result."""
        widths = [in_channels] + [channels] * depth
        self.before = nn.Sequential(*(_convolution(a, b) for a, b in pairwise(widths)))
        self.after = _convolution(widths[-1], channels)
        self.prototypes = nn.Conv2d(channels, prototypes, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, p3: Tensor) -> Tensor:
        """(B, in_channels, H / 8, W / 8) -> (B, K, H / 4, W / 4), not negative."""
        kind = self.recompute if self.training and torch.is_grad_enabled() else "none"
        if kind == "all":
            return functional.relu(checkpointed(self._sums, p3, within=self))
        features = self.before(p3)
        doubled = (
            checkpointed(self._doubled, features, within=self.after) if kind == "norms" else self._doubled(features)
        )
        return functional.relu(self.prototypes(self.after[1](doubled)))

    def _sums(self, p3: Tensor) -> Tensor:
        """What the prototypes are before their ReLU."""
        sums: Tensor = self.prototypes(self.after[1](self._doubled(self.before(p3))))
        return sums

    def _doubled(self, features: Tensor) -> Tensor:
        """(B, channels, h, w) -> (B, channels, 2 h, 2 w), and the convolution behind."""
        larger = functional.interpolate(features, scale_factor=2, mode="bilinear", align_corners=False)
        on_a_cpu = larger.device.type == "cpu" and larger.dtype == torch.float32
        convolution = cast(nn.Conv2d, self.after[0])
        if is_fast_convolution(convolution) or not (on_a_cpu and self.training and torch.is_grad_enabled()):
            convolved: Tensor = convolution(larger)
            return convolved
        # The gradient of the weights takes oneDNN up to five times as long on channels-last maps of this size.
        weight = convolution.weight.contiguous()
        convolved = functional.conv2d(larger.contiguous(), weight, convolution.bias, padding=1)
        return convolved.contiguous(memory_format=torch.channels_last)


def _convolution(in_channels: int, channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_channels, channels, 3, padding=1), nn.ReLU(inplace=True))
