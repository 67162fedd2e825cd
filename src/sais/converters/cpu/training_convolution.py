"""3x3 convolutions of a network in training, on a CPU in fp32: faster than torch's, where measured to be.

- Large maps: minimal filtering (`winograd`), forward and backward, with a quarter of the multiplications.
- Others (small maps, strides): torch's sums, except for the gradient of the weights, for which oneDNN takes two to six
  times as long on channels-last maps as nine matrix products do.

Any convolution saves the same for backward: its input and its weight. Results differ from torch's by rounding alone:
about 1e-6 of a map's size, which is torch's own error in the gradient of the weights and up to five times its error
elsewhere (`docs/performance.md`).
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from sais.converters.cpu import winograd
from sais.converters.frozen_batch_norm import FusedConvolution
from sais.converters.replacement import original_of, replace_module, share_members
from sais.ops.derivatives import first_derivative

MIN_IN_CHANNELS, MIN_OUT_CHANNELS = 64, 16
"""Minimum numbers of channels; with fewer, transforms and copies cost more than they save."""
MIN_TILES = 72
"""Minimum number of tiles of a batch; with fewer, the transforms of the weights cost more than they save."""
ROWS = 16384
"""Outputs whose inputs are copied at a time for the gradient of the weights."""

Strides = tuple[int, int]
Convolution = nn.Conv2d | FusedConvolution


def use_fast_convolutions(network: nn.Module) -> None:
    """Replace each convolution for which it is faster in training by `FastConvolution`, in place."""
    for name, module in list(network.named_modules()):
        if _is_supported(module):
            replace_module(network, name, FastConvolution(cast(Convolution, module)))


class FastConvolution(nn.Module):
    """A 3x3 convolution with padding 1 that trains faster on a CPU in fp32; in all other cases it is its original.

    Args:
        module: original convolution.
    """

    def __init__(self, module: Convolution) -> None:
        super().__init__()
        share_members(self, module)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, in, h, w) -> (B, out, h / stride, w / stride)."""
        module = cast(Convolution, original_of(self))
        learns = self.training and torch.is_grad_enabled() and (maps.requires_grad or module.weight.requires_grad)
        if not (learns and _is_computed_here(module, maps)):
            outputs: Tensor = module(maps)
            return outputs
        weight, bias = module.folded() if isinstance(module, FusedConvolution) else (module.weight, module.bias)
        return convolution(maps, weight, bias, cast(Strides, tuple(module.stride)))


def convolution(maps: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Strides = (1, 1)) -> Tensor:
    """Convolve with 3x3 kernels and padding 1, with gradients.

    Args:
        maps: (B, in, h, w) float32 (or float64, for tests) on the CPU, B at least 1.
        weight: (out, in, 3, 3).
        bias: (out,).
        stride: vertical and horizontal stride.

    Returns:
        (B, out, h / stride, w / stride), channels-last.
    """
    out: Tensor = _Convolution.apply(maps, weight, bias, stride)
    with torch.no_grad():
        if _by_tiles(maps, stride):
            winograd.convolve(maps.detach(), weight.detach(), None if bias is None else bias.detach(), out.detach())
        else:
            out.detach().copy_(functional.conv2d(maps, weight, bias, stride, padding=1))
    return out


def weight_gradient(maps: Tensor, gradient: Tensor, stride: Strides = (1, 1)) -> Tensor:
    """Compute the weight's gradient (out, in, 3, 3) from maps (B, in, h, w) and the outputs' gradient (B, out, ., .).

    Each of the nine places of the kernel connects every output with one input: one matrix product over all outputs.
    """
    batch, channels_in = maps.shape[:2]
    channels_out, height, width = gradient.shape[1:]
    padded = functional.pad(maps.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    outputs = gradient.permute(0, 2, 3, 1)
    summed = maps.new_zeros(3, 3, channels_out, channels_in)
    at_once = max(1, ROWS // (height * width))
    inputs = maps.new_empty(min(batch, at_once), height, width, channels_in)
    for first in range(0, batch, at_once):
        images = slice(first, min(first + at_once, batch))
        right = outputs[images].reshape(-1, channels_out).T
        chunk = inputs[: images.stop - first]
        for y in range(3):
            for x in range(3):
                rows, columns = slice(y, y + stride[0] * height, stride[0]), slice(x, x + stride[1] * width, stride[1])
                chunk.copy_(padded[images, rows, columns])
                summed[y, x].addmm_(right, chunk.view(-1, channels_in))
    return summed.permute(2, 3, 0, 1)


class _Convolution(torch.autograd.Function):
    """Save what backward needs and return an empty map, which `convolution` fills.

    It is filled afterwards because `torch.utils.checkpoint`, when it recomputes a part of the network, stops as soon as
    everything is saved that backward asks for. Autograd saves a function's tensors after its forward, so otherwise the
    last convolution of each part would be computed twice.
    """

    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor, bias: Tensor | None, stride: Strides) -> Tensor:
        ctx.save_for_backward(maps, weight)
        ctx.stride = stride
        sides = [-(-side // step) for side, step in zip(maps.shape[2:], stride, strict=True)]
        shape = (maps.shape[0], weight.shape[0], *sides)
        return torch.empty(shape, dtype=maps.dtype, device=maps.device, memory_format=torch.channels_last)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        with torch.no_grad():
            gradients = _convolution_gradients(ctx, gradient)
        name = "convolution in training on a CPU"
        return (*(None if part is None else first_derivative(part, name) for part in gradients), None)


def _convolution_gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Return the needed gradients of maps (B, in, h, w), weight (out, in, 3, 3) and bias (out,)."""
    maps, weight = ctx.saved_tensors
    of_maps, of_weight, of_bias, _ = ctx.needs_input_grad
    bias_gradient = gradient.sum((0, 2, 3)) if of_bias else None
    if _by_tiles(maps, ctx.stride):
        return (*winograd.gradients(maps, weight, gradient, of_maps, of_weight), bias_gradient)
    back = None
    if of_maps:
        settings = (ctx.stride, (1, 1), (1, 1), False, (0, 0), 1, (True, False, False))
        back = torch.ops.aten.convolution_backward(gradient, maps, weight, None, *settings)[0]
    return back, weight_gradient(maps, gradient, ctx.stride) if of_weight else None, bias_gradient


def _is_computed_here(module: Convolution, maps: Tensor) -> bool:
    """Return whether `convolution` supports the maps (B, in, h, w); torch raises for those of a wrong shape."""
    plain = maps.device.type == "cpu" and maps.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return plain and maps.dim() == 4 and maps.numel() > 0 and maps.shape[1] == module.weight.shape[1]


def _by_tiles(maps: Tensor, stride: Strides) -> bool:
    """Return whether minimal filtering is faster for maps (B, in, h, w)."""
    tiles = len(maps) * -(-maps.shape[2] // winograd.TILE) * -(-maps.shape[3] // winograd.TILE)
    return stride == (1, 1) and tiles >= MIN_TILES


def _is_supported(module: nn.Module) -> bool:
    """Return whether a module is a 3x3 convolution of these two classes. Derived ones, such as weight-standardized
    convolutions, compute something else."""
    if type(module) not in (nn.Conv2d, FusedConvolution):
        return False
    module = cast(Convolution, module)
    settings = tuple(module.weight.shape[2:]), module.padding, module.dilation, module.groups
    out_channels, in_channels = module.weight.shape[:2]
    plain = settings == ((3, 3), (1, 1), (1, 1), 1) and getattr(module, "padding_mode", "zeros") == "zeros"
    return plain and in_channels >= MIN_IN_CHANNELS and out_channels >= MIN_OUT_CHANNELS
