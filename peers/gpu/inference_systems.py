"""The systems whose inference is timed. Each returns the objects of the workload from an image with its own network.

Networks have random weights. Their outputs are replaced by those of a trained network that detects all objects, which
costs no time, so that exactly these objects pass through NMS and mask assembly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from peers.candidates import PreparedYolact
from peers.gpu.plan import Plan, arithmetic, float_precision
from peers.torchvision_peers.candidates import PreparedMaskRcnn
from sais.benchmark.injection import inject_detections
from sais.benchmark.workload import Workload
from sais.config import Experiment
from sais.errors import SaisError
from sais.inference.on_device import DeviceRoute
from sais.inference.options import InferenceOptions
from sais.inference.predictor import Predictor
from sais.inference.trained_model import TrainedModel
from sais.modeling.architecture import find_architecture
from sais.ops.letterbox import CanvasMap, letterbox
from sais.structures import DenseOutputs

NETWORK, FROM_CANVASES, FROM_IMAGES, STREAMED = "network", "canvases to masks", "images to masks", "streamed"
"""The stages: the network alone on canvases on the device; from canvases in host memory to masks; from images in host
memory to masks, one call; the same with the next images being prepared at the same time."""
STREAMED_BATCHES = 4
"""Number of batches in one timed run of a stream."""

Stages = dict[str, Callable[[], int]]
"""Name of a stage -> function that runs it and returns the number of images."""


class InjectedNetwork(nn.Module):
    """A network whose outputs are replaced by those that detect the objects of a workload.

    Args:
        network: the network in inference mode.
        workload: the image and its objects.
        canvas_map: the map from the image to its canvas.
    """

    def __init__(self, network: nn.Module, workload: Workload, canvas_map: CanvasMap) -> None:
        super().__init__()
        self.network, self.workload, self.canvas_map = network, workload, canvas_map
        self._injected: dict[int, dict[str, Any]] = {}

    def forward(self, images: Tensor) -> DenseOutputs:
        """Run the network on canvases (B, 3, H, W) and replace logits, distances and coefficients (B, L, .)."""
        outputs: DenseOutputs = self.network(images)
        if len(images) not in self._injected:
            self._injected[len(images)] = self._inject(outputs)
        return replace(outputs, **self._injected[len(images)])

    def _inject(self, outputs: DenseOutputs) -> dict[str, Any]:
        arrays = inject_detections(self.workload, self.canvas_map, outputs.level_sizes)
        assert outputs.coefficients is not None
        length, prototypes = outputs.coefficients.shape[1:]
        noise = np.random.default_rng(0).uniform(-1, 1, (1, length, prototypes)).astype(np.float32)
        noise[..., 0] = np.abs(noise).sum(2)  # positive on average: masks of random weights would often be empty
        names = ("class_logits", "quality_logits", "distances", "coefficients")
        replaced: dict[str, Any] = {}
        for name, array in zip(names, (*arrays, noise), strict=True):
            template = getattr(outputs, name)
            tensor = torch.from_numpy(array).to(template.device, template.dtype)
            replaced[name] = tensor.expand(len(template), *tensor.shape[1:]).contiguous()
        return replaced


def random_model(experiment: Experiment, num_classes: int = 80) -> TrainedModel:
    """Return a model with random weights, which do not change latency."""
    torch.manual_seed(0)
    network = find_architecture(experiment.model.architecture).build(experiment, num_classes)
    class_names = tuple(f"class {i}" for i in range(num_classes))
    return TrainedModel(network, experiment, class_names, tuple(range(1, num_classes + 1)))


def sais_stages(plan: Plan, model: TrainedModel, precision: str, batch_size: int, compile: bool = False) -> Stages:
    """Return the stages of SAIS, by the public `Predictor`.

    Args:
        plan: device and sizes.
        model: a model with random weights.
        precision: fp32, tf32, bf16 or fp16.
        batch_size: the number of images in one forward pass.
        compile: whether to compile the network.

    Raises:
        SaisError: the predictor does not return all objects.
    """
    workload = plan.workload()
    options = InferenceOptions(
        score=None, device=plan.device, precision=float_precision(precision), batch_size=batch_size, compile=compile
    )
    predictor = Predictor(model, options)
    backend: Any = predictor.backend
    network, rules = backend.network, predictor.experiment.input
    canvas_map = letterbox(workload.size, rules.mode, rules.size)
    backend.network = InjectedNetwork(network, workload, canvas_map)
    if plan.small:  # the route of an accelerator runs on a CPU too, and is tested there
        postprocess = backend.architecture.postprocess_fixed
        backend.device_route = DeviceRoute(
            network, postprocess, backend.device, backend.class_names, backend.mask_stride
        )
    if backend.device_route is not None:
        backend.device_route.network = backend.network
    canvases = np.stack([canvas_map.image(workload.image)] * batch_size).transpose(0, 3, 1, 2)
    on_device = torch.from_numpy(np.ascontiguousarray(canvases)).to(plan.device)
    images = [workload.image] * batch_size

    def run_network() -> int:
        with arithmetic(precision), torch.inference_mode():
            network(on_device)
        return batch_size

    def from_canvases() -> int:
        with arithmetic(precision):
            return len(predictor.detect(canvases, [canvas_map] * batch_size))

    def from_images() -> int:
        with arithmetic(precision):
            return len(predictor.batch(images))

    def streamed() -> int:
        with arithmetic(precision):
            return sum(1 for _ in predictor.stream(images * STREAMED_BATCHES))

    with arithmetic(precision):
        for detections in predictor.batch(images):
            filled = sum(mask.area > 0 for mask in detections.cropped_masks)
            check_objects(model.experiment.name, len(detections), len(workload.boxes), filled)
        check_route(predictor, canvases, [canvas_map] * batch_size)
    return {NETWORK: run_network, FROM_CANVASES: from_canvases, FROM_IMAGES: from_images, STREAMED: streamed}


def check_objects(name: str, count: int, expected: int, filled: int | None = None) -> None:
    """Raise SaisError unless all objects were detected and, if known, half of the masks have pixels."""
    if count != expected:
        raise SaisError(f"{name}: {expected} objects injected, but {count} detected. Use fewer objects.")
    if filled is not None and 2 * filled < count:
        raise SaisError(f"{name}: only {filled} of {count} masks have pixels. Inject other coefficients.")


def check_route(predictor: Predictor, canvases: np.ndarray, canvas_maps: list[CanvasMap]) -> None:
    """Raise SaisError if the route of an accelerator leaves canvases (B, 3, H, W) to the slower route of the host."""
    route, settings = getattr(predictor.backend, "device_route", None), predictor.experiment.postprocess
    if route is None:
        return
    finish = route.start(canvases, canvas_maps, predictor.filter.early_settings(settings), predictor.filter)
    if finish() is None:
        raise SaisError("inference.on_device: the batch exceeds its fixed shapes again. Check FixedSizes.follow.")


def peer_stages(plan: Plan, name: str, precision: str, batch_size: int) -> Stages:
    """Return the stages of Mask R-CNN (at 768) or YOLACT (at 550), whose masks stay on the device.

    Copying 100 masks of 1280 x 960 to the host takes longer than their networks; leaving it out favors the peers.

    Args:
        plan: device and sizes.
        name: `MASK_RCNN` or `YOLACT`.
        precision: fp32, tf32, or bf16 and fp16 by autocast.
        batch_size: the number of images in one forward pass.
    """
    workload = plan.workload()
    experiment = plan.peer_experiment(name)
    system: Any
    if name == MASK_RCNN:
        system = PreparedMaskRcnn(experiment, plan.side(768), workload, plan.device, batch_size)
    else:
        system = PreparedYolact(experiment, 200 if plan.small else 550, workload, plan.device, batch_size)
    with peer_context(plan, precision):
        on_device = system.preprocess(workload.image)
        injected = system.inject(system.network(on_device))
        for masks in system.postprocess(injected):
            check_objects(name, len(masks), len(workload.boxes))

    def run_network() -> int:
        with peer_context(plan, precision):
            system.network(on_device)
        return batch_size

    def from_canvases() -> int:
        with peer_context(plan, precision):
            return len(system.postprocess(system.inject(system.network(on_device))))

    def from_images() -> int:
        with peer_context(plan, precision):
            canvases = system.preprocess(workload.image)
            return len(system.postprocess(system.inject(system.network(canvases))))

    return {NETWORK: run_network, FROM_CANVASES: from_canvases, FROM_IMAGES: from_images}


@contextmanager
def peer_context(plan: Plan, precision: str) -> Iterator[None]:
    """Run a peer without gradients in a precision."""
    dtypes = {"bf16": torch.bfloat16, "fp16": torch.float16}
    kind = torch.device(plan.device).type
    autocast = torch.autocast(kind, dtypes.get(precision, torch.bfloat16), enabled=precision in dtypes)
    with arithmetic(precision), torch.inference_mode(), autocast:
        yield


@dataclass(frozen=True)
class Comparison:
    """Two systems, the first of which is to be the faster."""

    first: str
    second: str


MASK_RCNN, YOLACT = "Mask R-CNN 768, R50", "YOLACT-550, R50"
SAIS, SLIM = "sais-r50-768", "sais-r50-640-slim"
COMPARISONS = (Comparison(SAIS, MASK_RCNN), Comparison(SLIM, YOLACT))
