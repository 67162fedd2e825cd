"""PyTorch: runs a trained network, rewritten for inference on its device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sais.converters.for_device import for_device
from sais.converters.fuse import for_inference
from sais.device import choose_device
from sais.inference.options import InferenceOptions
from sais.inference.trained_model import TrainedModel
from sais.modeling.postprocess import postprocess
from sais.ops.boxes import locations
from sais.structures import MASK_STRIDE, STRIDES, Instances


class TorchBackend:
    """A `Backend` around a network.

    Args:
        model: trained model; its network is moved to the device, but not changed otherwise.
        options: inference options; of them device, precision and compile are used.

    Raises:
        ConfigError: the device lacks the precision.
        MissingDependencyError: torch.compile lacks a compiler.
        ResourceError: no such device.
    """

    fixed_canvas = None

    def __init__(self, model: TrainedModel, options: InferenceOptions) -> None:
        self.device = choose_device(options.device)
        network: Any = model.network.to(self.device)
        self.network = for_device(for_inference(network), options.precision, options.compile)
        self.experiment = model.experiment
        self.class_names = model.class_names
        self.category_ids = model.category_ids
        self.mask_stride = MASK_STRIDE
        self._points: dict[tuple[tuple[int, int], ...], Tensor] = {}

    @torch.inference_mode()
    def run(self, canvases: Any, content_sizes: Sequence[tuple[float, float]], score: float | None = None) -> Instances:
        """Detect the objects on canvases (B, 3, height, width); see `Backend.run`."""
        outputs = self.network(torch.as_tensor(canvases).to(self.device, non_blocking=True))
        settings = self.experiment.postprocess
        if score is not None:  # no score exceeds its class probability: candidates below it are dropped early
            settings = replace(settings, score_threshold=score)
        instances = postprocess(
            outputs,
            self._locations(outputs.level_sizes),
            list(content_sizes),
            score=settings.score_threshold,
            candidates=settings.pre_nms_topk,
            nms=settings.nms_iou,
            detections=settings.max_detections,
        )
        if score is not None:
            instances.scores[instances.scores < score] = 0
        return instances

    def _locations(self, level_sizes: tuple[tuple[int, int], ...]) -> Tensor:
        if level_sizes not in self._points:
            self._points[level_sizes] = locations(level_sizes, STRIDES, self.device)
        return self._points[level_sizes]
