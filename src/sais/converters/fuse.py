"""The network as it runs after training: the same function of the same weights, with nothing left to compute twice.

- Every batch-norm that follows a convolution, frozen or trained, is folded into its weights, once and for all.
- Convolutions that pad by the size of their input ("same", as in TensorFlow's networks) get the padding that even
  sizes need: a canvas is a multiple of 32, so every map that a stride halves is even.
- Class and centerness logits come from one convolution, and the pyramid's maps are doubled, not fitted: no size
  depends on another, so that exporters have nothing to reason about.
"""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn
from torch.nn import functional

from sais.converters.cpu.training_convolution import set_fast_convolutions
from sais.converters.cpu.winograd_inference import WinogradConvolution
from sais.converters.frozen_batch_norm import FrozenBatchNorm, FusedConvolution, conv_norm_pairs, replace_module
from sais.errors import SaisError
from sais.modeling.fpn import FPN
from sais.modeling.head import MAX_EXPONENT, Head, flatten_locations
from sais.modeling.sais import SAIS, set_activation_checkpointing


@torch.inference_mode(False)
@torch.no_grad()
def for_inference(model: SAIS) -> SAIS:
    """A copy of the network, prepared for inference; the original is left as it is.

    Same inputs, same outputs up to rounding (about 1e-5 of a logit). It cannot be trained and its state does not fit
    `build_model`'s: keep the original for that. A prepared network comes back as it is.
    """
    if isinstance(model.head, FusedHead):  # it is prepared
        return model
    prepared = copy.deepcopy(model).eval()
    set_activation_checkpointing(prepared, "none")  # exporters and compilers see the plain modules
    set_fast_convolutions(prepared, False)
    for parameter in prepared.parameters():
        parameter.requires_grad_(False)
    fuse_frozen_bn(prepared.backbone.network)
    for part in (prepared.backbone.network, prepared.head.classification_tower, prepared.head.regression_tower):
        channels = 3 if part is prepared.backbone.network else _in_channels(part)
        if channels:
            _bake_norms(part, torch.zeros(1, channels, 64, 64, device=prepared.mean.device))
    _bake_same(prepared.backbone.network)
    prepared.fpn = cast(FPN, FixedRatioFPN(prepared.fpn))
    prepared.head = cast(Head, FusedHead(prepared.head))
    return prepared.to(memory_format=torch.channels_last)


class FixedRatioFPN(nn.Module):
    """The feature pyramid for canvases that are multiples of 32, where each level is exactly twice the next.

    Args:
        fpn: whose weights it takes.
    """

    def __init__(self, fpn: FPN) -> None:
        super().__init__()
        self.inner = nn.ModuleList([block[0] for block in cast(Any, fpn.pyramid.inner_blocks)])
        self.outer = nn.ModuleList([block[0] for block in cast(Any, fpn.pyramid.layer_blocks)])
        self.p6, self.p7 = fpn.last_levels.p6, fpn.last_levels.p7

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """[C3, C4, C5] (B, ., h, w) -> [P3 .. P7] (B, channels, H / stride, W / stride)."""
        merged = self.inner[2](maps[2])
        levels = [self.outer[2](merged)]
        for i in (1, 0):
            merged = self.inner[i](maps[i]) + functional.interpolate(merged, scale_factor=2.0, mode="nearest")
            levels.insert(0, self.outer[i](merged))
        p6 = self.p6(levels[2])
        return [*levels, p6, self.p7(functional.relu(p6))]


class FusedHead(nn.Module):
    """The head with class and centerness logits from one convolution.

    Args:
        head: whose weights it takes.
    """

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.classification_tower, self.regression_tower = head.classification_tower, head.regression_tower
        self.distances, self.coefficients, self.fused = head.distances, head.coefficients, head.fused
        self.units = head.units
        self.scales: Tensor
        self.register_buffer("scales", head.scales.detach().clone())
        both = nn.Conv2d(head.class_logits.in_channels, head.class_logits.out_channels + 1, 3, padding=1)
        for name in ("weight", "bias"):
            parts = [getattr(head.class_logits, name), getattr(head.centerness_logits, name)]
            getattr(both, name).requires_grad_(False).copy_(torch.cat(parts))
        self.class_and_centerness = both.to(head.scales.device)

    def forward(self, levels: list[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """[P3 .. P7] (B, channels, h, w) -> (B, L, C), (B, L), (B, L, 4) and (B, L, K) or None."""
        logits, distances, coefficients = [], [], []
        towers = (forward_tower(tower, levels) for tower in (self.classification_tower, self.regression_tower))
        for i, (classification, regression) in enumerate(zip(*towers, strict=True)):
            logits.append(flatten_locations(self.class_and_centerness(classification)))
            exponents = flatten_locations(self.distances(regression)).float() * self.scales[i]
            distances.append(exponents.clamp(max=MAX_EXPONENT).exp() * self.units[i])
            if self.coefficients is not None:
                source = classification + regression if self.fused else classification
                coefficients.append(flatten_locations(self.coefficients(source)))
        joined = torch.cat(logits, 1).float()
        return (
            joined[..., :-1],
            joined[..., -1],
            torch.cat(distances, 1),
            torch.cat(coefficients, 1).float().tanh() if coefficients else None,
        )


def forward_tower(tower: nn.Sequential, levels: list[Tensor]) -> list[Tensor]:
    """The tower's outputs for all levels: layer by layer, since some layers do several levels at once."""
    for layer in tower:
        levels = layer.each(levels) if isinstance(layer, WinogradConvolution) else [layer(level) for level in levels]
    return levels


def fuse_frozen_bn(network: nn.Module) -> None:
    """Fold a backbone's frozen norms once and for all, in place; in training they are folded anew in each pass."""
    for name, module in list(network.named_modules()):
        if isinstance(module, FusedConvolution):
            replace_module(network, name, _convolution(module, *module.scale_and_shift()))
    for name, module in list(network.named_modules()):
        if isinstance(module, FrozenBatchNorm):
            replace_module(network, name, module.act)


def _bake_norms(network: nn.Module, example: Tensor) -> None:
    """Batch-norms that were trained, folded into the convolutions before them, in place."""
    pairs = conv_norm_pairs(network, example)
    names = {module: name for name, module in network.named_modules()}
    for convolution, norm in pairs:
        frozen = FrozenBatchNorm(norm)
        replace_module(network, names[convolution], _convolution(convolution, *frozen.scale_and_shift()))
        replace_module(network, names[norm], frozen.act)


def _convolution(source: nn.Conv2d | FusedConvolution, scale: Tensor, shift: Tensor) -> nn.Module:
    """The convolution of `source` times `scale` plus `shift`."""
    same = source.same if isinstance(source, FusedConvolution) else isinstance(source, Conv2dSame)
    out_channels, in_channels, height, width = source.weight.shape
    groups = source.groups
    kernel, stride = (height, width), cast(tuple[int, int], source.stride)
    padding = (0, 0) if same else source.padding
    convolution = nn.Conv2d(
        in_channels * groups, out_channels, kernel, stride, cast(Any, padding), cast(Any, source.dilation), groups
    ).to(source.weight.device)
    convolution.weight.requires_grad_(False).copy_(source.weight * scale[:, None, None, None])
    cast(Tensor, convolution.bias).requires_grad_(False).copy_(shift)
    return _padded(convolution) if same else convolution


def _bake_same(network: nn.Module) -> None:
    """What is left of size-dependent padding, in place."""
    for name, module in list(network.named_modules()):
        if isinstance(module, Conv2dSame):
            kernel, stride, dilation = (cast(Any, v) for v in (module.kernel_size, module.stride, module.dilation))
            bias = module.bias is not None
            plain = nn.Conv2d(module.in_channels, module.out_channels, kernel, stride, 0, dilation, module.groups, bias)
            plain = plain.to(module.weight.device)
            plain.load_state_dict(module.state_dict())
            replace_module(network, name, _padded(plain.requires_grad_(False)))


def _padded(convolution: nn.Conv2d) -> nn.Conv2d:
    """The convolution with the padding "same" for even sizes, in place: reach - stride in all, the odd one right and
    below.

    torch pads both sides alike. So where one more is wanted right and below, both get it, and the kernel a first row or
    column of zeros to make up for it: quicker by far than a padded copy of the map, and exact.

    Raises:
        SaisError: a dilated kernel with odd padding, where a row of zeros would be wider than one.
    """
    padding = [0, 0]
    for axis in (0, 1):
        kernel, stride, dilation = convolution.kernel_size[axis], convolution.stride[axis], convolution.dilation[axis]
        total = max(dilation * (kernel - 1) + 1 - stride, 0)
        padding[axis] = total - total // 2
        if total % 2:
            if dilation != 1:
                raise SaisError("a dilated convolution with odd padding cannot be prepared for inference")
            widened = functional.pad(convolution.weight, (0, 0, 1, 0) if axis == 0 else (1, 0))
            convolution.weight = nn.Parameter(widened, requires_grad=False)
    convolution.kernel_size = cast(tuple[int, int], tuple(convolution.weight.shape[2:]))
    convolution.padding = cast(tuple[int, int], tuple(padding))
    return convolution


def _in_channels(tower: nn.Module) -> int:
    """Of its first convolution; 0 where it has none."""
    return next((m.in_channels for m in tower.modules() if isinstance(m, nn.Conv2d)), 0)
