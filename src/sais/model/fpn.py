"""The feature pyramid: C3, C4, C5 -> P3 .. P7, all of one width (Figure 1)."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from sais.structures import STRIDES

__all__ = ["FPN", "STRIDES"]


class FPN(nn.Module):
    """torchvision's pyramid with P6 and P7 by stride-2 convolutions starting from P5, ReLU before P7.

    Args:
        in_channels: of C3, C4, C5.
        channels: of every level that comes out.
    """

    def __init__(self, in_channels: tuple[int, int, int], channels: int = 256) -> None:
        super().__init__()
        self.pyramid = FeaturePyramidNetwork(list(in_channels), channels)
        self.last_levels = LastLevelP6P7(channels, channels)
        self.last_levels.use_P5 = True

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """[C3, C4, C5] (B, ., h, w) -> [P3 .. P7] (B, channels, H / stride, W / stride)."""
        if self.last_levels.p6.weight.is_contiguous():  # maps lie as the weights do (`sais.set_layout`)
            maps = [each.contiguous() for each in maps]
        levels = list(self.pyramid(OrderedDict(zip("345", maps, strict=True))).values())
        levels, _ = self.last_levels(levels, maps, list("345"))
        return list(levels)
