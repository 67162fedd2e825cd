"""The small models in ONNX Runtime: SAIS-Lite as `sais export` writes it, YOLO26n-seg as ultralytics writes it.

Both files are made of random weights, which change no time, in the folder `FOLDER` of the working directory: once, and
SAIS' again whenever the package has changed since.
Their post-processing is that of each package's own predictor.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import sais
from peers.installed import YOLO_NOTE, YOLO_SIDE, PreparedYolo, process_kept, usable
from sais.benchmark.candidates import Candidate, recipe_candidate
from sais.benchmark.exported import PreparedExport
from sais.benchmark.workload import Workload
from sais.checkpoint import Checkpoint, add_prefix, save_checkpoint
from sais.config import Experiment
from sais.export import ExportOptions, export_model
from sais.modeling.sais import build_model
from sais.recipes import recipe

FOLDER = Path("runs/graphs")
CLASSES = 80
LETTERBOXED, STRETCHED = "sais-lite 640, ratio kept", "sais-lite 640"
YOLO = "YOLO26n-seg"
ONNX = ", ONNX Runtime"


def lite(keep_ratio: bool) -> Experiment:
    """SAIS-Lite at 640: as the recipe stretches images, or with their ratio kept, as YOLO has it."""
    experiment = recipe("sais-lite")
    settings = replace(experiment.input, size=(640, 640), mode="keep_ratio" if keep_ratio else "fixed")
    return replace(experiment, input=settings)


def candidates() -> list[Candidate]:
    """SAIS-Lite at 640 in torch and ONNX Runtime, and where ultralytics is installed YOLO26n-seg in ONNX Runtime."""
    found = []
    for name, keep_ratio in ((STRETCHED, False), (LETTERBOXED, True)):
        found.append(recipe_candidate(name, lite(keep_ratio)))
        found.append(Candidate(name + ONNX, partial(_sais_graph, keep_ratio)))
    if usable("ultralytics"):
        found.append(Candidate(YOLO + ONNX, PreparedYoloGraph, note=YOLO_NOTE + "; network by ONNX Runtime"))
    return found


def _sais_graph(keep_ratio: bool, scene: Workload, device: str) -> PreparedExport:
    path = FOLDER / f"sais-lite-{'kept' if keep_ratio else 'fixed'}.onnx"
    newest = max(file.stat().st_mtime for file in Path(sais.__file__).parent.rglob("*.py"))
    if not path.exists() or path.stat().st_mtime < newest:
        FOLDER.mkdir(parents=True, exist_ok=True)
        checkpoint, experiment = path.with_suffix(".safetensors"), lite(keep_ratio)
        torch.manual_seed(0)
        weights = add_prefix("model", build_model(experiment.model, CLASSES).state_dict())
        names = tuple(f"class {i}" for i in range(CLASSES))
        save_checkpoint(checkpoint, Checkpoint(experiment, names, tuple(range(1, CLASSES + 1)), weights))
        with torch.inference_mode(False):
            export_model(checkpoint, path, ExportOptions(graph="raw"))
    return PreparedExport(path, scene, device)


class PreparedYoloGraph:
    """YOLO26n-seg's network by ONNX Runtime, everything else by ultralytics' predictor.

    Args:
        scene: what it is to find; of a ratio of 4:3, for which the graph is made.
        device: cpu.
    """

    def __init__(self, scene: Workload, device: str) -> None:
        import onnxruntime

        self.ready = PreparedYolo(f"{YOLO.lower()}.yaml", scene, device)
        path = FOLDER / f"{YOLO.lower()}.onnx"
        if not path.exists():
            FOLDER.mkdir(parents=True, exist_ok=True)
            with process_kept():
                import ultralytics

                torch.manual_seed(0)
                size = [int(side) for side in self.ready.fit(scene.image).shape[2:]]
                made = ultralytics.YOLO(f"{YOLO.lower()}.yaml", task="segment").export(
                    format="onnx", imgsz=size or YOLO_SIDE, simplify=False, verbose=False
                )
            shutil.move(str(made), path)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.input = self.session.get_inputs()[0].name

    def fit(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 -> (1, 3, height, width) float32 of 0 .. 1."""
        return np.ascontiguousarray(self.ready.fit(image).numpy())

    def network(self, canvas: np.ndarray) -> Any:
        """As `ReadyYolo.network`."""
        predictions, prototypes = (torch.from_numpy(one) for one in self.session.run(None, {self.input: canvas}))
        return ((predictions, prototypes),)

    def plant(self, raw: Any) -> Any:
        """As the scene has it."""
        return self.ready.plant(raw)

    def finish(self, raw: Any) -> Any:
        """The package's `Results`."""
        return self.ready.finish(raw)

    def dense(self, found: Any) -> torch.Tensor:
        """(D, H, W) uint8."""
        return self.ready.dense(found)
