"""The predictor: pictures in, detections out. The whole route of a prediction stands in `Predictor.detect`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from sais.checkpoint import fill, load
from sais.config import Experiment, TestConfig
from sais.detections import Detections
from sais.geometry.boxes import locations
from sais.images import as_picture, fit, place
from sais.model.sais import SAIS, STRIDES, build_model
from sais.postprocess import assemble, detect
from sais.structures import Instances, Placement, SaisError

if TYPE_CHECKING:
    from PIL import Image

    Picture = np.ndarray | str | Path | Image.Image


class Predictor:
    """A trained model, ready to predict.

        predictor = Predictor("runs/cats/model.safetensors")
        detections = predictor("cat.jpg")

    Args:
        path: a checkpoint that `sais train` wrote, or the folder of a run (its `model`, `best` or `last`, the first
            that exists).
        device: "auto" takes CUDA, then Apple's MPS, then the CPU.
        score: least score (class x centerness) of a detection. None: as the experiment's `test.score` has it, every
            detection with a class probability above 0.05, which is what COCO's AP wants.

    Raises:
        SaisError: the file is missing, cut short or of another kind, or there is no such device.
    """

    def __init__(self, path: str | Path, device: str = "auto", score: float | None = None) -> None:
        path = model_file(Path(path))
        checkpoint = load(path)
        model = build_model(checkpoint.experiment.model, len(checkpoint.class_names))
        fill(model, checkpoint.part("model"), path)
        self._set_up(model, checkpoint.experiment, checkpoint.class_names, checkpoint.category_ids, device, score)

    @classmethod
    def of(
        cls,
        model: SAIS,
        experiment: Experiment,
        class_names: tuple[str, ...],
        category_ids: tuple[int, ...],
        device: str = "auto",
        score: float | None = None,
    ) -> Predictor:
        """A predictor around a model that is already in memory."""
        predictor = cls.__new__(cls)
        predictor._set_up(model, experiment, class_names, category_ids, device, score)
        return predictor

    def _set_up(
        self,
        model: SAIS,
        experiment: Experiment,
        class_names: tuple[str, ...],
        category_ids: tuple[int, ...],
        device: str,
        score: float | None,
    ) -> None:
        self.device = choose_device(device)
        self.model = model.to(self.device).eval()
        self.experiment = experiment
        self.class_names = class_names
        self.category_ids = category_ids
        self.settings: TestConfig = experiment.test
        self.score = score
        self._points: dict[tuple[tuple[int, int], ...], Tensor] = {}

    def __call__(self, picture: Picture) -> Detections:
        """The objects of one picture: a path, a PIL image, or an array (H, W), (H, W, 3) or (H, W, 4) of uint8."""
        return self.batch([picture])[0]

    def batch(self, pictures: Sequence[Picture]) -> list[Detections]:
        """The objects of several pictures, in one pass of the network where their canvases are alike."""
        arrays = [as_picture(p) for p in pictures]
        settings = self.experiment.input
        placements = [place(a.shape[:2], settings.mode, settings.size) for a in arrays]
        results: list[Detections | None] = [None] * len(arrays)
        for canvas in dict.fromkeys(p.canvas_size for p in placements):
            group = [i for i, p in enumerate(placements) if p.canvas_size == canvas]
            canvases = np.stack([fit(arrays[i], placements[i]) for i in group])  # (B, height, width, 3)
            tensor = torch.from_numpy(canvases).permute(0, 3, 1, 2)
            for i, found in zip(group, self.detect(tensor, [placements[i] for i in group]), strict=True):
                results[i] = found
        return [r for r in results if r is not None]

    @torch.inference_mode()
    def detect(self, canvases: Tensor, placements: list[Placement]) -> list[Detections]:
        """From canvases (B, 3, height, width) uint8 and where the pictures lie on them to B detections."""
        return assemble(self.instances(canvases, placements), placements, self.class_names, self.settings.mask_margin)

    @torch.inference_mode()
    def instances(self, canvases: Tensor, placements: list[Placement]) -> Instances:
        """As `detect`, but on the canvas still and without masks: boxes, scores, labels, coefficients, prototypes."""
        outputs = self.model(canvases.to(self.device, non_blocking=True))
        settings = self.settings
        instances = detect(
            outputs,
            self._locations(outputs.level_sizes),
            [p.content_size for p in placements],
            # No score is greater than its class probability, so nothing is lost by asking for as much early.
            score=settings.score if self.score is None else self.score,
            candidates=settings.candidates,
            nms=settings.nms,
            detections=settings.detections,
        )
        if self.score is not None:
            instances.scores[instances.scores < self.score] = 0  # an empty slot: no mask is made for it
        return instances

    def _locations(self, level_sizes: tuple[tuple[int, int], ...]) -> Tensor:
        if level_sizes not in self._points:
            self._points[level_sizes] = locations(level_sizes, STRIDES, self.device)
        return self._points[level_sizes]


def model_file(path: Path) -> Path:
    """The checkpoint that a path means: the file itself, or the model, best or last of a run's folder."""
    if not path.is_dir():
        return path
    for name in ("model", "best", "last"):
        if (path / f"{name}.safetensors").is_file():
            return path / f"{name}.safetensors"
    raise SaisError(f"{path}: no model.safetensors, best.safetensors or last.safetensors there; give a trained run")


def choose_device(name: str = "auto") -> torch.device:
    """The device a name means; "auto" is CUDA where there is one, then MPS, then the CPU.

    Raises:
        SaisError: this machine has no such device.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device).cpu()  # "meta" holds no numbers
    except (RuntimeError, AssertionError) as error:
        raise SaisError(f"--device {name}: not on this machine; take cpu, or leave it on auto") from error
    return device
