"""Small models in ONNX Runtime: SAIS-Lite as `sais export` writes it, YOLO26n-seg as ultralytics exports it.

Both graphs have random weights, which do not change latency, and are stored in `FOLDER` of the working directory. That
of SAIS is exported again whenever a source file of the package is newer. Post-processing is that of each package's own
predictor.
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
from peers.installed import YOLO_NOTE, YOLO_SIDE, PreparedYolo, restored_process_settings, usable
from sais.benchmark.candidates import Candidate
from sais.benchmark.exported import PreparedExport
from sais.benchmark.recipe_candidates import recipe_candidate
from sais.benchmark.workload import Workload
from sais.checkpoint import Checkpoint, add_prefix, save_checkpoint
from sais.config import Experiment
from sais.export import ExportOptions, export_model
from sais.inference.options import InferenceOptions
from sais.modeling.sais import build_model
from sais.recipes import recipe

FOLDER = Path("runs/graphs")
CLASSES = 80
LETTERBOXED, STRETCHED = "sais-lite 640, ratio kept", "sais-lite 640"
YOLO = "YOLO26n-seg"
ONNX = ", ONNX Runtime"


def lite(keep_ratio: bool) -> Experiment:
    """Return SAIS-Lite at 640: resized without keeping the aspect ratio, as in its recipe, or letterboxed, as YOLO."""
    experiment = recipe("sais-lite")
    settings = replace(experiment.input, size=(640, 640), mode="keep_ratio" if keep_ratio else "fixed")
    return replace(experiment, input=settings)


def candidates() -> list[Candidate]:
    """Return SAIS-Lite at 640 in torch and ONNX Runtime; YOLO26n-seg in ONNX Runtime if ultralytics is installed."""
    candidates = []
    for name, keep_ratio in ((STRETCHED, False), (LETTERBOXED, True)):
        candidates.append(recipe_candidate(name, lite(keep_ratio)))
        candidates.append(Candidate(name + ONNX, partial(_sais_graph, keep_ratio)))
    if usable("ultralytics"):
        candidates.append(Candidate(YOLO + ONNX, PreparedYoloGraph, note=YOLO_NOTE + "; network by ONNX Runtime"))
    return candidates


def _sais_graph(keep_ratio: bool, workload: Workload, device: str) -> PreparedExport:
    path = FOLDER / f"sais-lite-{'letterboxed' if keep_ratio else 'fixed'}.onnx"
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
    return PreparedExport(path, workload, InferenceOptions(device=device, batch_size=1))


class PreparedYoloGraph:
    """YOLO26n-seg: the network in ONNX Runtime, all else by the predictor of ultralytics.

    Args:
        workload: the image, of the aspect ratio 4:3 that the graph is exported for, and its objects.
        device: cpu.
    """

    def __init__(self, workload: Workload, device: str) -> None:
        import onnxruntime

        self.torch_model = PreparedYolo(f"{YOLO.lower()}.yaml", workload, device)
        path = FOLDER / f"{YOLO.lower()}.onnx"
        if not path.exists():
            FOLDER.mkdir(parents=True, exist_ok=True)
            with restored_process_settings():
                import ultralytics

                torch.manual_seed(0)
                size = [int(side) for side in self.torch_model.preprocess(workload.image).shape[2:]]
                exported = ultralytics.YOLO(f"{YOLO.lower()}.yaml", task="segment").export(
                    format="onnx", imgsz=size or YOLO_SIDE, simplify=False, verbose=False
                )
            shutil.move(str(exported), path)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.input = self.session.get_inputs()[0].name

    def preprocess(self, image: np.ndarray) -> np.ndarray:
        """Letterbox the image (H, W, 3) uint8 to (1, 3, height, width) float32 in [0, 1]."""
        return np.ascontiguousarray(self.torch_model.preprocess(image).numpy())

    def network(self, canvases: np.ndarray) -> Any:
        """Run the graph on canvases (1, 3, height, width); outputs as those of `PreparedYolo.network`."""
        predictions, prototypes = map(torch.from_numpy, self.session.run(None, {self.input: canvases}))
        return ((predictions, prototypes),)

    def inject(self, outputs: Any) -> Any:
        """Replace the predictions by those of the workload's objects."""
        return self.torch_model.inject(outputs)

    def postprocess(self, outputs: Any) -> Any:
        """Return the package's `Results` of the image."""
        return self.torch_model.postprocess(outputs)

    def dense_masks(self, results: Any) -> torch.Tensor:
        """Return the masks (D, H, W) uint8."""
        return self.torch_model.dense_masks(results)
