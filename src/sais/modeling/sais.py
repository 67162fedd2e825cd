"""The network: normalization, backbone, FPN, head and ProtoNet. It turns images into dense outputs, nothing else."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sais.config import ModelConfig
from sais.converters.activation_checkpointing import CHECKPOINTING_MODES, checkpoint_stages
from sais.converters.cpu import winograd
from sais.converters.cpu.training_convolution import set_fast_convolutions
from sais.errors import SaisError
from sais.modeling.backbones import Backbone, load_imagenet_weights
from sais.modeling.fpn import FPN, STRIDES
from sais.modeling.head import GROUPS, Head
from sais.modeling.protonet import ProtoNet
from sais.structures import DenseOutputs

CONVOLUTIONS = ("auto", "direct", "winograd")


class SAIS(nn.Module):
    """Single-stage anchor-free instance segmentation (Figure 1); without a ProtoNet it is FCOS.

    Normalization is a buffer of the model, so that it can be neither forgotten nor different elsewhere.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone, fpn: FPN, head: Head, protonet: ProtoNet | None) -> None:
        super().__init__()
        self.backbone = backbone
        self.fpn = fpn
        self.head = head
        self.protonet = protonet
        self.register_buffer("mean", torch.tensor(backbone.mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(backbone.std).view(3, 1, 1))

    def forward(self, images: Tensor) -> DenseOutputs:
        """uint8 or float RGB canvases (B, 3, H, W) in 0 .. 255, sides multiples of 32 -> what every location says."""
        normalized = (images.to(self.mean.dtype) - self.mean) / self.std
        normalized = normalized.to(self.backbone.dtype)  # half the bytes, where inference asks for it
        levels = self.fpn(self.backbone(normalized.contiguous(memory_format=torch.channels_last)))
        class_logits, centerness_logits, distances, coefficients = self.head(levels)
        return DenseOutputs(
            class_logits=class_logits,  # (B, L, C)
            centerness_logits=centerness_logits,  # (B, L)
            distances=distances,  # (B, L, 4)
            coefficients=coefficients,  # (B, L, K)
            prototypes=self.protonet(levels[0]).float() if self.protonet is not None else None,  # (B, K, H/4, W/4)
            level_sizes=tuple((level.shape[2], level.shape[3]) for level in levels),
        )


def set_activation_checkpointing(model: SAIS, kind: str) -> None:
    """Choose what backward makes again instead of keeping it: memory against time, no result changes.

    Args:
        model: in place; what it computes in evaluation stays as it is.
        kind: "none"; "norms": what norms, activations, sums and the doubling of maps give; "all": also
            convolutions, but for the last stage of the backbone.

    Raises:
        SaisError: no such kind, or with "all" a backbone that is not made of stages.
    """
    if kind not in CHECKPOINTING_MODES:
        raise SaisError(f"recompute {kind!r}: take one of {', '.join(CHECKPOINTING_MODES)}")
    stages = model.backbone.trained_stages() if kind == "all" else []
    checkpoint_stages(model.backbone.modules(), False)
    checkpoint_stages(stages[:-1], True)  # the last one's maps are small
    model.head.recompute = kind
    if model.protonet is not None:
        model.protonet.recompute = kind


LARGE = 64 * 64
"""Cells of P3 from which on contiguous maps train quicker."""


def set_convolutions(model: SAIS, kind: str, canvas: tuple[int, int]) -> None:
    """Let the network train on a CPU, in fp32, by the quickest way through its 3x3 convolutions, in place.

    Results stay the same but for rounding. Times are in `docs/performance.md`.

    Args:
        kind: "winograd": with a quarter of the multiplications, the large ones. "direct": oneDNN's sums; its gradient
            of the weights takes up to five times as long on large maps that are channels-last as on contiguous ones,
            and longer on small ones that are contiguous, so FPN, head and ProtoNet lie as the canvas asks for.
            "auto": winograd where it was measured to be faster (`winograd.pays`), else direct.
        canvas: (height, width) that it trains on.

    Raises:
        SaisError: no such kind.
    """
    if kind not in CONVOLUTIONS:
        raise SaisError(f"convolutions {kind!r}: take one of {', '.join(CONVOLUTIONS)}")
    by_winograd = kind == "winograd" or (kind == "auto" and winograd.is_faster())
    set_fast_convolutions(model, by_winograd)
    large = (canvas[0] // STRIDES[0]) * (canvas[1] // STRIDES[0]) >= LARGE
    layout = torch.contiguous_format if large and not by_winograd else torch.channels_last
    for part in (model.fpn, model.head, model.protonet):
        if part is not None:
            part.to(memory_format=layout)


def build_model(config: ModelConfig, num_classes: int) -> SAIS:
    """The network that `config` describes, randomly initialized; its frozen parts are frozen if config.pretrained.

    Fill it with `load_imagenet_weights(model.backbone)` or with a checkpoint.

    Raises:
        SaisError: no such backbone, or a number of channels that its norm cannot group.
    """
    if config.norm == "group" and config.channels % min(GROUPS, max(1, config.channels // 2)):
        raise SaisError(f"--model.channels {config.channels}: must be a multiple of {GROUPS} with --model.norm group")
    backbone = Backbone(
        config.backbone,
        frozen_stages=config.frozen_stages if config.pretrained else 0,
        frozen_batch_norm=config.frozen_batch_norm and config.pretrained,
    )
    prototypes = config.prototypes if config.masks else 0
    head = Head(
        num_classes,
        STRIDES,
        channels=config.channels,
        tower_depth=config.tower_depth,
        tower_kind=config.tower_kind,
        norm=config.norm,
        prototypes=prototypes,
        coefficients_from=config.coefficients_from,
        distance_unit=config.distance_unit,
    )
    protonet = None
    if config.masks:
        protonet = ProtoNet(config.channels, config.prototype_channels, config.prototypes, config.prototype_depth)
    model = SAIS(backbone, FPN(backbone.channels, config.channels), head, protonet)
    return model.to(memory_format=torch.channels_last)


__all__ = [
    "SAIS",
    "STRIDES",
    "build_model",
    "load_imagenet_weights",
    "set_convolutions",
    "set_activation_checkpointing",
]
