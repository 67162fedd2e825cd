"""Code that the torchvision peers share: backbone, normalization, targets, float32 outputs."""

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
    """The detections of one image, scores descending."""

    boxes: Tensor
    """(R, 4) canvas pixels, clipped to the image."""
    scores: Tensor
    """(R,) descending."""
    labels: Tensor
    """(R,) int64, 0 to C - 1."""
    probabilities: Tensor | None = None
    """(R, 28, 28) the mask of each region's class, relative to its box; None for models without masks."""


@dataclass
class PendingOutputs:
    """The training outputs of a network whose forward pass needs ground truth; the criterion runs it."""

    network: Any
    """The network in training mode."""


def backbone_of(config: ModelConfig) -> Backbone:
    """Build the backbone as in SAIS: parts are frozen only if ImageNet weights will be loaded."""
    return Backbone(
        config.backbone,
        frozen_stages=config.frozen_stages if config.pretrained else 0,
        frozen_batch_norm=config.frozen_batch_norm and config.pretrained,
    )


def normalized(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Normalize RGB canvases (B, 3, H, W) in [0, 255] for the backbone."""
    return ((images.to(mean.dtype) - mean) / std).contiguous(memory_format=torch.channels_last)


def box_targets(ground_truths: list[GroundTruth], first_label: int) -> list[dict[str, Tensor]]:
    """Convert B ground truths to torchvision's format: boxes (N, 4) and labels (N,), starting at `first_label`."""
    return [{"boxes": truth.boxes, "labels": truth.labels + first_label} for truth in ground_truths]


def with_float32_outputs(module: nn.Module) -> nn.Module:
    """Convert all outputs of the module (tensors, or lists, tuples and dicts of them) to float32; returns the module.

    Under bf16 autocast, torchvision would decode boxes in the dtype of the head's outputs: steps of 4 pixels at 768.
    """
    module.register_forward_hook(_to_float32)
    return module


def _to_float32(module: nn.Module, inputs: Any, outputs: Any) -> Any:
    return _float32(outputs)


def _float32(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.float()
    if isinstance(value, dict):
        return {name: _float32(item) for name, item in value.items()}
    return type(value)(_float32(item) for item in value)


__all__ = ["PendingOutputs", "Regions", "backbone_of", "box_targets", "normalized", "with_float32_outputs"]
