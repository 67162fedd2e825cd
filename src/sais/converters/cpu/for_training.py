"""Training on a CPU: the faster convolutions in fp32, a guard against a defect of torch in half precision."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from sais.converters.cpu import winograd
from sais.converters.cpu.training_convolution import FastConvolution, use_fast_convolutions
from sais.converters.replacement import original_of, replace_module, share_members
from sais.errors import ConfigError
from sais.modeling.fpn import FPN
from sais.modeling.protonet import ProtoNet
from sais.modeling.sais import SAIS
from sais.structures import STRIDES

CONVOLUTIONS = ("auto", "direct", "winograd")
LARGE = 64 * 64
"""Cells of P3 from which on contiguous maps train faster."""


def for_cpu_training(model: nn.Module, convolutions: str, precision: str, canvas: tuple[int, int]) -> None:
    """Rewrite a network on a CPU for training, in place.

    Args:
        model: network.
        convolutions: "auto", "direct" or "winograd", see `set_convolutions`; used in fp32 only.
        precision: "fp32", "bf16" or "fp16".
        canvas: (height, width) it trains on, pixels.
    """
    if precision != "fp32":
        guard_strided_convolutions(model)
        return
    if isinstance(model, SAIS):
        set_convolutions(model, convolutions, canvas)
    for module in list(model.modules()):
        if type(module) is ProtoNet and not isinstance(module.after[0], FastConvolution):
            convolution = cast(nn.Conv2d, module.after[0])
            module.after[0] = ContiguousConvolution(convolution, torch.channels_last)


def set_convolutions(model: SAIS, kind: str, canvas: tuple[int, int]) -> None:
    """Choose how 3x3 convolutions train in fp32, in place.

    Results are the same up to rounding. Times are in `docs/performance.md`.

    Args:
        model: network in channels-last layout.
        kind: "winograd": large convolutions with a quarter of the multiplications. "direct": oneDNN. Its gradient of
            the weights takes up to five times as long for large maps in channels-last layout as for contiguous ones,
            and longer for small contiguous ones, so the layout of FPN, head and ProtoNet depends on `canvas`. "auto":
            winograd on processors where it was measured to be faster (`winograd.is_faster`), else direct.
        canvas: (height, width) it trains on, pixels.

    Raises:
        ConfigError: an unknown kind.
    """
    if kind not in CONVOLUTIONS:
        raise ConfigError(f"run.cpu_convolutions {kind!r}: unknown. Choose one of {', '.join(CONVOLUTIONS)}.")
    if kind == "winograd" or (kind == "auto" and winograd.is_faster()):
        use_fast_convolutions(model)
    elif (canvas[0] // STRIDES[0]) * (canvas[1] // STRIDES[0]) >= LARGE:
        for part in (model.fpn, model.head, model.protonet):
            if part is not None:
                part.to(memory_format=torch.contiguous_format)
        if type(model.fpn) is FPN:
            # Not before the 1x1 convolutions, which would save a second copy of the backbone's maps for backward.
            for block in model.fpn.pyramid.layer_blocks:
                sequence = cast(nn.Sequential, block)
                sequence[0] = ContiguousConvolution(cast(nn.Conv2d, sequence[0]), torch.preserve_format)


class ContiguousConvolution(nn.Module):
    """A convolution that trains on contiguous maps: oneDNN's gradient of its weights is faster then.

    Args:
        convolution: original convolution.
        output_format: memory layout of its output.
    """

    def __init__(self, convolution: nn.Conv2d, output_format: torch.memory_format) -> None:
        super().__init__()
        share_members(self, convolution)
        self.output_format = output_format

    def forward(self, maps: Tensor) -> Tensor:
        """(B, in, h, w) -> (B, out, h / stride, w / stride)."""
        original = cast(nn.Conv2d, original_of(self))
        if not (self.training and torch.is_grad_enabled() and maps.dtype == torch.float32):
            outputs: Tensor = original(maps)
            return outputs
        weight = original.weight.contiguous()
        outputs = functional.conv2d(maps.contiguous(), weight, original.bias, original.stride, original.padding)
        return (
            outputs
            if self.output_format == torch.preserve_format
            else outputs.contiguous(memory_format=self.output_format)
        )


def guard_strided_convolutions(model: nn.Module) -> None:
    """Replace 3x3 convolutions with stride 2 by `OneCellSafeConvolution`, in place."""
    for name, module in list(model.named_modules()):
        if type(module) is not nn.Conv2d or (module.kernel_size, module.stride) != ((3, 3), (2, 2)):
            continue
        if (module.padding, module.dilation, module.groups) == ((1, 1), (1, 1), 1):
            replace_module(model, name, OneCellSafeConvolution(module))


class OneCellSafeConvolution(nn.Module):
    """A strided 3x3 convolution whose weight gradient is correct on maps of one cell in half precision.

    On CPUs with native bf16, torch returns uninitialized memory as the bf16 gradient of the weights of a 3x3
    convolution with stride 2 on a 1x1 map, such as P7 of a 64-pixel canvas. There only the center of the kernel meets
    the map, so the convolution is a matrix product.

    Args:
        convolution: original convolution with padding 1.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        share_members(self, convolution)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, in, h, w) -> (B, out, h / 2, w / 2), rounded up."""
        original = cast(nn.Conv2d, original_of(self))
        if tuple(maps.shape[2:]) != (1, 1):
            outputs: Tensor = original(maps)
            return outputs
        return functional.linear(maps.flatten(1), original.weight[:, :, 1, 1], original.bias)[:, :, None, None]
