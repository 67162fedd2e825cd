"""Exported graphs among the contestants: what `sais export` wrote, run by ONNX Runtime or OpenVINO."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from sais.benchmark.candidates import inject_detections
from sais.benchmark.workload import Workload
from sais.errors import SaisError
from sais.inference.exported_predictor import ExportedPredictor
from sais.inference.numpy_postprocess import level_sizes
from sais.ops.letterbox import letterbox, resize_and_pad
from sais.results.detections import Detections

Outputs = dict[str, np.ndarray]


class PreparedExport:
    """An exported graph, run as `RuntimePredictor` runs it.

    Args:
        path: `.onnx` or `.xml`.
        scene: what it is to find; of as many classes as the graph has.
        device: cpu, or what the runtime has besides.
        precision: as `RuntimePredictor` takes it.
        images: copies of the image in one pass.

    Raises:
        SaisError: the file cannot be opened, or has another number of classes than the scene.
    """

    def __init__(self, path: Path, scene: Workload, device: str, precision: str = "fp32", images: int = 1) -> None:
        self.predictor = ExportedPredictor(path, device=device, precision=precision)
        if len(self.predictor.class_names) != scene.classes:
            count = len(self.predictor.class_names)
            raise SaisError(f"{path} has {count} classes, others here have {scene.classes}; measure it alone")
        most = max(self.predictor.settings.max_detections, len(scene.boxes))
        self.predictor.settings = replace(self.predictor.settings, max_detections=most)
        self.scene = scene
        settings = self.predictor.experiment.input
        self.canvas_maps = [letterbox(scene.size, settings.mode, settings.size)] * images

    def fit(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 -> (B, 3, height, width) uint8."""
        canvases = np.stack([resize_and_pad(image, canvas_map) for canvas_map in self.canvas_maps])
        return np.ascontiguousarray(canvases.transpose(0, 3, 1, 2))

    def network(self, canvas: np.ndarray) -> Outputs:
        """What the graph does, suppression among it where it has that inside."""
        return self.predictor.run(canvas, self.canvas_maps)

    def plant(self, raw: Outputs) -> Outputs:
        """As the scene has it: at every location of a raw graph, or as what suppression left."""
        images = len(self.canvas_maps)
        if self.predictor.session.metadata.graph == "raw":
            planted = inject_detections(self.scene, self.canvas_maps[0], level_sizes(self.canvas_maps[0].canvas_size))
            names = ("class_logits", "centerness_logits", "distances")
            values = [np.repeat(one.numpy(), images, 0) for one in planted]
            return raw | dict(zip(names, values, strict=True))
        boxes = self.canvas_maps[0].to_canvas(self.scene.boxes)[None].astype(np.float32)
        number = boxes.shape[1]
        raw = raw | {
            "boxes": np.repeat(boxes, images, 0),
            "scores": np.repeat(np.linspace(0.9, 0.5, number, dtype=np.float32)[None], images, 0),
            "labels": np.repeat(self.scene.labels[None], images, 0),
        }
        if "coefficients" in raw:  # of as many slots as there are objects
            slots = np.arange(number) % raw["coefficients"].shape[1]
            raw["coefficients"] = np.ascontiguousarray(raw["coefficients"][:, slots])
        return raw

    def finish(self, raw: Outputs) -> list[Detections]:
        """Candidates and suppression where the graph is raw; masks in their boxes."""
        return self.predictor.finish(raw, self.canvas_maps)

    def dense(self, found: list[Detections]) -> np.ndarray:
        """(D, H, W) bool, of the last image; its boxes where the model has no masks."""
        return [one.masks() if one.cropped_masks else one.boxes for one in found][-1]
