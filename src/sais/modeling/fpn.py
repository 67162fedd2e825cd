"""The feature pyramid: C3, C4, C5 -> P3 .. P7, all of one width (Figure 1)."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7


class FPN(nn.Module):
    """torchvision's pyramid with P6 and P7 from stride-2 convolutions starting at P5, with a ReLU before P7.

    Args:
        in_channels: channels of C3, C4, C5.
        channels: channels of P3 .. P7.
    """

    def __init__(self, in_channels: tuple[int, int, int], channels: int = 256) -> None:
        super().__init__()
        self.pyramid = FeaturePyramidNetwork(list(in_channels), channels)
        self.last_levels = LastLevelP6P7(channels, channels)
        self.last_levels.use_P5 = True

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """[C3, C4, C5] (B, ., h, w) -> [P3 .. P7] (B, channels, H / stride, W / stride)."""
        names = ["3", "4", "5"]
        merged = self.pyramid(dict(zip(names, maps, strict=True)))
        levels, _ = self.last_levels(list(merged.values()), maps, names)
        return list(levels)
