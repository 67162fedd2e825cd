"""3x3 convolutions of a network in training, on a CPU in fp32: quicker than torch's, where it was measured so.

- Large maps: by minimal filtering (`winograd`), forward and backward, with a quarter of the multiplications.
- Others (small maps, strides): torch's sums, but for the gradient of the weights, which oneDNN takes two to six times
  as long for on channels-last maps as nine matrix products do.

What is kept for backward is what any convolution keeps, its input and its weight. Results differ from torch's by
rounding alone: about 1e-6 of a map's size, which is torch's own error in the gradient of the weights and up to five
times its error elsewhere (`docs/performance.md`).
"""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from sais.converters.cpu import winograd
from sais.converters.frozen_batch_norm import FusedConvolution

MIN_IN_CHANNELS, MIN_OUT_CHANNELS = 64, 16
"""Channels; with fewer, transforms and copies cost more than they save."""
MIN_TILES = 72
"""Tiles of a batch; with fewer the weights' transforms cost more than they save."""
ROWS = 16384
"""Outputs whose inputs are copied at once for the gradient of the weights."""

Strides = tuple[int, int]
Convolution = nn.Conv2d | FusedConvolution


def set_fast_convolutions(network: nn.Module, on: bool = True) -> None:
    """Let each convolution for which it pays compute so in training, in place, or as usual again.

    Names, weights and what the network computes in evaluation stay as they are. As in `recompute.make_stages_again` the
    function that each calls is replaced, of the one object.
    """
    for module in network.modules():
        if on and _may_be_chosen(module):
            module.forward = partial(_forward, cast(Convolution, module))
        elif is_fast_convolution(module):
            del module.forward


def is_fast_convolution(module: nn.Module) -> bool:
    """Whether the module is one of those that `choose_convolutions` has chosen."""
    return getattr(vars(module).get("forward"), "func", None) is _forward


def convolution(maps: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Strides = (1, 1)) -> Tensor:
    """(B, in, h, w) -> (B, out, h / stride, w / stride), channels-last, with gradients: 3x3, padding 1.

    Args:
        maps: float32 (or float64, for tests) on the CPU, of at least one image.
        weight: (out, in, 3, 3).
        bias: (out,).
        stride: down and across.
    """
    out: Tensor = _Convolution.apply(maps, weight, bias, stride)
    with torch.no_grad():
        if _by_tiles(maps, stride):
            winograd.convolve(maps.detach(), weight.detach(), None if bias is None else bias.detach(), out.detach())
        else:
            out.detach().copy_(functional.conv2d(maps, weight, bias, stride, padding=1))
    return out


def weight_gradient(maps: Tensor, gradient: Tensor, stride: Strides = (1, 1)) -> Tensor:
    """Of the weight (out, in, 3, 3), from maps (B, in, h, w) and the gradient of the outputs (B, out, ., .).

    The weight at one place of the kernel joins each output with the input that lies there: a matrix product over all
    outputs, nine in all.
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
        here = inputs[: images.stop - first]
        for y in range(3):
            for x in range(3):
                rows, columns = slice(y, y + stride[0] * height, stride[0]), slice(x, x + stride[1] * width, stride[1])
                here.copy_(padded[images, rows, columns])
                summed[y, x].addmm_(right, here.view(-1, channels_in))
    return summed.permute(2, 3, 0, 1)


class _Convolution(torch.autograd.Function):
    """Keeps what backward needs and gives an empty map, which `convolution` fills.

    It is filled afterwards because `torch.utils.checkpoint`, where it makes a part of the network again, stops as soon
    as everything is kept that backward asks for. Autograd keeps a function's tensors behind its forward: the last
    convolution of each part would be computed twice for nothing.
    """

    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor, bias: Tensor | None, stride: Strides) -> Tensor:
        ctx.save_for_backward(maps, weight)
        ctx.stride = stride
        sides = [-(-side // step) for side, step in zip(maps.shape[2:], stride, strict=True)]
        shape = (maps.shape[0], weight.shape[0], *sides)
        return torch.empty(shape, dtype=maps.dtype, device=maps.device, memory_format=torch.channels_last)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        maps, weight = ctx.saved_tensors
        of_maps, of_weight, of_bias, _ = ctx.needs_input_grad
        bias_gradient = gradient.sum((0, 2, 3)) if of_bias else None
        if _by_tiles(maps, ctx.stride):
            return (*winograd.gradients(maps, weight, gradient, of_maps, of_weight), bias_gradient, None)
        back = None
        if of_maps:
            settings = (ctx.stride, (1, 1), (1, 1), False, (0, 0), 1, (True, False, False))
            back = torch.ops.aten.convolution_backward(gradient, maps, weight, None, *settings)[0]
        return back, weight_gradient(maps, gradient, ctx.stride) if of_weight else None, bias_gradient, None


def _forward(module: Convolution, maps: Tensor) -> Tensor:
    learns = module.training and torch.is_grad_enabled() and (maps.requires_grad or module.weight.requires_grad)
    if not (learns and _computed_here(module, maps)):
        return type(module).forward(module, maps)  # type: ignore[arg-type]
    weight, bias = module.folded() if isinstance(module, FusedConvolution) else (module.weight, module.bias)
    return convolution(maps, weight, bias, tuple(module.stride))  # type: ignore[arg-type]


def _computed_here(module: Convolution, maps: Tensor) -> bool:
    """Whether the maps are what `convolution` computes; torch has words for those that fit nothing."""
    plain = maps.device.type == "cpu" and maps.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return plain and maps.dim() == 4 and maps.numel() > 0 and maps.shape[1] == module.weight.shape[1]


def _by_tiles(maps: Tensor, stride: Strides) -> bool:
    """Whether minimal filtering is the quicker way."""
    tiles = len(maps) * -(-maps.shape[2] // winograd.TILE) * -(-maps.shape[3] // winograd.TILE)
    return stride == (1, 1) and tiles >= MIN_TILES


def _may_be_chosen(module: nn.Module) -> bool:
    """Of just these classes: those that derive from them, as weight-standardised ones do, compute something else."""
    if type(module) not in (nn.Conv2d, FusedConvolution):
        return False
    module = cast(Convolution, module)
    settings = tuple(module.weight.shape[2:]), module.padding, module.dilation, module.groups
    out_channels, in_channels = module.weight.shape[:2]
    plain = settings == ((3, 3), (1, 1), (1, 1), 1) and getattr(module, "padding_mode", "zeros") == "zeros"
    return plain and in_channels >= MIN_IN_CHANNELS and out_channels >= MIN_OUT_CHANNELS
