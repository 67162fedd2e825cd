"""PyTorch: runs a trained network, rewritten for inference on its device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sais.config import PostprocessConfig
from sais.device import choose_device
from sais.inference.options import InferenceOptions
from sais.inference.trained_model import TrainedModel, prepare_network
from sais.modeling.architecture import find_architecture
from sais.ops.letterbox import CanvasMap
from sais.results.detections import Detections
from sais.structures import MASK_STRIDE, DenseOutputs, Instances, copies_overlap

if TYPE_CHECKING:
    from sais.inference.on_device import DeviceRoute


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

    fixed_canvas: tuple[int, int] | None = None

    def __init__(self, model: TrainedModel, options: InferenceOptions) -> None:
        self.device = choose_device(options.device)
        self.architecture = find_architecture(model.experiment.model.architecture)
        model.network.to(self.device)
        self.network = prepare_network(model)
        if self.device.type == "cpu" or options.precision != "fp32" or options.compile:
            from sais.converters.for_device import for_device  # a GPU runs the fp32 network as it is

            self.network = for_device(self.network, options.precision, options.compile)
        self.experiment = model.experiment
        self.class_names = model.class_names
        self.category_ids = model.category_ids
        self.thresholds = model.thresholds
        self.mask_stride: int = getattr(model.network, "mask_stride", MASK_STRIDE)
        self.device_route: DeviceRoute | None = None
        """Route from canvases to detections on an accelerator; None on a CPU, on MPS (which has no float64) and for
        architectures without post-processing in fixed shapes."""
        if self.device.type not in ("cpu", "mps") and self.architecture.postprocess_fixed is not None:
            from sais.inference.on_device import DeviceRoute

            self.device_route = DeviceRoute(
                *(self.network, self.architecture.postprocess_fixed, self.device, self.class_names, self.mask_stride),
                options.compile,
            )

    @torch.inference_mode()
    def run(
        self,
        canvases: Any,
        content_sizes: Sequence[tuple[float, float]],
        settings: PostprocessConfig | None = None,
        labels: Sequence[int] | None = None,
    ) -> Instances:
        """Detect the objects on canvases (B, 3, height, width); see `Backend.run`."""
        assert self.architecture.postprocess is not None
        outputs = self.network(self._to_device(canvases))
        if labels is not None and isinstance(outputs, DenseOutputs):
            logits = torch.full_like(outputs.class_logits, -torch.inf)
            logits[..., list(labels)] = outputs.class_logits[..., list(labels)]
            outputs = replace(outputs, class_logits=logits)
        return self.architecture.postprocess(outputs, list(content_sizes), settings or self.experiment.postprocess)

    @property
    def detect(self) -> Callable[[Any, Sequence[CanvasMap], PostprocessConfig], list[Detections]] | None:
        """Function from canvases (B, 3, height, width), canvas maps and post-processing settings to detections.

        None unless the architecture makes its masks itself; see `sais.modeling.architecture.Architecture.detect`.
        """
        return None if self.architecture.detect is None else self._detect

    @torch.inference_mode()
    def _detect(self, canvases: Any, canvas_maps: Sequence[CanvasMap], settings: PostprocessConfig) -> list[Detections]:
        assert self.architecture.detect is not None
        return self.architecture.detect(
            self.network, self._to_device(canvases), list(canvas_maps), self.class_names, settings
        )

    def _to_device(self, canvases: Any) -> Tensor:
        return torch.as_tensor(canvases).to(self.device, non_blocking=copies_overlap(self.device))
