"""The network of YOLACT (Sections 3 and 4, Figure 2): backbone, FPN, one head for all levels, ProtoNet.

Backbone, FPN and ProtoNet are those of SAIS, so that the two differ in their method alone. The FPN therefore upsamples
by nearest neighbor and has a ReLU before P7, where the authors' own upsamples bilinearly and has ReLUs elsewhere.
Any input size is accepted: level sizes are input / stride, rounded up.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from peers.yolact.anchors import RATIOS
from sais.config import ModelConfig
from sais.modeling.backbones import Backbone
from sais.modeling.fpn import FPN
from sais.modeling.protonet import ProtoNet


@dataclass
class AnchorOutputs:
    """What the network says at every anchor, and of the whole image."""

    class_logits: Tensor
    """(B, A, C + 1); the background comes first, so that label l stands at l + 1."""
    offsets: Tensor
    """(B, A, 4) center x y, width, height relative to the anchor, as `anchors.encode` has them."""
    coefficients: Tensor
    """(B, A, K) in (-1, 1)."""
    prototypes: Tensor
    """(B, K, h, w), not negative."""
    semantic_logits: Tensor | None
    """(B, C, height of P3, width of P3); None outside training."""
    level_sizes: tuple[tuple[int, int], ...]
    """(height, width) of P3 .. P7; three times their areas add up to A."""
    canvas_size: tuple[int, int]
    """(height, width) of the input in pixels."""


class AnchorHead(nn.Module):
    """One 3x3 convolution with ReLU, then three 3x3 convolutions side by side (Section 4, Figure 4).

    Args:
        num_classes: C.
        channels: of the levels and of the shared convolution.
        prototypes: K.
    """

    def __init__(self, num_classes: int, channels: int = 256, prototypes: int = 32) -> None:
        super().__init__()
        each = len(RATIOS)
        self.shared = nn.Conv2d(channels, channels, 3, padding=1)
        self.class_logits = nn.Conv2d(channels, each * (num_classes + 1), 3, padding=1)
        self.offsets = nn.Conv2d(channels, each * 4, 3, padding=1)
        self.coefficients = nn.Conv2d(channels, each * prototypes, 3, padding=1)
        nn.init.xavier_uniform_(self.shared.weight)
        nn.init.zeros_(self.shared.bias)  # type: ignore[arg-type]
        for convolution in (self.class_logits, self.offsets, self.coefficients):
            _start_small(convolution)

    def forward(self, levels: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """[P3 .. P7] (B, channels, height, width) -> (B, A, C + 1), (B, A, 4) and (B, A, K)."""
        features = [functional.relu(self.shared(level)) for level in levels]
        class_logits = torch.cat([_by_anchor(self.class_logits(f)) for f in features], dim=1)
        offsets = torch.cat([_by_anchor(self.offsets(f)) for f in features], dim=1)
        coefficients = torch.cat([_by_anchor(self.coefficients(f)) for f in features], dim=1)
        return class_logits, offsets, coefficients.tanh()


class Yolact(nn.Module):
    """YOLACT: images in, what every anchor says out. Normalization is a buffer of the model.

    Args:
        backbone: gives C3, C4, C5.
        num_classes: C.
        channels: of FPN and head.
        prototype_channels: inside the ProtoNet.
        prototypes: K.
        prototype_depth: 3x3 convolutions of the ProtoNet before its upsampling.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        channels: int = 256,
        prototype_channels: int = 256,
        prototypes: int = 32,
        prototype_depth: int = 3,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.fpn = FPN(backbone.channels, channels)
        self.head = AnchorHead(num_classes, channels, prototypes)
        self.protonet = ProtoNet(channels, prototype_channels, prototypes, prototype_depth)
        self.semantic = nn.Conv2d(channels, num_classes, 1)
        _start_small(self.semantic)
        self.register_buffer("mean", torch.tensor(backbone.mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(backbone.std).view(3, 1, 1))

    def forward(self, images: Tensor) -> AnchorOutputs:
        """uint8 or float RGB canvases (B, 3, height, width) in 0 .. 255, of any size -> what every anchor says."""
        normalized = (images.to(self.mean.dtype) - self.mean) / self.std
        levels = self.fpn(self.backbone(normalized.contiguous(memory_format=torch.channels_last)))
        class_logits, offsets, coefficients = self.head(levels)
        return AnchorOutputs(
            class_logits=class_logits,  # (B, A, C + 1)
            offsets=offsets,  # (B, A, 4)
            coefficients=coefficients,  # (B, A, K)
            prototypes=self.protonet(levels[0]).float(),  # (B, K, 2 x height of P3, 2 x width of P3)
            semantic_logits=self.semantic(levels[0]).float() if self.training else None,  # (B, C, ., .) of P3
            level_sizes=tuple((level.shape[2], level.shape[3]) for level in levels),
            canvas_size=(images.shape[2], images.shape[3]),
        )


def build_yolact(config: ModelConfig, num_classes: int) -> Yolact:
    """The network that `config` describes, randomly initialized; its frozen parts are frozen if config.pretrained.

    Of `config` it reads backbone, pretrained, frozen_stages, frozen_batch_norm, channels, prototypes,
    prototype_channels and prototype_depth; the rest is SAIS' own.
    """
    backbone = Backbone(
        config.backbone,
        frozen_stages=config.frozen_stages if config.pretrained else 0,
        frozen_batch_norm=config.frozen_batch_norm and config.pretrained,
    )
    model = Yolact(
        backbone, num_classes, config.channels, config.prototype_channels, config.prototypes, config.prototype_depth
    )
    return model.to(memory_format=torch.channels_last)


def _by_anchor(maps: Tensor) -> Tensor:
    """(B, 3 n, height, width) -> (B, 3 height width, n) float32, row by row, the ratios of a location together."""
    batch, channels, height, width = maps.shape
    each = channels // len(RATIOS)
    rows = maps.permute(0, 2, 3, 1).reshape(batch, height * width * len(RATIOS), each)
    return rows.float()


def _start_small(convolution: nn.Conv2d) -> None:
    """Small weights, since the paper does not say how its outputs start.

    From Xavier's (the authors' choice) logits start at +-4 where a backbone's features are as large as those of
    EfficientNet-Lite, and eight images were learnt to a mask AP of 0.50 instead of 0.65 (one run of each).
    """
    nn.init.normal_(convolution.weight, std=0.01)
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
