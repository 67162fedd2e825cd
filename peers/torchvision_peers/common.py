"""What both peers share: our backbone in front of torchvision's modules, and what passes between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sais.config import ModelConfig
from sais.modeling.backbones import Backbone
from sais.structures import GroundTruth


@dataclass
class Regions:
    """What a peer found in one image, best first."""

    boxes: Tensor
    """(R, 4) canvas pixels, clipped to the image."""
    scores: Tensor
    """(R,) descending."""
    labels: Tensor
    """(R,) int64, 0 .. C-1."""
    probabilities: Tensor | None = None
    """(R, 28, 28) the mask of each region's own class, stretched over its box; None where there are no masks."""


def backbone_of(config: ModelConfig) -> Backbone:
    """The backbone as SAIS has it: its frozen parts are frozen only where ImageNet weights are to come."""
    return Backbone(
        config.backbone,
        frozen_stages=config.frozen_stages if config.pretrained else 0,
        frozen_batch_norm=config.frozen_batch_norm and config.pretrained,
    )


def normalized(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """uint8 or float RGB canvases (B, 3, H, W) in 0 .. 255 -> what the backbone wants."""
    return ((images.to(mean.dtype) - mean) / std).contiguous(memory_format=torch.channels_last)


def box_targets(objects: list[GroundTruth], first_label: int) -> list[dict[str, Tensor]]:
    """The objects as torchvision takes them: B times boxes (N, 4) and labels (N,), the first class `first_label`."""
    return [{"boxes": o.boxes, "labels": o.labels + first_label} for o in objects]


def answering_in_float32(module: nn.Module) -> nn.Module:
    """The module, whose outputs (tensors, or lists, tuples, dicts of them) come out in float32 from now on.

    Under bf16 autocast torchvision would decode boxes in the type of the head's outputs: steps of 4 pixels at 768.
    """
    module.register_forward_hook(_to_float32)
    return module


def _to_float32(module: nn.Module, inputs: Any, outputs: Any) -> Any:
    return _float32(outputs)


def _float32(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.float()
    if isinstance(value, dict):
        return {name: _float32(one) for name, one in value.items()}
    return type(value)(_float32(one) for one in value)


__all__ = ["Regions", "answering_in_float32", "backbone_of", "box_targets", "normalized"]
