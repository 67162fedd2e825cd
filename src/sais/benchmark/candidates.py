"""Benchmark candidates and the interface they implement; the candidates of SAIS itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from sais.benchmark.workload import Workload, training_batch
from sais.config import CriterionConfig, Experiment
from sais.converters.for_training import for_training
from sais.engine.train_step import compute_losses
from sais.errors import ConfigError
from sais.inference.assemble import assemble
from sais.inference.backends.torch import TorchBackend
from sais.inference.options import InferenceOptions
from sais.inference.trained_model import TrainedModel
from sais.modeling.architecture import find_architecture
from sais.modeling.assigners import level_ranges
from sais.ops.boxes import distances_from_boxes, locations
from sais.ops.letterbox import CanvasMap, letterbox
from sais.recipes import recipe
from sais.resolve import resolve
from sais.results.detections import Detections
from sais.structures import STRIDES, DenseOutputs

ONE_IMAGE = InferenceOptions(batch_size=1)
"""One image in one forward pass."""


class PreparedCandidate(Protocol):
    """A system in inference mode, set up for one workload. Its stages are timed one by one."""

    def preprocess(self, image: np.ndarray) -> Any:
        """Turn the image (H, W, 3) uint8 into the input of the network."""
        ...

    def network(self, canvases: Any) -> Any:
        """Run the forward pass up to the raw outputs."""
        ...

    def inject(self, outputs: Any) -> Any:
        """Overwrite the raw outputs so that they encode the objects of the workload. Not timed."""
        ...

    def postprocess(self, outputs: Any) -> Any:
        """Turn the raw outputs into the results that the system returns to its user."""
        ...

    def dense_masks(self, results: Any) -> Any:
        """Return the masks (D, H, W) of the whole image; a no-op if `postprocess` creates them already."""
        ...


@dataclass(frozen=True)
class TrainingSetup:
    """A network and its losses, ready for measuring a training step."""

    model: nn.Module
    """The network in training mode."""
    losses: Callable[[int], dict[str, Tensor]]
    """(batch size) -> the loss terms of one step on copies of the workload."""
    parts: dict[str, Any]
    """Name -> module, or tuple of modules, whose activation memory is reported separately."""


@dataclass(frozen=True)
class Candidate:
    """One system at one input size."""

    name: str
    prepare: Callable[[Workload, str], PreparedCandidate]
    """(workload, device) -> the system in inference mode with random weights, which do not change latency."""
    train: Callable[[Workload, str], TrainingSetup] | None = None
    """(workload, device) -> the system in training mode; None if only inference is compared."""
    note: str = ""
    """What a reader of the results has to know: how masks are created, differences from the original."""
    batch_size: int = 1
    """The number of copies of the image in one forward pass; latencies are reported per image."""


def find_candidates(source: str) -> list[Candidate]:
    """Return the candidates that a function named ``module:function`` returns.

    The current directory is searched as well.

    Raises:
        ConfigError: there is no such function, or it does not return a list of candidates.
    """
    candidates = resolve(source, {}, "candidates")()
    if not isinstance(candidates, list) or not all(isinstance(candidate, Candidate) for candidate in candidates):
        raise ConfigError(f"candidates {source!r}: not a list of sais.benchmark.candidates.Candidate. Return one.")
    return candidates


def own_candidates() -> list[Candidate]:
    """Return the four models of the paper's Table IV."""
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
    options: InferenceOptions = ONE_IMAGE,
    training_objects: int = 10,
) -> Candidate:
    """Create the candidate of a SAIS recipe.

    Args:
        name: the name of the candidate.
        experiment: the recipe.
        options: inference options; of them precision, compile and batch_size are used.
        training_objects: the number of objects of a training image; in inference it is that of the workload.
    """
    size = experiment.input.size
    return Candidate(
        name,
        lambda workload, device: PreparedSais(experiment, workload, replace(options, device=device)),
        lambda workload, device: set_up_training(experiment, size, workload, device, training_objects),
        "masks assembled inside their boxes",
        options.batch_size,
    )


def set_up_training(
    experiment: Experiment,
    canvas_size: tuple[int, int],
    workload: Workload,
    device: str,
    num_objects: int = 10,
) -> TrainingSetup:
    """Set up the training step of an experiment's architecture on copies of the workload.

    Args:
        experiment: the settings; the children of the network are the parts whose memory is reported.
        canvas_size: the height and width of the network's input in pixels.
        workload: the image and its objects.
        device: the device of the network: cpu, cuda, ...
        num_objects: the number of objects of each training image.
    """
    architecture = find_architecture(experiment.model.architecture)
    model = for_training(architecture.build(experiment, workload.num_classes), experiment, torch.device(device)).train()
    criterion = architecture.build_criterion(experiment)

    def losses(batch_size: int) -> dict[str, Tensor]:
        batch = training_batch(workload, canvas_size, batch_size, num_objects).to(torch.device(device))
        return compute_losses(model, criterion, batch, experiment.run.precision)

    return TrainingSetup(model, losses, {name: child for name, child in model.named_children() if _has_weights(child)})


def _has_weights(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


class PreparedSais:
    """SAIS as a recipe describes it, with random weights, in inference mode.

    Args:
        experiment: the recipe.
        workload: the image and its objects.
        options: inference options; of them device, precision, compile and batch_size are used.
    """

    def __init__(self, experiment: Experiment, workload: Workload, options: InferenceOptions = ONE_IMAGE) -> None:
        torch.manual_seed(0)
        self.workload = workload
        network = find_architecture(experiment.model.architecture).build(experiment, workload.num_classes)
        class_names = tuple(f"class {i}" for i in range(workload.num_classes))
        model = TrainedModel(network, experiment, class_names, tuple(range(1, len(class_names) + 1)))
        self.backend = TorchBackend(model, options)
        self.device = self.backend.device
        rules = experiment.input
        self.canvas_maps = [letterbox(workload.size, rules.mode, rules.size)] * options.batch_size

    def preprocess(self, image: np.ndarray) -> Tensor:
        """Resize and pad the image (H, W, 3) uint8 to canvases (B, 3, height, width) uint8."""
        canvases = np.stack([canvas_map.image(image) for canvas_map in self.canvas_maps])
        return torch.from_numpy(canvases).permute(0, 3, 1, 2).to(self.device)

    def network(self, canvases: Tensor) -> DenseOutputs:
        """Run the forward pass on canvases (B, 3, height, width)."""
        outputs: DenseOutputs = self.backend.network(canvases)
        return outputs

    def inject(self, outputs: DenseOutputs) -> DenseOutputs:
        """Replace logits and distances (B, L, .) by those of the workload's objects."""
        batch_size = len(self.canvas_maps)
        injected = inject_detections(self.workload, self.canvas_maps[0], outputs.level_sizes)
        logits, centerness, distances = (t.to(self.device).expand(batch_size, *t.shape[1:]) for t in injected)
        return replace(outputs, class_logits=logits, quality_logits=centerness, distances=distances)

    def postprocess(self, outputs: DenseOutputs) -> list[Detections]:
        """Select candidates, run NMS and assemble the masks inside their boxes: B detections."""
        backend, settings = self.backend, self.backend.experiment.postprocess
        settings = replace(settings, max_detections=max(settings.max_detections, len(self.workload.boxes)))
        content_sizes = [canvas_map.content_size for canvas_map in self.canvas_maps]
        assert backend.architecture.postprocess is not None
        instances = backend.architecture.postprocess(outputs, content_sizes, settings)
        return assemble(instances, self.canvas_maps, backend.class_names, settings.mask_margin, backend.mask_stride)

    def dense_masks(self, results: list[Detections]) -> np.ndarray:
        """Return the masks (D, H, W) bool of the last image, or its boxes (D, 4) if the model has no masks."""
        return [detections.masks() if detections.cropped_masks else detections.boxes for detections in results][-1]


def inject_detections(
    workload: Workload, canvas_map: CanvasMap, level_sizes: Sequence[tuple[int, int]]
) -> tuple[Tensor, Tensor, Tensor]:
    """Create dense outputs that encode the D objects of a workload.

    Each object gets the free location nearest to its center on its level. Its neighbors predict the same object with a
    lower score, as those of a trained network do, and are removed by NMS.

    Args:
        workload: the image and its objects.
        canvas_map: the map from the image to the canvas.
        level_sizes: the height and width of each pyramid level.

    Returns:
        Class logits (1, L, C), centerness logits (1, L) and distances (1, L, 4) in canvas pixels.
    """
    points = locations(tuple(level_sizes), STRIDES)
    boxes = torch.from_numpy(canvas_map.boxes(workload.boxes))
    logits = torch.full((1, len(points), workload.num_classes), -9.0)
    centerness = torch.full((1, len(points)), -3.0)
    distances = torch.ones(1, len(points), 4)
    free = torch.ones(len(points), dtype=torch.bool)
    levels = _level_indices(level_sizes)
    ranges = level_ranges(CriterionConfig().level_ranges)
    for count, logit in ((1, 2.0), (8, 0.0)):
        for box, label in zip(boxes, workload.labels, strict=True):
            half_side = float((box[2:] - box[:2]).max()) / 2
            level = next(i for i, (low, high) in enumerate(ranges) if low < half_side <= high)
            sides = distances_from_boxes(points, box.expand(len(points), 4))
            cost = (points - (box[:2] + box[2:]) / 2).norm(dim=1)
            cost[levels != level] += 1e4  # locations of another level only if this level is full
            cost[sides.amin(1) <= 0] += 1e5 if count == 1 else torch.inf  # a small box may contain no location
            cost[~free] = torch.inf
            nearest = cost.topk(count, largest=False)
            chosen = nearest.indices[nearest.values < torch.inf]
            free[chosen] = False
            logits[0, chosen, label] = logit
            centerness[0, chosen] = logit
            distances[0, chosen] = sides[chosen]
    return logits, centerness, distances


def _level_indices(level_sizes: Sequence[tuple[int, int]]) -> Tensor:
    """Return the pyramid level of each location, (L,)."""
    return torch.cat([torch.full((height * width,), level) for level, (height, width) in enumerate(level_sizes)])
