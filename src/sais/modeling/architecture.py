"""Architectures: a network, its criterion and its post-processing, named in every checkpoint.

The engine, the predictor and the exporters use nothing else of a model, so that they train, evaluate, predict with and
export any row of `ARCHITECTURES` and any `module:attribute` of another package.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sais.config import Experiment, PostprocessConfig
from sais.errors import ConfigError
from sais.modeling.fpn import STRIDES
from sais.modeling.postprocess import postprocess
from sais.modeling.sais import build_model
from sais.ops.boxes import locations
from sais.ops.letterbox import CanvasMap
from sais.resolve import resolve
from sais.results.detections import Detections
from sais.structures import DenseOutputs, Instances

if TYPE_CHECKING:
    from sais.modeling.criterion import Criterion

Postprocess = Callable[[Any, list[tuple[float, float]], PostprocessConfig], Instances]
"""(outputs of the network, B content sizes (height, width) in canvas pixels, settings) -> instances (B, D, .)."""
Detect = Callable[[Any, Tensor, list[CanvasMap], tuple[str, ...], PostprocessConfig], list[Detections]]
"""(network, canvases (B, 3, H, W) uint8 on its device, B canvas maps, class names, settings) -> B detections."""


@dataclass(frozen=True)
class Architecture:
    """A model family."""

    name: str
    """Name in reports and messages."""
    build: Callable[[Experiment, int], nn.Module]
    """(experiment, number of classes) -> the network, randomly initialized, with `requires_grad` off in frozen parts. It
    maps canvases (B, 3, H, W) to its outputs and has a `sais.modeling.backbones.Backbone` named `backbone`, into which
    the engine loads ImageNet weights, the `strides` of its levels and the `mask_stride` of its prototypes."""
    build_criterion: Callable[[Experiment], Criterion]
    """(experiment) -> the training objective."""
    postprocess: Postprocess | None
    """From outputs to instances whose masks are weighted sums of prototypes. None with `detect`."""
    detect: Detect | None = None
    """From canvases to detections, for networks whose masks are made in another way (Mask R-CNN)."""
    class_layers: tuple[str, ...] = ()
    """Modules whose first dimension is the classes. They are re-initialized for other classes when fine-tuning."""


def find_architecture(name: str) -> Architecture:
    """Return the architecture that `model.architecture` names.

    Args:
        name: a row of `ARCHITECTURES` or ``module:attribute``.

    Raises:
        ConfigError: no such row or attribute, or the attribute is not an `Architecture`.
    """
    architecture = resolve(name, ARCHITECTURES, "architecture")
    if not isinstance(architecture, Architecture):
        raise ConfigError(f"architecture {name!r}: not a sais.modeling.architecture.Architecture. Name one.")
    return architecture


def _build_sais(experiment: Experiment, num_classes: int) -> nn.Module:
    return build_model(experiment.model, num_classes)


def _build_sais_criterion(experiment: Experiment) -> Criterion:
    from sais.modeling.criterion import build_criterion  # inference does not load assigners and losses

    return build_criterion(experiment)


def _postprocess_sais(
    outputs: DenseOutputs, content_sizes: list[tuple[float, float]], settings: PostprocessConfig
) -> Instances:
    return postprocess(
        outputs,
        _locations(outputs.level_sizes, outputs.class_logits.device),
        content_sizes,
        settings.score_threshold,
        settings.pre_nms_topk,
        settings.nms_iou,
        settings.max_detections,
    )


@lru_cache(maxsize=16)
def _locations(level_sizes: tuple[tuple[int, int], ...], device: torch.device) -> Tensor:
    """Return the locations (L, 2) of a canvas, computed once per size and device."""
    return locations(level_sizes, STRIDES, device)


ARCHITECTURES: dict[str, Architecture] = {
    "sais": Architecture(
        "sais", _build_sais, _build_sais_criterion, _postprocess_sais, class_layers=("head.class_logits",)
    )
}
