"""The predictor: pictures in, detections out. The whole route of a prediction stands in `Predictor.detect`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from sais.checkpoint import fill, load
from sais.config import Experiment, InputConfig, TestConfig
from sais.detections import Detections
from sais.geometry.boxes import locations
from sais.images import as_picture, canvases
from sais.model.inference import for_inference
from sais.model.quickest import quickest
from sais.model.sais import SAIS, STRIDES, build_model
from sais.postprocess import assemble, detect
from sais.structures import Instances, Placement, SaisError
from sais.tiles import default_side, predict_tiled
from sais.variants import augmented, scaled_inputs

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
        flip: look at the mirrored picture too, and fuse what both find (`sais.variants`): better, in twice the time.
        scales: look at the picture so many times as large as the network's input is, and fuse; 1.0 is as trained.
        precision: "fp32", or "bf16" and "fp16" where the device computes in them (`sais.model.quickest`).
        compiled: let torch.compile fuse what it can; pays where many pictures of one size are to come.

    Raises:
        SaisError: the file is missing, cut short or of another kind, there is no such device, it lacks the precision,
            or the scales are of no use.
    """

    def __init__(
        self,
        path: str | Path,
        device: str = "auto",
        score: float | None = None,
        flip: bool = False,
        scales: Sequence[float] = (1.0,),
        precision: str = "fp32",
        compiled: bool = False,
    ) -> None:
        path = model_file(Path(path))
        checkpoint = load(path)
        model = build_model(checkpoint.experiment.model, len(checkpoint.class_names))
        fill(model, checkpoint.part("model"), path)
        self._set_up(
            model,
            checkpoint.experiment,
            checkpoint.class_names,
            checkpoint.category_ids,
            device,
            score,
            precision,
            compiled,
        )
        self._look(flip, scales)

    @classmethod
    def of(
        cls,
        model: SAIS,
        experiment: Experiment,
        class_names: tuple[str, ...],
        category_ids: tuple[int, ...],
        device: str = "auto",
        score: float | None = None,
        flip: bool = False,
        scales: Sequence[float] = (1.0,),
        precision: str = "fp32",
        compiled: bool = False,
    ) -> Predictor:
        """A predictor around a model that is already in memory."""
        predictor = cls.__new__(cls)
        predictor._set_up(model, experiment, class_names, category_ids, device, score, precision, compiled)
        predictor._look(flip, scales)
        return predictor

    def _set_up(
        self,
        model: SAIS,
        experiment: Experiment,
        class_names: tuple[str, ...],
        category_ids: tuple[int, ...],
        device: str,
        score: float | None,
        precision: str,
        compiled: bool,
    ) -> None:
        self.device = choose_device(device)
        self.model = quickest(for_inference(model.to(self.device)), precision, compiled)
        self.experiment = experiment
        self.class_names = class_names
        self.category_ids = category_ids
        self.settings: TestConfig = experiment.test
        self.score = score
        self._points: dict[tuple[tuple[int, int], ...], Tensor] = {}

    def _look(self, flip: bool, scales: Sequence[float]) -> None:
        self.flip, self.scales = flip, tuple(scales)
        scaled_inputs(self.experiment.input, self.scales)  # says what is wrong with them now, not at the first picture

    def _behind(self, settings: InputConfig) -> Predictor:
        """This model behind another input, seeing a picture in one way and finding all that can be fused."""
        other = copy(self)
        other.experiment, other.score = replace(self.experiment, input=settings), None
        other.flip, other.scales = False, (1.0,)
        return other

    def __call__(self, picture: Picture) -> Detections:
        """The objects of one picture: a path, a PIL image, or an array (H, W), (H, W, 3) or (H, W, 4) of uint8."""
        return self.batch([picture])[0]

    def batch(self, pictures: Sequence[Picture]) -> list[Detections]:
        """The objects of several pictures, in one pass of the network where their canvases are alike."""
        arrays = [as_picture(p) for p in pictures]
        if self.flip or self.scales != (1.0,):
            finders = [self._behind(one).batch for one in scaled_inputs(self.experiment.input, self.scales)]
            fused = augmented(arrays, finders, self.flip, self.settings.detections)
            return fused if self.score is None else [one.above(self.score) for one in fused]
        settings = self.experiment.input
        results: dict[int, Detections] = {}
        for group, placements, stacked in canvases(arrays, settings.mode, settings.size):
            tensor = torch.from_numpy(stacked).permute(0, 3, 1, 2)
            results.update(zip(group, self.detect(tensor, placements), strict=True))
        return [results[i] for i in range(len(arrays))]

    def tiled(
        self,
        picture: Picture,
        side: int | None = None,
        overlap: float = 0.2,
        batch: int = 8,
        agreement: float = 0.5,
        progress: Callable[[int], None] = lambda tiles: None,
    ) -> Detections:
        """The objects of a big picture, found in overlapping tiles and merged across their seams (`sais.tiles`).

        Args:
            side: of a tile in picture pixels; best about the size of the training pictures. None: twice the input's.
            overlap: least share of a side that neighbouring tiles have in common.
            batch: tiles in one pass of the network.
            agreement: share of the smaller of two masks, where both tiles look, that makes them one object.
            progress: called with the number of tiles done since the last call.
        """
        side = default_side(self.experiment.input) if side is None else side
        return predict_tiled(as_picture(picture), self.batch, side, overlap, batch, agreement, progress)

    @torch.inference_mode()
    def detect(self, canvases: Tensor, placements: list[Placement]) -> list[Detections]:
        """From canvases (B, 3, height, width) uint8 and where the pictures lie on them to B detections.

        One way of looking; `batch` is what fuses several.
        """
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
