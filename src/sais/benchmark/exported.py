"""Exported graphs as benchmark candidates: files that `sais export` wrote, run by ONNX Runtime or OpenVINO."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from sais.benchmark.candidates import ONE_IMAGE
from sais.benchmark.injection import inject_detections
from sais.benchmark.workload import Workload
from sais.errors import InputError
from sais.inference.assemble import assemble
from sais.inference.backends.exported import open_exported
from sais.inference.numpy_postprocess import level_sizes
from sais.inference.options import InferenceOptions
from sais.ops.letterbox import letterbox
from sais.results.detections import Detections

Outputs = dict[str, np.ndarray]


class PreparedExport:
    """An exported graph, run as the predictor runs it.

    Args:
        path: the `.onnx` or `.xml` file.
        workload: the image and its objects, with as many classes as the graph has.
        options: inference options; of them device, precision, threads and batch_size are used.

    Raises:
        InputError: the workload has another number of classes than the graph.
        SaisError: the file cannot be opened.
    """

    def __init__(self, path: Path, workload: Workload, options: InferenceOptions = ONE_IMAGE) -> None:
        self.backend = open_exported(path, options)
        num_classes = len(self.backend.class_names)
        if num_classes != workload.num_classes:
            raise InputError(
                f"{path}: the graph has {num_classes} classes, the other candidates have {workload.num_classes}. "
                "Measure it alone."
            )
        settings = self.backend.experiment.postprocess
        self.settings = replace(settings, max_detections=max(settings.max_detections, len(workload.boxes)))
        self.workload = workload
        rules = self.backend.experiment.input
        self.canvas_maps = [letterbox(workload.size, rules.mode, rules.size)] * options.batch_size
        self.content_sizes = [canvas_map.content_size for canvas_map in self.canvas_maps]

    def preprocess(self, image: np.ndarray) -> np.ndarray:
        """Resize and pad the image (H, W, 3) uint8 to canvases (B, 3, height, width) uint8."""
        canvases = np.stack([canvas_map.image(image) for canvas_map in self.canvas_maps])
        return np.ascontiguousarray(canvases.transpose(0, 3, 1, 2))

    def network(self, canvases: np.ndarray) -> Outputs:
        """Run the graph on canvases (B, 3, height, width); a graph with built-in NMS runs NMS too."""
        return self.backend.forward(canvases, self.content_sizes)

    def inject(self, outputs: Outputs) -> Outputs:
        """Replace the outputs by those of the workload's objects: dense (B, L, .), or (B, D, .) after built-in NMS."""
        batch_size = len(self.canvas_maps)
        if self.backend.graph == "raw":
            injected = inject_detections(
                self.workload, self.canvas_maps[0], level_sizes(self.canvas_maps[0].canvas_size)
            )
            names = ("class_logits", "quality_logits", "distances")
            values = [np.repeat(array, batch_size, 0) for array in injected]
            return outputs | dict(zip(names, values, strict=True))
        boxes = self.canvas_maps[0].boxes(self.workload.boxes)[None].astype(np.float32)
        num_objects = boxes.shape[1]
        outputs = outputs | {
            "boxes": np.repeat(boxes, batch_size, 0),
            "scores": np.repeat(np.linspace(0.9, 0.5, num_objects, dtype=np.float32)[None], batch_size, 0),
            "labels": np.repeat(self.workload.labels[None], batch_size, 0),
        }
        if "coefficients" in outputs:  # repeated or cut to one slot per object
            slots = np.arange(num_objects) % outputs["coefficients"].shape[1]
            outputs["coefficients"] = np.ascontiguousarray(outputs["coefficients"][:, slots])
        return outputs

    def postprocess(self, outputs: Outputs) -> list[Detections]:
        """Run NMS if the graph is raw, and assemble the masks inside their boxes: B detections."""
        canvas = self.canvas_maps[0].canvas_size
        instances = self.backend.postprocess(outputs, canvas, self.content_sizes, self.settings)
        names, stride = self.backend.class_names, self.backend.mask_stride
        return assemble(instances, self.canvas_maps, names, self.settings, stride)

    def dense_masks(self, results: list[Detections]) -> np.ndarray:
        """Return the masks (D, H, W) bool of the last image, or its boxes (D, 4) if the model has no masks."""
        return [detections.masks() if detections.cropped_masks else detections.boxes for detections in results][-1]
