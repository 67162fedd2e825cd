"""Rewrite a network for inference: the same function of the same weights, with nothing computed twice.

- Every batch-norm that follows a convolution, frozen or trained, is folded into its weights.
- Convolutions with size-dependent padding ("same", as in TensorFlow's networks) get the padding of even sizes: a canvas
  is a multiple of 32, so every map that a stride halves is even.
- Class and quality logits come from one convolution, and the pyramid's maps are upsampled by exactly 2: no size depends
  on another, which keeps exported graphs simple.
"""

from __future__ import annotations

import copy
from typing import Any, TypeVar, cast

import torch
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn
from torch.nn import functional

from sais.converters.frozen_batch_norm import FrozenBatchNorm, FusedConvolution, conv_norm_pairs
from sais.converters.replacement import replace_module, restore_originals
from sais.errors import ConfigError
from sais.modeling.backbones import Backbone
from sais.modeling.fpn import FPN
from sais.modeling.head import Head, HeadOutputs, activate_distances, flatten_locations
from sais.modeling.sais import SAIS

Network = TypeVar("Network", bound=nn.Module)


@torch.inference_mode(False)
@torch.no_grad()
def for_inference(model: Network) -> Network:
    """Return a copy of the network, prepared for inference; the original does not change.

    Same inputs, same outputs up to rounding (about 1e-5 of a logit). The copy cannot be trained, and its state does not
    fit the original's: keep the original for that. A prepared network is returned as it is.

    Args:
        model: network of any architecture, as built or as `for_training` rewrote it.
    """
    if vars(model).get("prepared_for_inference"):
        return model
    prepared = copy.deepcopy(model).eval()
    vars(prepared)["prepared_for_inference"] = True
    restore_originals(prepared)
    prepared.eval().requires_grad_(False)
    backbone = getattr(prepared, "backbone", None)
    if isinstance(backbone, Backbone):
        fuse_batch_norms(backbone.network)
        _fix_same_padding(backbone.network)
    if isinstance(prepared, SAIS):
        if type(prepared.fpn) is FPN:
            prepared.fpn = FixedRatioFPN(prepared.fpn)
        if type(prepared.head) is Head:
            for tower in (prepared.head.classification_tower, prepared.head.regression_tower):
                _fuse_norms(tower, _in_channels(tower))
            prepared.head = FusedHead(prepared.head)
        prepared.to(memory_format=torch.channels_last)
    return prepared


class FixedRatioFPN(nn.Module):
    """The feature pyramid for canvases that are multiples of 32: C3, C4 and C5 are each exactly twice the next.

    Args:
        fpn: pyramid whose weights it takes.
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
    """The head with the quality logits from the convolution of the other predictions of their tower.

    Args:
        head: head whose weights it takes.
    """

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.classification_tower, self.regression_tower = head.classification_tower, head.regression_tower
        self.coefficients, self.sums_towers = head.coefficients, head.sums_towers
        self.units, self.distance_activation = head.units, head.distance_activation
        self.scales: Tensor
        self.register_buffer("scales", head.scales.detach().clone())
        self.shifts: Tensor | None
        self.register_buffer("shifts", head.shifts)
        self.num_classes = head.class_logits.out_channels
        self.logits, self.distances = head.class_logits, head.distances
        if head.quality_logits is not None and head.quality_from == "regression":
            self.distances = _joined(head.distances, head.quality_logits)
        elif head.quality_logits is not None:
            self.logits = _joined(head.class_logits, head.quality_logits)

    def forward(self, levels: list[Tensor]) -> HeadOutputs:
        """[P3 .. P7] (B, channels, h, w) -> predictions (B, L, .) of all levels."""
        logits, boxes, quality, coefficients = [], [], [], []
        towers = (forward_tower(tower, levels) for tower in (self.classification_tower, self.regression_tower))
        for i, (classification, regression) in enumerate(zip(*towers, strict=True)):
            logits.append(flatten_locations(self.logits(classification)))
            raw = flatten_locations(self.distances(regression)).float()
            if raw.shape[2] > 4:
                quality.append(raw[..., 4])
                raw = raw[..., :4]
            pixels = activate_distances(raw * self.scales[i], self.distance_activation) * self.units[i]
            boxes.append(pixels if self.shifts is None else pixels + self.shifts[i])
            if self.coefficients is not None:
                source = classification + regression if self.sums_towers else classification
                coefficients.append(flatten_locations(self.coefficients(source)))
        joined = torch.cat(logits, 1).float()
        in_logits = joined[..., -1] if joined.shape[2] > self.num_classes else None
        return HeadOutputs(
            joined[..., : self.num_classes],
            torch.cat(quality, 1) if quality else in_logits,
            torch.cat(boxes, 1),
            torch.cat(coefficients, 1).float().tanh() if coefficients else None,
        )


def _joined(first: nn.Conv2d, second: nn.Conv2d) -> nn.Conv2d:
    """Return one 3x3 convolution with the outputs of both, one after the other."""
    joined = nn.Conv2d(first.in_channels, first.out_channels + second.out_channels, 3, padding=1)
    for name in ("weight", "bias"):
        parts = [getattr(convolution, name) for convolution in (first, second)]
        getattr(joined, name).requires_grad_(False).copy_(torch.cat(parts))
    return joined.to(first.weight.device)


def forward_tower(tower: nn.Sequential, levels: list[Tensor]) -> list[Tensor]:
    """Run a tower on all levels (B, channels, h, w), layer by layer: some layers compute several levels at once."""
    for layer in tower:
        convolve_levels = getattr(layer, "convolve_levels", None)
        levels = convolve_levels(levels) if convolve_levels is not None else [layer(level) for level in levels]
    return levels


def fuse_batch_norms(network: nn.Module) -> None:
    """Fold the batch-norms of a backbone into its convolutions for good, in place.

    Args:
        network: backbone that maps images (B, 3, H, W), as built or with frozen batch-norms folded for training.
    """
    for name, module in list(network.named_modules()):
        if isinstance(module, FusedConvolution):
            replace_module(network, name, _convolution(module, *module.scale_and_shift()))
    for name, module in list(network.named_modules()):
        if isinstance(module, FrozenBatchNorm):
            replace_module(network, name, module.act)
    _fuse_norms(network, 3)


@torch.no_grad()
def _fuse_norms(network: nn.Module, in_channels: int) -> None:
    """Fold batch-norms into the convolutions before them, in place, for inputs (B, in_channels, H, W)."""
    parameter = next(network.parameters(), None)
    if parameter is None or not in_channels:
        return
    example = torch.zeros(1, in_channels, 64, 64, device=parameter.device, dtype=parameter.dtype)
    pairs = conv_norm_pairs(network, example)
    names = {module: name for name, module in network.named_modules()}
    for convolution, norm in pairs:
        frozen = FrozenBatchNorm(norm)
        replace_module(network, names[convolution], _convolution(convolution, *frozen.scale_and_shift()))
        replace_module(network, names[norm], frozen.act)


@torch.no_grad()
def _convolution(source: nn.Conv2d | FusedConvolution, scale: Tensor, shift: Tensor) -> nn.Module:
    """Return the convolution of `source` times `scale` (out,) plus `shift` (out,)."""
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


def _fix_same_padding(network: nn.Module) -> None:
    """Replace size-dependent padding, in place."""
    for name, module in list(network.named_modules()):
        if isinstance(module, Conv2dSame):
            kernel, stride, dilation = (cast(Any, v) for v in (module.kernel_size, module.stride, module.dilation))
            bias = module.bias is not None
            plain = nn.Conv2d(module.in_channels, module.out_channels, kernel, stride, 0, dilation, module.groups, bias)
            plain = plain.to(module.weight.device)
            plain.load_state_dict(module.state_dict())
            replace_module(network, name, _padded(plain.requires_grad_(False)))


def _padded(convolution: nn.Conv2d) -> nn.Conv2d:
    """Give a convolution the padding "same" of even sizes, in place: kernel extent - stride, the larger half right and
    below.

    torch pads both sides equally. If the right and lower side need one more, both sides get it, and the kernel gets a
    first row or column of zeros in return: exact, and much faster than a padded copy of the map.

    Raises:
        ConfigError: a dilated kernel with odd padding, for which one row of zeros is not enough.
    """
    padding = [0, 0]
    for axis in (0, 1):
        kernel, stride, dilation = convolution.kernel_size[axis], convolution.stride[axis], convolution.dilation[axis]
        total = max(dilation * (kernel - 1) + 1 - stride, 0)
        padding[axis] = total - total // 2
        if total % 2:
            if dilation != 1:
                raise ConfigError("model.backbone: a dilated convolution with odd padding. Choose another backbone.")
            widened = functional.pad(convolution.weight, (0, 0, 1, 0) if axis == 0 else (1, 0))
            convolution.weight = nn.Parameter(widened, requires_grad=False)
    convolution.kernel_size = cast(tuple[int, int], tuple(convolution.weight.shape[2:]))
    convolution.padding = cast(tuple[int, int], tuple(padding))
    return convolution


def _in_channels(tower: nn.Module) -> int:
    """Return the input channels of a tower's first convolution, 0 if it has none."""
    return next((m.in_channels for m in tower.modules() if isinstance(m, nn.Conv2d)), 0)
