"""GroupNorm in training on a GPU that keeps the memory layout and the data type of its maps.

On CUDA, torch's GroupNorm computes contiguous maps, so that it is surrounded by copies between channels-last
convolutions, and under autocast in fp32, which adds two casts. For bf16 that moves 22 times the bytes of a map from one
convolution to the next, and this one 5 times. It uses torch's own operations: statistics, sums and differences in fp32,
maps in the type in which they are given. Not measured on a GPU yet: `python -m peers gpu`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sais.converters.replacement import replace_module, share_members
from sais.ops.derivatives import first_derivative

MIN_NUMBERS = 2**20
"""Minimum numbers in maps; of smaller ones, such as those of P6 and P7, copies take less time than more operations."""


def keep_layout_in_group_norms(network: nn.Module) -> None:
    """Replace each GroupNorm with weights by `ChannelsLastGroupNorm`, in place."""
    for name, module in list(network.named_modules()):
        if type(module) is nn.GroupNorm and module.affine:
            replace_module(network, name, ChannelsLastGroupNorm(module))


class ChannelsLastGroupNorm(nn.GroupNorm):
    """A GroupNorm that keeps layout and type of large channels-last maps; others it leaves to torch.

    Args:
        module: original GroupNorm.
    """

    def __init__(self, module: nn.GroupNorm) -> None:
        super().__init__(module.num_groups, module.num_channels, module.eps)
        share_members(self, module)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, C, h, w) -> the same shape."""
        if maps.numel() < MIN_NUMBERS or not maps.is_contiguous(memory_format=torch.channels_last):
            return super().forward(maps)
        return group_norm(maps, self.weight, self.bias, self.num_groups, self.eps)


def group_norm(maps: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
    """Normalize each group of channels of each image.

    Args:
        maps: (B, C, h, w), channels-last.
        weight: (C,) float32.
        bias: (C,) float32.
        groups: number of groups.
        eps: added to the variance.

    Returns:
        (B, C, h, w), channels-last, of the type of `maps`.
    """
    out: Tensor = _GroupNorm.apply(maps, weight, bias, groups, eps)
    return out


class _GroupNorm(torch.autograd.Function):
    """y = scale x + shift with numbers for each image and channel; the gradient has the same form."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        """Normalize maps (B, C, h, w)."""
        with torch.autocast(maps.device.type, enabled=False):
            mean, variance = _moments(maps, groups)  # (B, G, 1) both
            deviation = (variance + eps).rsqrt()  # its reciprocal
            scale = weight.view(groups, -1) * deviation  # (B, G, C / G)
            shift = bias.view(groups, -1) - mean * scale
            ctx.save_for_backward(maps, weight, mean, deviation)
            return torch.addcmul(_of_channels(shift), maps, _of_channels(scale), out=torch.empty_like(maps))

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, Tensor, Tensor, None, None]:
        """Compute the gradients of maps (B, C, h, w), weight (C,) and bias (C,)."""
        with torch.no_grad():  # also where a graph of the gradients is wanted
            by_map, by_weight, by_bias = _gradients(ctx, outer[0].contiguous(memory_format=torch.channels_last))
        by_map = None if by_map is None else first_derivative(by_map, "GroupNorm")
        return by_map, first_derivative(by_weight, "GroupNorm"), first_derivative(by_bias, "GroupNorm"), None, None


def _gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
    """Return the gradients of maps (B, C, h, w), if needed, weight (C,) and bias (C,)."""
    maps, weight, mean, deviation = ctx.saved_tensors
    batch, groups = mean.shape[:2]
    numbers = maps[0].numel() // groups  # in a group of an image
    zero = mean.new_zeros(1, 1, 1, 1)  # makes products fp32: in fp16 they could overflow
    of_gradient = gradient.sum((2, 3), dtype=mean.dtype).view(batch, groups, -1)  # (B, G, C / G)
    of_product = torch.addcmul(zero, maps, gradient).sum((2, 3)).view(batch, groups, -1)
    central = (of_product - mean * of_gradient) * deviation  # sums of gradient times normalized map
    by_map = None
    if ctx.needs_input_grad[0]:
        by_group = weight.view(groups, -1)
        slope = -(by_group * central).sum(2, keepdim=True) * deviation.square() / numbers
        offset = -(by_group * of_gradient).sum(2, keepdim=True) * deviation / numbers - slope * mean
        like = torch.zeros_like(of_gradient)
        linear = torch.addcmul(_of_channels(like + offset), maps, _of_channels(like + slope))
        factor = _of_channels(by_group * deviation)
        by_map = torch.addcmul(linear, gradient, factor, out=torch.empty_like(maps))
    return by_map, central.sum(0).view(-1), of_gradient.sum(0).view(-1)


def _moments(maps: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Return mean and variance (B, G, 1), at least in fp32, of each group of channels of maps (B, C, h, w)."""
    batch, channels, height, width = maps.shape
    numbers = maps.permute(0, 2, 3, 1).view(batch, height * width, groups, channels // groups)
    if maps.dtype not in (torch.bfloat16, torch.float16):
        variance, mean = torch.var_mean(numbers, (1, 3), correction=0)
    else:  # a cast would write a map; these sums cast each number while they read it
        count = numbers[0, :, 0].numel()
        mean = numbers.sum((1, 3), dtype=torch.float32) / count
        squares = torch.linalg.vector_norm(numbers, dim=(1, 3), dtype=torch.float32).square() / count
        variance = (squares - mean.square()).clamp(min=0)
    return mean[..., None], variance[..., None]


def _of_channels(values: Tensor) -> Tensor:
    """(B, G, C / G) -> (B, C, 1, 1)."""
    return values.reshape(len(values), -1, 1, 1)
