"""The row of SAIS in `sais.modeling.architecture.ARCHITECTURES`."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sais.config import Experiment, PostprocessConfig
from sais.modeling.architecture import Architecture
from sais.modeling.postprocess import postprocess
from sais.modeling.sais import build_model
from sais.ops.boxes import locations
from sais.structures import STRIDES, DenseOutputs, Instances

if TYPE_CHECKING:
    from sais.modeling.criterion import SaisCriterion
    from sais.modeling.postprocess_fixed import FixedInstances


def _build(experiment: Experiment, num_classes: int) -> nn.Module:
    return build_model(experiment.model, num_classes)


def _build_criterion(experiment: Experiment) -> SaisCriterion:
    from sais.modeling.criterion import build_criterion  # a prediction loads neither assigners nor losses

    return build_criterion(experiment)


def _postprocess(
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


def _postprocess_fixed(
    outputs: DenseOutputs, content_sizes: Tensor, settings: PostprocessConfig, candidates: int, repetitions: int
) -> FixedInstances:
    from sais.modeling.postprocess_fixed import postprocess_fixed  # for accelerators only

    # torch.compile warns about functions with a cache.
    locate = _locations.__wrapped__ if torch.compiler.is_compiling() else _locations
    return postprocess_fixed(
        outputs,
        locate(outputs.level_sizes, outputs.class_logits.device),
        content_sizes,
        settings.score_threshold,
        settings.pre_nms_topk,
        settings.nms_iou,
        settings.max_detections,
        candidates,
        repetitions,
    )


@lru_cache(maxsize=16)
def _locations(level_sizes: tuple[tuple[int, int], ...], device: torch.device) -> Tensor:
    """Return the locations (L, 2) of a canvas, computed once per size and device."""
    return locations(level_sizes, STRIDES, device)


SAIS_ARCHITECTURE = Architecture(
    "sais",
    _build,
    _build_criterion,
    _postprocess,
    postprocess_fixed=_postprocess_fixed,
    class_layers=("head.class_logits",),
)
