"""Benchmark candidates of SAIS itself: recipes, in inference and in training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from sais.benchmark.candidates import ONE_IMAGE, Candidate, TrainingSetup
from sais.benchmark.injection import inject_detections
from sais.benchmark.workload import Workload, training_batch
from sais.config import Experiment, PostprocessConfig
from sais.converters.for_training import for_training
from sais.engine.train_step import compute_losses
from sais.inference.assemble import assemble
from sais.inference.backends.torch import TorchBackend
from sais.inference.options import InferenceOptions
from sais.inference.score_thresholds import DetectionFilter
from sais.inference.trained_model import TrainedModel
from sais.modeling.architecture import find_architecture
from sais.ops.letterbox import letterbox
from sais.ops.transfers import move_batch
from sais.recipes import recipe
from sais.results.detections import Detections
from sais.structures import DenseOutputs


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
        batch = move_batch(training_batch(workload, canvas_size, batch_size, num_objects), torch.device(device))
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
        tensors = [torch.from_numpy(array).to(self.device) for array in injected]
        logits, centerness, distances = (tensor.expand(batch_size, *tensor.shape[1:]) for tensor in tensors)
        return replace(outputs, class_logits=logits, quality_logits=centerness, distances=distances)

    def postprocess(self, outputs: DenseOutputs) -> list[Detections]:
        """Select candidates, run NMS and assemble the masks inside their boxes: B detections."""
        backend, settings = self.backend, self.backend.experiment.postprocess
        settings = replace(settings, max_detections=max(settings.max_detections, len(self.workload.boxes)))
        if backend.device_route is not None:
            detections = self._on_device(outputs, settings)
            if detections is not None:
                return detections
        content_sizes = [canvas_map.content_size for canvas_map in self.canvas_maps]
        assert backend.architecture.postprocess is not None
        instances = backend.architecture.postprocess(outputs, content_sizes, settings)
        return assemble(instances, self.canvas_maps, backend.class_names, settings, backend.mask_stride)

    def _on_device(self, outputs: DenseOutputs, settings: PostprocessConfig) -> list[Detections] | None:
        """Post-process on an accelerator, as the predictor does there; None if the fixed shapes were too small."""
        route, everything = self.backend.device_route, DetectionFilter(None, None, settings.max_detections, "")
        assert route is not None
        inputs = route.copy_inputs(None, self.canvas_maps, everything)
        return route.finish_from(outputs, inputs, settings, everything)()

    def dense_masks(self, results: list[Detections]) -> np.ndarray:
        """Return the masks (D, H, W) bool of the last image, or its boxes (D, 4) if the model has no masks."""
        return [detections.masks() if detections.cropped_masks else detections.boxes for detections in results][-1]
