"""ProtoNet: P3 -> K prototype maps at stride 4. Every mask is a weighted sum of them."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

from sais.modeling.head import group_norm


class ProtoNet(nn.Module):
    """3x3 convolutions, bilinear x2, one more 3x3, one 1x1; ReLU after each (Figure 1, as in YOLACT).

    Args:
        in_channels: channels of P3.
        channels: channels of the convolutions.
        prototypes: number of prototypes K.
        depth: 3x3 convolutions before the upsampling.
        norm: normalization between each 3x3 convolution and its ReLU, "none" or "group".
    """

    def __init__(
        self, in_channels: int = 256, channels: int = 256, prototypes: int = 32, depth: int = 3, norm: str = "none"
    ) -> None:
        super().__init__()
        widths = [in_channels] + [channels] * depth
        self.before = nn.Sequential(*(_convolution(a, b, norm) for a, b in pairwise(widths)))
        self.after = _convolution(widths[-1], channels, norm)
        self.prototypes = nn.Conv2d(channels, prototypes, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, p3: Tensor) -> Tensor:
        """(B, in_channels, H / 8, W / 8) -> (B, K, H / 4, W / 4), not negative."""
        return functional.relu(self.prototypes(self.after(upsample(self.before(p3)))))


def upsample(maps: Tensor) -> Tensor:
    """(B, channels, h, w) -> (B, channels, 2 h, 2 w), bilinear."""
    return functional.interpolate(maps, scale_factor=2, mode="bilinear", align_corners=False)


def _convolution(in_channels: int, channels: int, norm: str) -> nn.Sequential:
    convolution = nn.Conv2d(in_channels, channels, 3, padding=1, bias=norm == "none")
    norms = [group_norm(channels, "prototype_channels")] if norm == "group" else []
    return nn.Sequential(convolution, *norms, nn.ReLU(inplace=True))
