"""A trained peer, ready to predict: what `sais.Predictor` is to SAIS.

A peer brings its way from canvases to detections; all else is here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sais.checkpoint import load_checkpoint, load_weights
from sais.config import Experiment, PostprocessConfig
from sais.device import choose_device
from sais.engine.architecture import Architecture, Detector
from sais.errors import SaisError
from sais.results.detections import Detections
from sais.structures import CanvasMap

PeerDetect = Callable[[Any, PostprocessConfig, Tensor, list[CanvasMap], tuple[str, ...]], list[Detections]]
"""(network, settings, canvases on its device, where the images lie on them, class names) -> detections."""


class PeerDetector:
    """A trained peer, ready to predict; with `find` given beforehand (functools.partial) the `finder` of a `System`.

    Args:
        find: how the peer predicts; it says which of the settings it reads.
        model: the network; moved to the device and set to evaluation.
        experiment: its settings `test` are handed on.
        class_names: C names.
        category_ids: C numbers of the data set.
        device: as for `sais.Predictor`.
    """

    def __init__(
        self,
        find: PeerDetect,
        model: Any,
        experiment: Experiment,
        class_names: tuple[str, ...],
        category_ids: tuple[int, ...],
        device: str = "auto",
    ) -> None:
        self.find = find
        self.device = choose_device(device)
        self.model = model.to(self.device).eval()
        self.experiment = experiment
        self.class_names = class_names
        self.category_ids = category_ids

    @torch.inference_mode()
    def detect(self, canvases: Tensor, canvas_maps: list[CanvasMap]) -> list[Detections]:
        """From canvases (B, 3, height, width) uint8 and where the images lie on them to B detections."""
        there = canvases.to(self.device, non_blocking=True)
        return self.find(self.model, self.experiment.postprocess, there, canvas_maps, self.class_names)


def load_detector(path: Path, system: Architecture, device: str = "auto") -> Detector:
    """The peer in a checkpoint that `train(..., system=system)` wrote.

    Raises:
        SaisError: the file is missing or broken, or holds another system.
    """
    checkpoint = load_checkpoint(path)
    found = checkpoint.state.get("architecture")
    if found != system.name:
        raise SaisError(f"{path}: a model of {found}; give one of {system.name}")
    model = system.build(checkpoint.experiment, len(checkpoint.class_names))
    load_weights(model, checkpoint.part("model"), path)
    return system.finder(model, checkpoint.experiment, checkpoint.class_names, checkpoint.category_ids, device)
