"""Who takes part in a measurement of whole systems, and what each must be able to do. SAIS' own models are here."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from sais.benchmark.workload import Workload, training_batch
from sais.config import Experiment
from sais.converters.for_device import for_device
from sais.converters.fuse import for_inference
from sais.engine.architecture import SAIS_ARCHITECTURE, Architecture
from sais.errors import SaisError
from sais.modeling.assigners import LEVEL_RANGES
from sais.modeling.fpn import STRIDES
from sais.modeling.postprocess import assemble, postprocess
from sais.modeling.sais import build_model
from sais.ops.boxes import distances_from_boxes, locations
from sais.ops.letterbox import letterbox, resize_and_pad
from sais.recipes import recipe
from sais.results.detections import Detections
from sais.structures import CanvasMap, DenseOutputs


class PreparedCandidate(Protocol):
    """A system that stands ready to find the objects of one scene."""

    def fit(self, image: np.ndarray) -> Any:
        """The network's input, made of the image (H, W, 3) uint8."""
        ...

    def network(self, canvas: Any) -> Any:
        """The forward pass, to raw outputs."""
        ...

    def plant(self, raw: Any) -> Any:
        """Raw outputs that say what the scene holds. Not timed."""
        ...

    def finish(self, raw: Any) -> Any:
        """From raw outputs to what a user of the system holds."""
        ...

    def dense(self, found: Any) -> Any:
        """The (D, H, W) masks of the whole image; nothing is done where `finish` makes them already."""
        ...


@dataclass(frozen=True)
class TrainingSetup:
    """What measuring a training step takes."""

    model: nn.Module
    """In training mode."""
    losses: Callable[[int], dict[str, Tensor]]
    """Number of images -> the terms of one step on copies of the scene with ten objects."""
    parts: dict[str, Any]
    """Name -> part of the network (a module, or a tuple of them) whose memory is given apart."""


@dataclass(frozen=True)
class Candidate:
    """One system at one size."""

    name: str
    prepare: Callable[[Workload, str], PreparedCandidate]
    """(scene, device) -> the system in inference mode, with random weights: they change no time."""
    train: Callable[[Workload, str], TrainingSetup] | None = None
    """(scene, device) -> the same in training; None where only inference is compared."""
    note: str = ""
    """What is to be known of it: how its masks are made, in what it differs."""
    images: int = 1
    """In one pass: as many as `prepare`'s system makes of one; times are given for one."""


def find_candidates(source: str) -> list[Candidate]:
    """The contestants that "module:function" returns; the module may lie in the current folder.

    Raises:
        SaisError: there is no such function, or it returns something else.
    """
    module, _, function = source.partition(":")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module), function)()
    except (ImportError, AttributeError, ValueError) as error:
        raise SaisError(
            f"'{source}': cannot be imported ({error}); give module:function, from where it lies"
        ) from error
    if not isinstance(found, list) or not all(isinstance(one, Candidate) for one in found):
        raise SaisError(f"'{source}' does not return a list of sais.benchmark.candidates.Candidate")
    return found


def own_candidates() -> list[Candidate]:
    """The paper's four models of Table IV."""
    names = {
        "SAIS-640, R50": "sais-r50-640",
        "SAIS-768, R50": "sais-r50-768",
        "SAIS-768, R101": "sais-r101-768",
        "SAIS-768, X101": "sais-x101-768",
    }
    return [recipe_candidate(name, recipe(key)) for name, key in names.items()]


def recipe_candidate(
    name: str,
    experiment: Experiment,
    precision: str = "fp32",
    compiled: bool = False,
    images: int = 1,
    trained_objects: int = 10,
) -> Candidate:
    """SAIS as a recipe has it.

    Args:
        precision: as `Predictor` takes it.
        compiled: by torch.compile.
        images: in one pass.
        trained_objects: on an image in training; in inference it is all of the scene's.
    """
    size = experiment.input.size
    return Candidate(
        name,
        lambda scene, device: PreparedSais(experiment, scene, device, precision, compiled, images),
        lambda scene, device: training_of(SAIS_ARCHITECTURE, experiment, size, scene, device, trained_objects),
        "masks assembled in their boxes",
        images,
    )


def training_of(
    system: Architecture,
    experiment: Experiment,
    canvas: tuple[int, int],
    scene: Workload,
    device: str,
    objects: int = 10,
) -> TrainingSetup:
    """A system's training step on copies of the scene; its parts are the children of its network."""
    model = system.build(experiment, scene.classes).to(device).train()

    def losses(images: int) -> dict[str, Tensor]:
        batch = training_batch(scene, canvas, images, objects).to(torch.device(device))
        return system.losses(model, batch, experiment, 0)

    return TrainingSetup(model, losses, {name: child for name, child in model.named_children() if _has_weights(child)})


def _has_weights(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


class PreparedSais:
    """SAIS at the size of a recipe, with random weights, run as `Predictor` runs it.

    Args:
        experiment: the recipe.
        scene: what it is to find.
        device: cpu, cuda, ...
        precision: as `Predictor` takes it.
        compiled: by torch.compile.
        images: copies of the image in one pass.
    """

    def __init__(
        self,
        experiment: Experiment,
        scene: Workload,
        device: str,
        precision: str = "fp32",
        compiled: bool = False,
        images: int = 1,
    ) -> None:
        torch.manual_seed(0)
        self.experiment = experiment
        self.scene = scene
        self.device = torch.device(device)
        model = build_model(experiment.model, scene.classes).to(self.device).eval()
        self.model = for_device(for_inference(model), precision, compiled)
        self.canvas_maps = [letterbox(scene.size, experiment.input.mode, experiment.input.size)] * images
        self.names = tuple(f"class {i}" for i in range(scene.classes))

    def fit(self, image: np.ndarray) -> Tensor:
        """(H, W, 3) uint8 -> (B, 3, height, width) uint8."""
        canvases = np.stack([resize_and_pad(image, canvas_map) for canvas_map in self.canvas_maps])
        return torch.from_numpy(canvases).permute(0, 3, 1, 2).to(self.device)

    def network(self, canvas: Tensor) -> DenseOutputs:
        """The forward pass."""
        return self.model(canvas)

    def plant(self, raw: DenseOutputs) -> DenseOutputs:
        """As the scene has it."""
        images = len(self.canvas_maps)
        planted = inject_detections(self.scene, self.canvas_maps[0], raw.level_sizes)
        logits, centerness, distances = (t.to(self.device).expand(images, *t.shape[1:]) for t in planted)
        return DenseOutputs(logits, centerness, distances, raw.coefficients, raw.prototypes, raw.level_sizes)

    def finish(self, raw: DenseOutputs) -> list[Detections]:
        """Candidates, suppression, masks in boxes, of each image."""
        settings = self.experiment.postprocess
        points = locations(raw.level_sizes, STRIDES, self.device)
        contents = [canvas_map.content_size for canvas_map in self.canvas_maps]
        most = max(settings.max_detections, len(self.scene.boxes))
        found = postprocess(
            raw, points, contents, settings.score_threshold, settings.pre_nms_topk, settings.nms_iou, most
        )
        return assemble(found, self.canvas_maps, self.names, settings.mask_margin)

    def dense(self, found: list[Detections]) -> np.ndarray:
        """(D, H, W) bool, of the last image; its boxes where the model has no masks."""
        return [one.masks() if one.cropped_masks else one.boxes for one in found][-1]


def inject_detections(
    scene: Workload, canvas_map: CanvasMap, level_sizes: Sequence[tuple[int, int]]
) -> tuple[Tensor, Tensor, Tensor]:
    """Class logits (1, L, C), centerness logits (1, L) and distances (1, L, 4) that say what the scene holds.

    Every object at the free location nearest to its center, on its level; its neighbors say the same, fainter, as a
    trained network's do, and go in suppression.
    """
    points = locations(tuple(level_sizes), STRIDES)
    boxes = torch.from_numpy(canvas_map.to_canvas(scene.boxes))
    logits = torch.full((1, len(points), scene.classes), -9.0)
    centerness = torch.full((1, len(points)), -3.0)
    distances = torch.ones(1, len(points), 4)
    free = torch.ones(len(points), dtype=torch.bool)
    levels = _levels(level_sizes)
    for count, logit in ((1, 2.0), (8, 0.0)):
        for box, label in zip(boxes, scene.labels, strict=True):
            half = float((box[2:] - box[:2]).max()) / 2
            level = next(i for i, (low, high) in enumerate(LEVEL_RANGES) if low < half <= high)
            sides = distances_from_boxes(points, box.expand(len(points), 4))
            away = (points - (box[:2] + box[2:]) / 2).norm(dim=1)
            away[levels != level] += 1e4  # another level's only where its own is full
            away[sides.amin(1) <= 0] += 1e5 if count == 1 else torch.inf  # a small box may have no location inside
            away[~free] = torch.inf
            near = away.topk(count, largest=False)
            chosen = near.indices[near.values < torch.inf]
            free[chosen] = False
            logits[0, chosen, label] = logit
            centerness[0, chosen] = logit
            distances[0, chosen] = sides[chosen]
    return logits, centerness, distances


def _levels(sizes: Sequence[tuple[int, int]]) -> Tensor:
    """(L,) the level of each location."""
    return torch.cat([torch.full((height * width,), level) for level, (height, width) in enumerate(sizes)])
