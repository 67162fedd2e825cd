"""Exported graphs as benchmark candidates: files that `sais export` wrote, run by ONNX Runtime or OpenVINO."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from sais.benchmark.candidates import inject_detections
from sais.benchmark.workload import Workload
from sais.errors import InputError
from sais.inference.exported_predictor import ExportedPredictor
from sais.inference.numpy_postprocess import level_sizes
from sais.ops.letterbox import letterbox
from sais.results.detections import Detections

Outputs = dict[str, np.ndarray]


class PreparedExport:
    """An exported graph, run as the predictor runs it.

    Args:
        path: the `.onnx` or `.xml` file.
        workload: the image and its objects, with as many classes as the graph has.
        device: the device of the runtime, such as cpu.
        precision: the precision of the runtime: fp32, or bf16 with OpenVINO.
        batch_size: the number of copies of the image in one forward pass.

    Raises:
        InputError: the workload has another number of classes than the graph.
        SaisError: the file cannot be opened.
    """

    def __init__(
        self, path: Path, workload: Workload, device: str, precision: str = "fp32", batch_size: int = 1
    ) -> None:
        self.predictor = ExportedPredictor(path, device=device, precision=precision)
        num_classes = len(self.predictor.class_names)
        if num_classes != workload.num_classes:
            raise InputError(
                f"{path}: the graph has {num_classes} classes, the other candidates have {workload.num_classes}. "
                "Measure it alone."
            )
        max_detections = max(self.predictor.settings.max_detections, len(workload.boxes))
        self.predictor.settings = replace(self.predictor.settings, max_detections=max_detections)
        self.workload = workload
        settings = self.predictor.experiment.input
        self.canvas_maps = [letterbox(workload.size, settings.mode, settings.size)] * batch_size

    def preprocess(self, image: np.ndarray) -> np.ndarray:
        """Resize and pad the image (H, W, 3) uint8 to canvases (B, 3, height, width) uint8."""
        canvases = np.stack([canvas_map.image(image) for canvas_map in self.canvas_maps])
        return np.ascontiguousarray(canvases.transpose(0, 3, 1, 2))

    def network(self, canvases: np.ndarray) -> Outputs:
        """Run the graph on canvases (B, 3, height, width); a graph with built-in NMS runs NMS too."""
        return self.predictor.run(canvases, self.canvas_maps)

    def inject(self, outputs: Outputs) -> Outputs:
        """Replace the outputs by those of the workload's objects: dense (B, L, .), or (B, D, .) after built-in NMS."""
        batch_size = len(self.canvas_maps)
        if self.predictor.session.metadata.graph == "raw":
            injected = inject_detections(self.workload, self.canvas_maps[0], level_sizes(self.canvas_maps[0].canvas_size))
            names = ("class_logits", "quality_logits", "distances")
            values = [np.repeat(tensor.numpy(), batch_size, 0) for tensor in injected]
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
        return self.predictor.finish(outputs, self.canvas_maps)

    def dense_masks(self, results: list[Detections]) -> np.ndarray:
        """Return the masks (D, H, W) bool of the last image, or its boxes (D, 4) if the model has no masks."""
        return [detections.masks() if detections.cropped_masks else detections.boxes for detections in results][-1]
