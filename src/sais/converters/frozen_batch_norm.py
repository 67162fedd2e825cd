"""Frozen batch-norm folded into the convolution before it, in each forward pass, for training.

With statistics and affine parameters frozen, batch-norm is a fixed scale and shift per channel, so
``norm(conv(x)) = (scale * weight) conv x + shift``. The trained parameter stays the convolution's own weight, its
gradient is the same, and the feature map is neither written a second time nor saved for backward. Names in the state
dict do not change.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.padding import pad_same
from torch import Tensor, nn
from torch.nn import functional

from sais.converters.replacement import replace_module


class Constants:
    """Tensors that follow from frozen ones, computed once instead of in each forward pass: a GPU launches five small
    operations for each batch-norm.

    They are computed again after any in-place change of the frozen tensors that autograd would notice.
    """

    def __init__(self) -> None:
        self._version: tuple[Any, ...] = ()
        self._values: tuple[Tensor, ...] = ()

    def __deepcopy__(self, memo: dict[int, Any]) -> Constants:
        """Return an empty copy: versions of copied tensors start again."""
        return Constants()

    def of(self, sources: tuple[Tensor, ...], compute: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """Return the tensors (C,), or of any shape, that `compute` returns for the current values of `sources`."""
        if torch.compiler.is_compiling():
            return compute()
        if torch.is_inference_mode_enabled() or any(tensor.is_inference() for tensor in sources):
            return compute()  # tensors of inference mode have no version and cannot be used in training
        version = tuple((id(tensor), tensor._version, tensor.device, tensor.dtype) for tensor in sources)
        if version != self._version:
            with torch.no_grad():
                self._values = compute()
            self._version = version
        return self._values


class FrozenBatchNorm(nn.Module):
    """The rest of a frozen batch-norm whose scale and shift moved into its convolution: its activation.

    Args:
        norm: batch-norm, possibly with an activation of its own, as timm's have.
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
        self._constants = Constants()

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """Return the batch-norm's scale (C,) and shift (C,) of the C channels."""
        scale, shift = self._constants.of(self.sources(), self._scale_and_shift)
        return scale, shift

    def sources(self) -> tuple[Tensor, ...]:
        """Return the four tensors (C,) that scale and shift follow from."""
        return self.weight, self.bias, self.running_mean, self.running_var

    def _scale_and_shift(self) -> tuple[Tensor, ...]:
        scale = self.weight / (self.running_var + self.eps).sqrt()
        return scale, self.bias - self.running_mean * scale

    def forward(self, maps: Tensor) -> Tensor:
        """(B, channels, h, w), already scaled and shifted -> the same shape."""
        activated: Tensor = self.act(maps)
        return activated


class FusedConvolution(nn.Module):
    """A convolution that includes the frozen batch-norm after it.

    Args:
        convolution: convolution without a bias.
        norm: replacement of its batch-norm.
    """

    def __init__(self, convolution: nn.Conv2d, norm: FrozenBatchNorm) -> None:
        super().__init__()
        self.weight = convolution.weight
        self.stride, self.groups, self.dilation = convolution.stride, convolution.groups, convolution.dilation
        self.padding: Any = 0 if isinstance(convolution, Conv2dSame) else convolution.padding
        self.same = isinstance(convolution, Conv2dSame)
        self._norm = [norm]  # in a list, so that it is not registered a second time
        self._constants = Constants()

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """Return the batch-norm's scale (C,) and shift (C,) of the C output channels."""
        return self._norm[0].scale_and_shift()

    def folded(self) -> tuple[Tensor, Tensor]:
        """Return weight (out, in, 3, 3), or of another kernel size, and bias (out,) that include the batch-norm."""
        scale, shift = self.scale_and_shift()
        if self.weight.requires_grad:
            return self.weight * scale[:, None, None, None], shift
        sources = (self.weight, *self._norm[0].sources())
        (weight,) = self._constants.of(sources, lambda: (self.weight * scale[:, None, None, None],))
        return weight, shift

    def forward(self, maps: Tensor) -> Tensor:
        """(B, in, h, w) -> (B, out, h / stride, w / stride)."""
        if self.same:
            maps = pad_same(maps, list(self.weight.shape[-2:]), list(self.stride), list(self.dilation))
        weight, shift = self.folded()
        return functional.conv2d(maps, weight, shift, self.stride, self.padding, self.dilation, self.groups)


def fold_frozen_batch_norms(network: nn.Module) -> int:
    """Fold every frozen batch-norm into the convolution whose output it alone reads, in place.

    Args:
        network: backbone that maps images (B, 3, H, W), with all batch-norms frozen.

    Returns:
        Number of folded batch-norms.
    """
    pairs = conv_norm_pairs(network, _example(network))
    names = {module: name for name, module in network.named_modules()}
    for convolution, norm in pairs:
        frozen = FrozenBatchNorm(norm)
        replace_module(network, names[norm], frozen)
        replace_module(network, names[convolution], FusedConvolution(convolution, frozen))
    return len(pairs)


def _example(network: nn.Module) -> Tensor:
    """Return an image (1, 3, 64, 64) of the network's device and data type."""
    parameter = next(network.parameters())
    return torch.zeros(1, 3, 64, 64, device=parameter.device, dtype=parameter.dtype)


@torch.inference_mode(False)  # tensors of inference mode have no version
@torch.no_grad()
def conv_norm_pairs(network: nn.Module, example: Tensor) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Find convolutions without bias and the batch-norms that read their outputs, with an `example` (B, ., h, w)."""
    # The tensor is kept so that its id is not reused, its version to detect changes in between.
    produced: dict[int, tuple[nn.Conv2d, Tensor, int]] = {}
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []

    def after(module: nn.Module, inputs: Any, output: Tensor) -> None:
        if isinstance(module, nn.Conv2d) and module.bias is None and type(module) in (nn.Conv2d, Conv2dSame):
            produced[id(output)] = (module, output, output._version)

    def before(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        source = produced.get(id(inputs[0]))
        if source is not None and source[1]._version == source[2] and isinstance(module, nn.BatchNorm2d):
            pairs.append((source[0], module))

    handles = [m.register_forward_hook(after) for m in network.modules() if isinstance(m, nn.Conv2d)]
    handles += [m.register_forward_pre_hook(before) for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    training = network.training
    network.eval()(example)
    network.train(training)
    for handle in handles:
        handle.remove()
    counts = Counter(module for pair in pairs for module in pair)
    return [pair for pair in pairs if counts[pair[0]] == counts[pair[1]] == 1]
