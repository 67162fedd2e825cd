"""The backend of exported files: an opened graph and, where NMS is not inside it, the numpy post-processing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from sais.config import PostprocessConfig
from sais.errors import CheckpointError, ConfigError, InputError
from sais.inference.graph_checksum import check_seal
from sais.inference.metadata import GraphMetadata
from sais.inference.numpy_postprocess import level_sizes, postprocess
from sais.inference.options import EXPORTED_SUFFIXES, InferenceOptions
from sais.structures import Instances

RAW_OUTPUTS = {"class_logits": "BLC", "distances": "BL4"}
DETECTION_OUTPUTS = {"boxes": "BL4", "scores": "BL", "labels": "BL"}
MASK_OUTPUTS = {"coefficients": "BLK", "prototypes": "BKhw"}
"""Name of each output -> its axes; L are locations, or detections after NMS."""
INPUTS = {"images", "image_sizes"}


class Session(Protocol):
    """A graph opened by a runtime. Several threads may call `run` at once."""

    metadata: GraphMetadata

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the graph's outputs (B, ...) by name for inputs (B, ...) by name; superfluous inputs are ignored."""
        ...


class ExportedBackend:
    """A `Backend` around an opened graph.

    Args:
        session: the opened graph.
        path: path of its file, for error messages.
    """

    uses_torch = False

    def __init__(self, session: Session, path: Path) -> None:
        metadata = session.metadata
        self.session = session
        self.path = path
        self.graph = metadata.graph
        self.experiment = metadata.experiment
        self.class_names = metadata.class_names
        self.category_ids = metadata.category_ids
        self.thresholds = metadata.thresholds
        self.strides = metadata.strides
        self.mask_stride = metadata.mask_stride
        self.fixed_canvas = None if metadata.dynamic_shape else metadata.experiment.input.size

    def check_settings(self, settings: PostprocessConfig) -> None:
        """Raise ConfigError for settings that differ from those inside of the graph and cannot be applied after it."""
        own = self.experiment.postprocess
        if self.graph == "raw":
            return
        if settings.nms_iou != own.nms_iou:
            raise ConfigError(
                f"nms_iou: the graph of {self.path} contains NMS at an IoU of {own.nms_iou:g}. "
                "Export the graph 'raw' to choose another."
            )
        if settings.max_detections > own.max_detections:
            raise ConfigError(
                f"max_detections: the graph of {self.path} returns at most {own.max_detections}. "
                "Export the graph 'raw' to choose a higher number."
            )

    def run(
        self,
        canvases: Any,
        content_sizes: Sequence[tuple[float, float]],
        settings: PostprocessConfig | None = None,
        labels: Sequence[int] | None = None,
    ) -> Instances:
        """Detect the objects on canvases (B, 3, height, width); see `Backend.run`."""
        outputs = self.forward(canvases, content_sizes)
        if labels is not None and "class_logits" in outputs:
            logits = np.full_like(outputs["class_logits"], -np.inf)
            logits[..., list(labels)] = outputs["class_logits"][..., list(labels)]
            outputs = outputs | {"class_logits": logits}
        canvas = (int(canvases.shape[2]), int(canvases.shape[3]))
        return self.postprocess(outputs, canvas, content_sizes, settings or self.experiment.postprocess)

    def forward(self, canvases: Any, content_sizes: Sequence[tuple[float, float]]) -> dict[str, np.ndarray]:
        """Return the graph's outputs by name for canvases (B, 3, height, width) uint8.

        Raises:
            CheckpointError: the graph cannot run, or its outputs are not those of an exported model.
            InputError: the graph was exported for another canvas size.
        """
        size = tuple(canvases.shape[2:])
        if self.fixed_canvas is not None and size != self.fixed_canvas:
            height, width = self.fixed_canvas
            raise InputError(
                f"{self.path}: exported for canvases of {height} x {width}, not {size[0]} x {size[1]}. "
                "Export it with a dynamic shape."
            )
        images = np.ascontiguousarray(canvases)
        try:
            outputs = self.session.run({"images": images, "image_sizes": np.array(content_sizes, np.float32)})
        except Exception as error:  # the runtimes' exceptions have no common base class
            reason = " ".join(str(error).split())[:300]
            raise CheckpointError(f"{self.path}: the graph cannot run ({reason}). Export it again.") from error
        self._check_outputs(outputs, len(images), (int(size[0]), int(size[1])))
        return outputs

    def _check_outputs(self, outputs: dict[str, np.ndarray], batch: int, canvas: tuple[int, int]) -> None:
        """Raise CheckpointError unless a graph's outputs fit each other, the canvas (height, width) and the classes."""
        names = RAW_OUTPUTS if self.graph == "raw" else DETECTION_OUTPUTS
        names |= MASK_OUTPUTS if "coefficients" in outputs or "prototypes" in outputs else {}
        if "quality_logits" in outputs:
            names |= {"quality_logits": "BL"}
        sizes = {"B": batch, "4": 4}
        if self.graph == "raw":
            locations = sum(height * width for height, width in level_sizes(canvas, self.strides))
            sizes |= {"C": len(self.class_names), "L": locations}
        for name, axes in names.items():
            shape = outputs[name].shape if name in outputs else ()
            if len(shape) != len(axes) or any(sizes.setdefault(a, n) != n for a, n in zip(axes, shape, strict=True)):
                raise CheckpointError(
                    f"{self.path}: the output {name} of its graph has shape {shape} instead of ({', '.join(axes)}), "
                    f"{', '.join(f'{axis} = {size}' for axis, size in sizes.items())}. Export it again."
                )
            if outputs[name].dtype.kind not in ("iu" if name == "labels" else "f"):
                raise CheckpointError(
                    f"{self.path}: the output {name} of its graph is of type {outputs[name].dtype}. Export it again."
                )
        labels = outputs.get("labels")
        if labels is not None and labels.size and not 0 <= labels.min() <= labels.max() < len(self.class_names):
            raise CheckpointError(
                f"{self.path}: its graph returns labels {labels.min()} to {labels.max()}, but it has "
                f"{len(self.class_names)} class names. Export it again."
            )

    def postprocess(
        self,
        outputs: dict[str, np.ndarray],
        canvas: tuple[int, int],
        content_sizes: Sequence[tuple[float, float]],
        settings: PostprocessConfig,
    ) -> Instances:
        """Turn the graph's outputs into Instances.

        Args:
            outputs: arrays (B, ...) by name, as `forward` returns them.
            canvas: (height, width) of the canvases.
            content_sizes: B times (height, width) in canvas pixels of the image on its canvas.
            settings: thresholds; a graph with NMS inside has its own.
        """
        coefficients, prototypes = outputs.get("coefficients"), outputs.get("prototypes")
        if self.graph != "raw":
            scores = np.where(np.isfinite(outputs["boxes"]).all(2), outputs["scores"], 0)
            return Instances(outputs["boxes"], scores, outputs["labels"], coefficients, prototypes)
        return postprocess(
            outputs["class_logits"],
            outputs.get("quality_logits"),
            outputs["distances"],
            coefficients,
            prototypes,
            canvas,
            content_sizes,
            self.strides,
            settings,
        )


def open_exported(path: Path, options: InferenceOptions) -> ExportedBackend:
    """Return the backend of an exported file, run by the runtime that `options.runtime` names.

    Raises:
        CheckpointError: no such file, not one exported by sais, damaged, or changed by another program (checked unless
            `options.trust`).
        ConfigError: the runtime does not support the options.
        MissingDependencyError: the runtime is not installed.
    """
    if path.suffix not in EXPORTED_SUFFIXES:
        raise CheckpointError(f"{path}: not an exported model. Give an {' or '.join(EXPORTED_SUFFIXES)} file.")
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file. Give an exported .onnx or .xml file.")
    if options.compile:
        raise ConfigError(f"{path}: compile is for PyTorch models; the runtime compiles an exported one. Turn it off.")
    if not options.trust:
        check_seal(path)
    if options.runtime == "openvino" or path.suffix == ".xml":
        if options.runtime == "onnxruntime":
            raise ConfigError(f"{path}: ONNX Runtime reads .onnx files only. Export the model to ONNX.")
        from sais.inference.backends.openvino import OpenVinoSession

        return ExportedBackend(OpenVinoSession(path, options), path)
    from sais.inference.backends.onnxruntime import OnnxRuntimeSession

    return ExportedBackend(OnnxRuntimeSession(path, options), path)
