"""The network: normalization, backbone, FPN, head and ProtoNet (Figure 1). It maps images to dense outputs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sais.config import ModelConfig
from sais.modeling.backbones import Backbone
from sais.modeling.fpn import FPN
from sais.modeling.head import HEADS, HeadOutputs
from sais.modeling.protonet import ProtoNet
from sais.resolve import resolve
from sais.structures import MASK_STRIDE, STRIDES, DenseOutputs


class SAIS(nn.Module):
    """Single-stage anchor-free instance segmentation (Figure 1); without a ProtoNet it is FCOS.

    Normalization is a buffer of the model, so that it can be neither forgotten nor different elsewhere.

    Args:
        backbone: maps normalized images to C3, C4, C5.
        fpn: maps C3, C4, C5 to P3 .. P7.
        head: maps P3 .. P7 to `HeadOutputs`.
        protonet: maps P3 to prototypes; None without masks.
        coordinates: a `sais.modeling.relative_coordinates.RelativeCoordinates`, or None.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: Backbone,
        fpn: nn.Module,
        head: nn.Module,
        protonet: nn.Module | None,
        coordinates: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.fpn = fpn
        self.head = head
        self.protonet = protonet
        self.coordinates = coordinates
        self.strides = STRIDES
        self.mask_stride = MASK_STRIDE
        self.register_buffer("mean", torch.tensor(backbone.mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(backbone.std).view(3, 1, 1))

    def forward(self, images: Tensor) -> DenseOutputs:
        """uint8 or float RGB canvases (B, 3, H, W) in [0, 255], H and W multiples of 32 -> dense outputs (B, L, .)."""
        normalized = (images.to(self.mean.dtype) - self.mean) / self.std
        normalized = normalized.to(self.backbone.dtype)  # half precision where inference uses it
        levels = self.fpn(self.backbone(normalized))
        predictions: HeadOutputs = self.head(levels)
        level_sizes = tuple((level.shape[2], level.shape[3]) for level in levels)
        coefficients = predictions.coefficients  # (B, L, K)
        prototypes = self.protonet(levels[0]).float() if self.protonet is not None else None  # (B, K, H/4, W/4)
        if self.coordinates is not None:
            coefficients, prototypes = self.coordinates(coefficients, prototypes, level_sizes)
        return DenseOutputs(
            class_logits=predictions.class_logits,  # (B, L, C)
            quality_logits=predictions.quality_logits,  # (B, L)
            distances=predictions.distances,  # (B, L, 4)
            coefficients=coefficients,
            prototypes=prototypes,
            level_sizes=level_sizes,
        )


def build_model(config: ModelConfig, num_classes: int) -> SAIS:
    """Build the network that `config` describes, randomly initialized, its frozen parts frozen if `config.pretrained`.

    Load weights with `sais.modeling.imagenet_weights.load_imagenet_weights(model.backbone)` or from a checkpoint.

    Raises:
        ConfigError: an unknown backbone or head, or a number of channels that its norm cannot group.
    """
    backbone = Backbone(
        config.backbone,
        frozen_stages=config.frozen_stages if config.pretrained else 0,
        frozen_batch_norm=config.frozen_batch_norm and config.pretrained,
    )
    coordinates, prototypes = None, config.prototypes if config.masks else 0
    if config.masks and config.relative_coordinates:
        from sais.modeling.relative_coordinates import COEFFICIENTS, RelativeCoordinates

        coordinates, prototypes = RelativeCoordinates(STRIDES, MASK_STRIDE), prototypes + COEFFICIENTS
    head = resolve(config.head, HEADS, "head")(
        num_classes=num_classes,
        strides=STRIDES,
        channels=config.channels,
        tower_depth=config.tower_depth,
        tower_kind=config.tower_kind,
        norm=config.norm,
        prototypes=prototypes,
        coefficients_from=config.coefficients_from,
        distance_unit=config.distance_unit,
        quality=config.quality != "none",
        quality_from=config.quality_from,
        distance_activation=config.distance_activation,
        distance_origin=config.distance_origin,
        tower_bias=config.tower_bias,
    )
    protonet = None
    if config.masks:
        sizes = (config.channels, config.prototype_channels, config.prototypes, config.prototype_depth)
        protonet = ProtoNet(*sizes, config.prototype_norm)
    return SAIS(backbone, FPN(backbone.channels, config.channels), head, protonet, coordinates)
