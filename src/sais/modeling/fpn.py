"""The feature pyramid: C3, C4, C5 -> P3 .. P7, all of one width (Figure 1)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional
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
        pyramid = self.pyramid
        merged = pyramid.inner_blocks[-1](maps[-1])
        levels = [pyramid.layer_blocks[-1](self._laid_out(merged))]
        for lateral, last, each in zip(
            reversed(pyramid.inner_blocks[:-1]), reversed(pyramid.layer_blocks[:-1]), reversed(maps[:-1]), strict=True
        ):
            beside = lateral(each)
            merged = beside + functional.interpolate(merged, size=beside.shape[-2:], mode="nearest")
            levels.insert(0, last(self._laid_out(merged)))
        levels, _ = self.last_levels(levels, maps, list("345"))
        return list(levels)

    def _laid_out(self, maps: Tensor) -> Tensor:
        """Maps lie as the weights do (`sais.set_convolutions`). Here, and not before the 1x1 convolutions, which would
        keep a second copy of the backbone's maps for backward."""
        return maps.contiguous() if self.last_levels.p6.weight.is_contiguous() else maps
