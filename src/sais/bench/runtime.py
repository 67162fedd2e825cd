"""Exported graphs among the contestants: what `sais export` wrote, run by ONNX Runtime or OpenVINO."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from sais.bench.contestants import plant
from sais.bench.scene import Scene
from sais.detections import Detections
from sais.images import fit, place
from sais.runtimes import RuntimePredictor
from sais.runtimes.decode import level_sizes
from sais.structures import SaisError

Outputs = dict[str, np.ndarray]


class ReadyRuntime:
    """An exported graph, run as `RuntimePredictor` runs it.

    Args:
        path: `.onnx` or `.xml`.
        scene: what it is to find; of as many classes as the graph has.
        device: cpu, or what the runtime has besides.
        precision: as `RuntimePredictor` takes it.
        pictures: copies of the picture in one pass.

    Raises:
        SaisError: the file cannot be opened, or has another number of classes than the scene.
    """

    def __init__(self, path: Path, scene: Scene, device: str, precision: str = "fp32", pictures: int = 1) -> None:
        self.predictor = RuntimePredictor(path, device=device, precision=precision)
        if len(self.predictor.class_names) != scene.classes:
            count = len(self.predictor.class_names)
            raise SaisError(f"{path} has {count} classes, others here have {scene.classes}; measure it alone")
        most = max(self.predictor.settings.detections, len(scene.boxes))
        self.predictor.settings = replace(self.predictor.settings, detections=most)
        self.scene = scene
        settings = self.predictor.experiment.input
        self.placements = [place(scene.size, settings.mode, settings.size)] * pictures

    def fit(self, picture: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 -> (B, 3, height, width) uint8."""
        canvases = np.stack([fit(picture, placement) for placement in self.placements])
        return np.ascontiguousarray(canvases.transpose(0, 3, 1, 2))

    def network(self, canvas: np.ndarray) -> Outputs:
        """What the graph does, suppression among it where it has that inside."""
        return self.predictor.run(canvas, self.placements)

    def plant(self, raw: Outputs) -> Outputs:
        """As the scene has it: at every location of a raw graph, or as what suppression left."""
        pictures = len(self.placements)
        if self.predictor.session.metadata.graph == "raw":
            planted = plant(self.scene, self.placements[0], level_sizes(self.placements[0].canvas_size))
            names = ("class_logits", "centerness_logits", "distances")
            values = [np.repeat(one.numpy(), pictures, 0) for one in planted]
            return raw | dict(zip(names, values, strict=True))
        boxes = self.placements[0].to_canvas(self.scene.boxes)[None].astype(np.float32)
        number = boxes.shape[1]
        raw = raw | {
            "boxes": np.repeat(boxes, pictures, 0),
            "scores": np.repeat(np.linspace(0.9, 0.5, number, dtype=np.float32)[None], pictures, 0),
            "labels": np.repeat(self.scene.labels[None], pictures, 0),
        }
        if "coefficients" in raw:  # of as many slots as there are objects
            slots = np.arange(number) % raw["coefficients"].shape[1]
            raw["coefficients"] = np.ascontiguousarray(raw["coefficients"][:, slots])
        return raw

    def finish(self, raw: Outputs) -> list[Detections]:
        """Candidates and suppression where the graph is raw; masks in their boxes."""
        return self.predictor.finish(raw, self.placements)

    def dense(self, found: list[Detections]) -> np.ndarray:
        """(D, H, W) bool, of the last picture; its boxes where the model has no masks."""
        return [one.masks() if one.patches else one.boxes for one in found][-1]
