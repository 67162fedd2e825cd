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

from sais.bench.scene import Scene, training_batch
from sais.config import Experiment
from sais.detections import Detections
from sais.engine.system import SAIS_SYSTEM, System
from sais.geometry.boxes import distances_from_boxes, locations
from sais.images import fit, place
from sais.model.fpn import STRIDES
from sais.model.sais import build_model
from sais.postprocess import assemble, detect
from sais.recipes import recipe
from sais.structures import DenseOutputs, SaisError
from sais.targets import LEVEL_RANGES


class Ready(Protocol):
    """A system that stands ready to find the objects of one scene."""

    def fit(self, picture: np.ndarray) -> Any:
        """The network's input, made of the picture (H, W, 3) uint8."""
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
        """The (D, H, W) masks of the whole picture; nothing is done where `finish` makes them already."""
        ...


@dataclass(frozen=True)
class Training:
    """What measuring a training step takes."""

    model: nn.Module
    """In training mode."""
    losses: Callable[[int], dict[str, Tensor]]
    """Number of pictures -> the terms of one step on copies of the scene with ten objects."""
    parts: dict[str, Any]
    """Name -> part of the network (a module, or a tuple of them) whose memory is given apart."""


@dataclass(frozen=True)
class Contestant:
    """One system at one size."""

    name: str
    prepare: Callable[[Scene, str], Ready]
    """(scene, device) -> the system in inference mode, with random weights: they change no time."""
    train: Callable[[Scene, str], Training] | None = None
    """(scene, device) -> the same in training; None where only inference is compared."""
    note: str = ""
    """What is to be known of it: how its masks are made, in what it differs."""


def find_contestants(source: str) -> list[Contestant]:
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
    if not isinstance(found, list) or not all(isinstance(one, Contestant) for one in found):
        raise SaisError(f"'{source}' does not return a list of sais.bench.contestants.Contestant")
    return found


def own() -> list[Contestant]:
    """The paper's four models of Table IV."""
    names = {
        "SAIS-640, R50": "sais-r50-640",
        "SAIS-768, R50": "sais-r50-768",
        "SAIS-768, R101": "sais-r101-768",
        "SAIS-768, X101": "sais-x101-768",
    }
    return [of_recipe(name, recipe(key)) for name, key in names.items()]


def of_recipe(name: str, experiment: Experiment) -> Contestant:
    """SAIS as a recipe has it."""
    return Contestant(
        name,
        lambda scene, device: ReadySais(experiment, scene, device),
        lambda scene, device: training_of(SAIS_SYSTEM, experiment, experiment.input.size, scene, device),
        "masks assembled in their boxes",
    )


def training_of(
    system: System, experiment: Experiment, canvas: tuple[int, int], scene: Scene, device: str, objects: int = 10
) -> Training:
    """A system's training step on copies of the scene; its parts are the children of its network."""
    model = system.build(experiment, scene.classes).to(device).train()

    def losses(pictures: int) -> dict[str, Tensor]:
        batch = training_batch(scene, canvas, pictures, objects).to(torch.device(device))
        return system.losses(model, batch, experiment, 0)

    return Training(model, losses, {name: child for name, child in model.named_children() if _has_weights(child)})


def _has_weights(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


class ReadySais:
    """SAIS at the size of a recipe, with random weights.

    Args:
        experiment: the recipe.
        scene: what it is to find.
        device: cpu, cuda, ...
    """

    def __init__(self, experiment: Experiment, scene: Scene, device: str) -> None:
        torch.manual_seed(0)
        self.experiment = experiment
        self.scene = scene
        self.device = torch.device(device)
        self.model = build_model(experiment.model, scene.classes).to(self.device).eval()
        self.placement = place(scene.size, experiment.input.mode, experiment.input.size)
        self.names = tuple(f"class {i}" for i in range(scene.classes))

    def fit(self, picture: np.ndarray) -> Tensor:
        """(H, W, 3) uint8 -> (1, 3, height, width) uint8."""
        return torch.from_numpy(fit(picture, self.placement)).permute(2, 0, 1)[None].to(self.device)

    def network(self, canvas: Tensor) -> DenseOutputs:
        """The forward pass."""
        return self.model(canvas)

    def plant(self, raw: DenseOutputs) -> DenseOutputs:
        """Every object at the free location nearest to its center, on its level; its neighbours say the same, fainter,
        as a trained network's do, and go in suppression."""
        points = locations(raw.level_sizes, STRIDES)
        boxes = torch.from_numpy(self.placement.to_canvas(self.scene.boxes))
        logits = torch.full(raw.class_logits.shape, -9.0)
        centerness = torch.full(raw.centerness_logits.shape, -3.0)
        distances = torch.ones(raw.distances.shape)
        free = torch.ones(len(points), dtype=torch.bool)
        levels = _levels(raw.level_sizes)
        for count, logit in ((1, 2.0), (8, 0.0)):
            for box, label in zip(boxes, self.scene.labels, strict=True):
                half = float((box[2:] - box[:2]).max()) / 2
                level = next(i for i, (low, high) in enumerate(LEVEL_RANGES) if low < half <= high)
                sides = distances_from_boxes(points, box.expand(len(points), 4))
                away = (points - (box[:2] + box[2:]) / 2).norm(dim=1)
                away[levels != level] += 1e4  # another level's only where its own is full
                away[~free | (sides.amin(1) <= 0)] = torch.inf
                near = away.topk(count, largest=False)
                chosen = near.indices[near.values < torch.inf]
                free[chosen] = False
                logits[0, chosen, label] = logit
                centerness[0, chosen] = logit
                distances[0, chosen] = sides[chosen]
        logits, centerness, distances = (t.to(self.device) for t in (logits, centerness, distances))
        return DenseOutputs(logits, centerness, distances, raw.coefficients, raw.prototypes, raw.level_sizes)

    def finish(self, raw: DenseOutputs) -> Detections:
        """Candidates, suppression, masks in boxes."""
        test = self.experiment.test
        points = locations(raw.level_sizes, STRIDES, self.device)
        content = [self.placement.content_size]
        found = detect(raw, points, content, test.score, test.candidates, test.nms, test.detections)
        return assemble(found, [self.placement], self.names, test.mask_margin)[0]

    def dense(self, found: Detections) -> np.ndarray:
        """(D, H, W) bool."""
        return found.masks()


def _levels(sizes: Sequence[tuple[int, int]]) -> Tensor:
    """(L,) the level of each location."""
    return torch.cat([torch.full((height * width,), level) for level, (height, width) in enumerate(sizes)])
