"""The network of YOLACT (Sections 3 and 4, Figure 2): backbone, FPN, one head for all levels, ProtoNet.

Backbone, FPN and ProtoNet are those of SAIS, so that the two differ in their method only. The FPN therefore upsamples
by nearest neighbor and has a ReLU before P7, while that of the authors upsamples bilinearly and has ReLUs elsewhere.
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
    """The outputs of the network for each anchor and for the whole image."""

    class_logits: Tensor
    """(B, A, C + 1); index 0 is the background, index l + 1 is label l."""
    offsets: Tensor
    """(B, A, 4) center x y, width, height relative to the anchor, as `anchors.encode` returns."""
    coefficients: Tensor
    """(B, A, K) in (-1, 1)."""
    prototypes: Tensor
    """(B, K, h, w), not negative."""
    semantic_logits: Tensor | None
    """(B, C, height of P3, width of P3); None in evaluation mode."""
    level_sizes: tuple[tuple[int, int], ...]
    """(height, width) of P3 to P7; A is three times the sum of their areas."""
    canvas_size: tuple[int, int]
    """Height and width of the input in pixels."""


class AnchorHead(nn.Module):
    """One 3x3 convolution with ReLU, then three parallel 3x3 convolutions (Section 4, Figure 4).

    Args:
        num_classes: the number of classes C.
        channels: the channels of the levels and of the shared convolution.
        prototypes: the number of prototypes K.
    """

    def __init__(self, num_classes: int, channels: int = 256, prototypes: int = 32) -> None:
        super().__init__()
        anchors = len(RATIOS)
        self.shared = nn.Conv2d(channels, channels, 3, padding=1)
        self.class_logits = nn.Conv2d(channels, anchors * (num_classes + 1), 3, padding=1)
        self.offsets = nn.Conv2d(channels, anchors * 4, 3, padding=1)
        self.coefficients = nn.Conv2d(channels, anchors * prototypes, 3, padding=1)
        nn.init.xavier_uniform_(self.shared.weight)
        nn.init.zeros_(self.shared.bias)  # type: ignore[arg-type]
        for convolution in (self.class_logits, self.offsets, self.coefficients):
            _initialize(convolution)

    def forward(self, levels: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Compute logits (B, A, C + 1), offsets (B, A, 4) and coefficients (B, A, K) of levels (B, channels, ., .)."""
        features = [functional.relu(self.shared(level)) for level in levels]
        class_logits = torch.cat([_flatten_anchors(self.class_logits(f)) for f in features], dim=1)
        offsets = torch.cat([_flatten_anchors(self.offsets(f)) for f in features], dim=1)
        coefficients = torch.cat([_flatten_anchors(self.coefficients(f)) for f in features], dim=1)
        return class_logits, offsets, coefficients.tanh()


class Yolact(nn.Module):
    """YOLACT: from images to the outputs of each anchor. Normalization is a buffer of the model.

    Args:
        backbone: the backbone that returns C3, C4, C5.
        num_classes: the number of classes C.
        channels: the channels of FPN and head.
        prototype_channels: the channels inside the ProtoNet.
        prototypes: the number of prototypes K.
        prototype_depth: the number of 3x3 convolutions of the ProtoNet before its upsampling.
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
        _initialize(self.semantic)
        self.register_buffer("mean", torch.tensor(backbone.mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(backbone.std).view(3, 1, 1))

    def forward(self, images: Tensor) -> AnchorOutputs:
        """Compute the outputs (B, A, .) of RGB canvases (B, 3, height, width) in [0, 255] of any size."""
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
    """Build the network that `config` describes, randomly initialized; parts are frozen only if config.pretrained.

    The fields used are backbone, pretrained, frozen_stages, frozen_batch_norm, channels, prototypes, prototype_channels
    and prototype_depth.
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


def _flatten_anchors(maps: Tensor) -> Tensor:
    """Reshape maps (B, 3 n, height, width) to (B, 3 height width, n) float32, ordered by row, location and ratio."""
    batch, channels, height, width = maps.shape
    return maps.permute(0, 2, 3, 1).reshape(batch, height * width * len(RATIOS), channels // len(RATIOS)).float()


def _initialize(convolution: nn.Conv2d) -> None:
    """Initialize an output layer with small weights; the paper does not specify its initialization.

    With Xavier initialization (the authors' choice), initial logits reach +-4 for features as large as those of
    EfficientNet-Lite, and overfitting eight images reached a mask AP of 0.50 instead of 0.65 (one run each).
    """
    nn.init.normal_(convolution.weight, std=0.01)
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
