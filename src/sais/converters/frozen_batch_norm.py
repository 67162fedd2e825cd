"""Frozen batch-norm folded into the convolution before it, on the fly, in training as well as in inference.

With statistics and affine parameters frozen, batch-norm is a fixed scale and shift per channel, so
``norm(conv(x)) = (scale * weight) conv x + shift``. The trained parameter stays the convolution's own weight, its
gradient is the same, and the feature map is neither written once more nor kept for backward. Names in the state dict
do not change.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.padding import pad_same
from torch import Tensor, nn
from torch.nn import functional


class FrozenBatchNorm(nn.Module):
    """What is left of a frozen batch-norm whose scale and shift moved into its convolution: its activation.

    Args:
        norm: the batch-norm, perhaps with an activation of its own, as timm's have.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.weight = nn.Parameter(norm.weight.detach().clone(), requires_grad=False)
        self.bias = nn.Parameter(norm.bias.detach().clone(), requires_grad=False)
        for name, buffer in norm.named_buffers():
            self.register_buffer(name, buffer)
        self.eps = norm.eps
        self.act = getattr(norm, "act", nn.Identity())

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """What the batch-norm does to each channel: two tensors (channels,)."""
        scale = self.weight / (self.running_var + self.eps).sqrt()
        return scale, self.bias - self.running_mean * scale

    def forward(self, maps: Tensor) -> Tensor:
        """(B, channels, h, w), already scaled and shifted -> the same shape."""
        activated: Tensor = self.act(maps)
        return activated


class FusedConvolution(nn.Module):
    """A convolution that does the work of the frozen batch-norm behind it.

    Args:
        convolution: without a bias.
        norm: what became of its batch-norm.
    """

    def __init__(self, convolution: nn.Conv2d, norm: FrozenBatchNorm) -> None:
        super().__init__()
        self.weight = convolution.weight
        self.stride, self.groups, self.dilation = convolution.stride, convolution.groups, convolution.dilation
        self.padding: Any = 0 if isinstance(convolution, Conv2dSame) else convolution.padding
        self.same = isinstance(convolution, Conv2dSame)
        self._norm = [norm]  # in a list, so that it is not registered a second time

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """What the batch-norm does to each channel: two tensors (out channels,)."""
        return self._norm[0].scale_and_shift()

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight (out, in, kernel, kernel) and bias (out,) with the batch-norm in them."""
        scale, shift = self.scale_and_shift()
        return self.weight * scale[:, None, None, None], shift

    def forward(self, maps: Tensor) -> Tensor:
        """(B, in, h, w) -> (B, out, h / stride, w / stride)."""
        if self.same:
            maps = pad_same(maps, list(self.weight.shape[-2:]), list(self.stride), list(self.dilation))
        weight, shift = self.folded()
        return functional.conv2d(maps, weight, shift, self.stride, self.padding, self.dilation, self.groups)


def fold_frozen_batch_norms(network: nn.Module, example: Tensor) -> int:
    """Fold every batch-norm of `network` that reads a convolution's output, and only that; all must be frozen.

    Args:
        network: in place.
        example: an input (1, 3, H, W) to see which batch-norm follows which convolution.

    Returns:
        How many were folded.
    """
    pairs = conv_norm_pairs(network, example)
    names = {module: name for name, module in network.named_modules()}
    for convolution, norm in pairs:
        frozen = FrozenBatchNorm(norm)
        replace_module(network, names[norm], frozen)
        replace_module(network, names[convolution], FusedConvolution(convolution, frozen))
    return len(pairs)


@torch.inference_mode(False)  # whose tensors have no version
@torch.no_grad()
def conv_norm_pairs(network: nn.Module, example: Tensor) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Convolutions without bias, and the batch-norms that read their outputs, in one pass over `example`."""
    # The tensor is kept so that its id is not used again, its version to see that nothing changed it in between.
    produced: dict[int, tuple[nn.Conv2d, Tensor, int]] = {}
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []

    def after(module: nn.Module, inputs: Any, output: Tensor) -> None:
        if isinstance(module, nn.Conv2d) and module.bias is None and type(module) in (nn.Conv2d, Conv2dSame):
            produced[id(output)] = (module, output, output._version)

    def before(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found = produced.get(id(inputs[0]))
        if found is not None and found[1]._version == found[2] and isinstance(module, nn.BatchNorm2d):
            pairs.append((found[0], module))

    handles = [m.register_forward_hook(after) for m in network.modules() if isinstance(m, nn.Conv2d)]
    handles += [m.register_forward_pre_hook(before) for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    training = network.training
    network.eval()(example)
    network.train(training)
    for handle in handles:
        handle.remove()
    once = Counter(module for pair in pairs for module in pair)
    return [pair for pair in pairs if once[pair[0]] == once[pair[1]] == 1]


def replace_module(network: nn.Module, name: str, module: nn.Module) -> None:
    """Put `module` where `name` (dotted) stands in `network`."""
    parent, _, last = name.rpartition(".")
    setattr(network.get_submodule(parent), last, module)
