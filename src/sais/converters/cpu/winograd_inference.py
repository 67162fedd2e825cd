"""3x3 convolutions in inference by minimal filtering (`winograd`), in one of two ways:

- Large maps: NNPACK, which torch includes but does not choose by itself, with tiles of 6 x 6 outputs.
- Small maps: NNPACK would spend most of its time transforming the weights in each pass. Here they are transformed once,
  and the tiles of all levels of a pyramid share one batched matrix product.

Results differ from those of direct sums by about 1e-5 of the largest output. Times are in `docs/performance.md`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from sais.converters.cpu.winograd import convolve_levels, is_faster, transformed_weight
from sais.modeling.sais import SAIS

Network = TypeVar("Network", bound=nn.Module)

HAS_NNPACK = torch.backends.nnpack.is_available()
"""Whether torch includes NNPACK. The call initializes it, which every process must do before using it."""

MIN_CHANNELS = 128
"""Minimum number of input and output channels; with fewer, the transforms cost more than they save."""
LARGE = 50 * 50
"""Cells of a map from which on NNPACK is faster."""
STRIP = 128 * 128
"""Cells per call of NNPACK: its working memory is twice that of the map, so larger maps are split into strips."""
MIN_JOINT_CHANNELS = 256
"""Minimum number of channels for the joint matrix product; with fewer, it is too small to be faster."""


def nnpack_is_faster() -> bool:
    """Return whether torch includes NNPACK and the kind of processor is one on which it was measured to be faster."""
    return HAS_NNPACK and is_faster()


def for_cpu_inference(prepared: Network) -> Network:
    """Return a copy of a prepared SAIS whose convolutions are faster on this CPU; the network itself if none are."""
    if not isinstance(prepared, SAIS) or not nnpack_is_faster():
        return prepared
    network = copy.deepcopy(prepared)
    for part in (network.fpn, network.head, network.protonet):
        if part is not None:
            with_winograd(part)
    return network


def with_winograd(network: nn.Module) -> nn.Module:
    """Replace each convolution for which it is faster, in place; returns the network."""
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.Conv2d) and _is_supported(module):
            parent, _, child = name.rpartition(".")
            setattr(network.get_submodule(parent), child, WinogradConvolution(module))
    return network


class WinogradConvolution(nn.Module):
    """A 3x3 convolution with stride 1 and padding 1, computed in the way that is fastest for the map's size.

    Args:
        convolution: convolution whose weights it takes, float32 on the CPU.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.weight = nn.Parameter(convolution.weight.detach().clone(memory_format=torch.contiguous_format), False)
        bias = convolution.bias
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), False)
        self._transformed: Tensor | None = None  # (36, out, in), computed by the first call with small maps

    def forward(self, maps: Tensor) -> Tensor:
        """(B, in, h, w) -> (B, out, h, w); torch computes maps that are not float32 on the CPU."""
        large = maps.shape[2] * maps.shape[3] >= LARGE
        if not (large and HAS_NNPACK and len(maps) and maps.dtype == torch.float32 and maps.device.type == "cpu"):
            return functional.conv2d(maps, self.weight, self.bias, padding=1)
        images = [_in_strips(image, self.weight, self.bias) for image in maps.split(1)]  # faster than all at once
        return images[0] if len(images) == 1 else torch.cat(images)

    def convolve_levels(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """Convolve maps (B, in, h, w) of different sizes -> (B, out, h, w) each, the small ones in one product."""
        small = [i for i, maps in enumerate(levels) if maps.shape[2] * maps.shape[3] < LARGE]
        # The joint product records no gradients; those of the images may be asked for.
        learns = torch.is_grad_enabled() and any(maps.requires_grad for maps in levels)
        if learns or len(small) < 2 or min(self.weight.shape[:2]) < MIN_JOINT_CHANNELS:
            return [self(maps) for maps in levels]
        if self._transformed is None:
            transposed = transformed_weight(self.weight).transpose(1, 2).contiguous()
            self._transformed = transposed.transpose(1, 2)  # in this layout the product reads it row by row
        joint = convolve_levels([levels[i] for i in small], self._transformed, self.bias)
        results = dict(zip(small, joint, strict=True))
        return [results[i] if i in results else self(maps) for i, maps in enumerate(levels)]


def _in_strips(maps: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Convolve one image's map (1, in, h, w) with NNPACK -> (1, out, h, w)."""
    height, width = maps.shape[2:]
    if height * width <= STRIP:
        return _nnpack(maps, weight, bias)
    rows = max(6, STRIP // width // 6 * 6)  # NNPACK's tiles have 6 x 6 outputs
    out = maps.new_empty(1, weight.shape[0], height, width)
    for first in range(0, height, rows):
        last = min(first + rows, height)
        above, below = min(first, 1), min(height - last, 1)  # one row of the neighboring strips
        strip = _nnpack(maps[:, :, first - above : last + below], weight, bias)
        out[:, :, first:last] = strip[:, :, above : above + last - first]
    return out


def _nnpack(maps: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    out: Tensor = torch._nnpack_spatial_convolution(maps.contiguous(), weight, bias, padding=1)
    return out


def _is_supported(convolution: nn.Conv2d) -> bool:
    c = convolution
    plain = (c.kernel_size, c.stride, c.padding, c.dilation, c.groups) == ((3, 3), (1, 1), (1, 1), (1, 1), 1)
    return plain and min(c.in_channels, c.out_channels) >= MIN_CHANNELS
