"""The predictor: images in, detections out. The whole route of a prediction stands in `Predictor.detect`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from sais.checkpoint import find_checkpoint, load_checkpoint, load_weights
from sais.config import Experiment, InputConfig, PostprocessConfig
from sais.converters.for_device import for_device
from sais.converters.fuse import for_inference
from sais.device import choose_device
from sais.inference.slicing import default_slice_size, predict_sliced
from sais.inference.tta import predict_tta, tta_inputs
from sais.io.images import as_image
from sais.modeling.postprocess import assemble, postprocess
from sais.modeling.sais import SAIS, STRIDES, build_model
from sais.ops.boxes import locations
from sais.ops.letterbox import group_by_canvas
from sais.results.detections import Detections
from sais.structures import CanvasMap, Instances

if TYPE_CHECKING:
    from PIL import Image

    ImageSource = np.ndarray | str | Path | Image.Image


class Predictor:
    """A trained model, ready to predict.

        predictor = Predictor("runs/cats/model.safetensors")
        detections = predictor("cat.jpg")

    Args:
        path: a checkpoint that `sais train` wrote, or the folder of a run (its `model`, `best` or `last`, the first
            that exists).
        device: "auto" takes CUDA, then Apple's MPS, then the CPU.
        score: least score (class x centerness) of a detection. None: as the experiment's `postprocess.score_threshold` has it, every
            detection with a class probability above 0.05, which is what COCO's AP wants.
        flip: look at the mirrored image too, and fuse what both find (`sais.inference.tta`): better, in twice the time.
        scales: look at the image so many times as large as the network's input is, and fuse; 1.0 is as trained.
        precision: "fp32", or "bf16" and "fp16" where the device computes in them (`sais.converters.for_device`).
        compiled: let torch.compile fuse what it can; pays where many images of one size are to come.

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
        path = find_checkpoint(Path(path))
        checkpoint = load_checkpoint(path)
        model = build_model(checkpoint.experiment.model, len(checkpoint.class_names))
        load_weights(model, checkpoint.part("model"), path)
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
        self.model = for_device(for_inference(model.to(self.device)), precision, compiled)
        self.experiment = experiment
        self.class_names = class_names
        self.category_ids = category_ids
        self.settings: PostprocessConfig = experiment.postprocess
        self.score = score
        self._points: dict[tuple[tuple[int, int], ...], Tensor] = {}

    def _look(self, flip: bool, scales: Sequence[float]) -> None:
        self.flip, self.scales = flip, tuple(scales)
        tta_inputs(self.experiment.input, self.scales)  # says what is wrong with them now, not at the first image

    def _behind(self, settings: InputConfig) -> Predictor:
        """This model behind another input, seeing an image in one way and finding all that can be fused."""
        other = copy(self)
        other.experiment, other.score = replace(self.experiment, input=settings), None
        other.flip, other.scales = False, (1.0,)
        return other

    def __call__(self, image: ImageSource) -> Detections:
        """The objects of one image: a path, a PIL image, or an array (H, W), (H, W, 3) or (H, W, 4) of uint8."""
        return self.batch([image])[0]

    def batch(self, images: Sequence[ImageSource]) -> list[Detections]:
        """The objects of several images, in one pass of the network where their canvases are alike."""
        arrays = [as_image(p) for p in images]
        if self.flip or self.scales != (1.0,):
            finders = [self._behind(one).batch for one in tta_inputs(self.experiment.input, self.scales)]
            fused = predict_tta(arrays, finders, self.flip, self.settings.max_detections)
            return fused if self.score is None else [one.above(self.score) for one in fused]
        settings = self.experiment.input
        results: dict[int, Detections] = {}
        for group, canvas_maps, stacked in group_by_canvas(arrays, settings.mode, settings.size):
            tensor = torch.from_numpy(stacked).permute(0, 3, 1, 2)
            results.update(zip(group, self.detect(tensor, canvas_maps), strict=True))
        return [results[i] for i in range(len(arrays))]

    def tiled(
        self,
        image: ImageSource,
        side: int | None = None,
        overlap: float = 0.2,
        batch: int = 8,
        agreement: float = 0.5,
        progress: Callable[[int], None] = lambda tiles: None,
    ) -> Detections:
        """The objects of a big image, found in overlapping tiles and merged across their seams (`sais.inference.slicing`).

        Args:
            side: of a tile in image pixels; best about the size of the training images. None: twice the input's.
            overlap: least share of a side that neighboring tiles have in common.
            batch: tiles in one pass of the network.
            agreement: share of the smaller of two masks, where both tiles look, that makes them one object.
            progress: called with the number of tiles done since the last call.
        """
        side = default_slice_size(self.experiment.input) if side is None else side
        return predict_sliced(as_image(image), self.batch, side, overlap, batch, agreement, progress)

    @torch.inference_mode()
    def detect(self, canvases: Tensor, canvas_maps: list[CanvasMap]) -> list[Detections]:
        """From canvases (B, 3, height, width) uint8 and where the images lie on them to B detections.

        One way of looking; `batch` is what fuses several.
        """
        return assemble(self.instances(canvases, canvas_maps), canvas_maps, self.class_names, self.settings.mask_margin)

    @torch.inference_mode()
    def instances(self, canvases: Tensor, canvas_maps: list[CanvasMap]) -> Instances:
        """As `detect`, but on the canvas still and without masks: boxes, scores, labels, coefficients, prototypes."""
        outputs = self.model(canvases.to(self.device, non_blocking=True))
        settings = self.settings
        instances = postprocess(
            outputs,
            self._locations(outputs.level_sizes),
            [p.content_size for p in canvas_maps],
            # No score is greater than its class probability, so nothing is lost by asking for as much early.
            score=settings.score_threshold if self.score is None else self.score,
            candidates=settings.pre_nms_topk,
            nms=settings.nms_iou,
            detections=settings.max_detections,
        )
        if self.score is not None:
            instances.scores[instances.scores < self.score] = 0  # an empty slot: no mask is made for it
        return instances

    def _locations(self, level_sizes: tuple[tuple[int, int], ...]) -> Tensor:
        if level_sizes not in self._points:
            self._points[level_sizes] = locations(level_sizes, STRIDES, self.device)
        return self._points[level_sizes]
