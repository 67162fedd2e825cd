"""The route of an accelerator: the detections of the host, one copy to the device, one copy back, no other wait."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sais.config import Experiment
from sais.inference.on_device import DeviceRoute, FixedSizes, fits
from sais.inference.predictor import Predictor
from sais.inference.trained_model import TrainedModel, load_model
from sais.io.images import read_image
from sais.modeling.architecture import find_architecture
from sais.results.detections import Detections
from tests.inference.test_sharing import content, in_threads
from tests.simulated_device import DEVICE, SimulatedDevice, module_to_device

CLASS_NAMES = ("ring", "star", "triangle")


def route_of(predictor: Predictor, device: torch.device) -> DeviceRoute:
    """Return the route of a predictor's network on a device, where the network is."""
    backend: Any = predictor.backend
    postprocess = backend.architecture.postprocess_fixed
    return DeviceRoute(backend.network, postprocess, device, backend.class_names, backend.mask_stride)


def on_route(source: Path | TrainedModel, **options: Any) -> Predictor:
    """Return a predictor on the CPU that takes the route of an accelerator."""
    predictor = Predictor(source, device="cpu", **options)
    predictor.backend.device_route = route_of(predictor, torch.device("cpu"))  # type: ignore[attr-defined]
    return predictor


@pytest.fixture(scope="module")
def images(shapes: Path) -> list[np.ndarray]:
    """Return 12 images of three sizes."""
    arrays = [read_image(path) for path in sorted((shapes / "images" / "train").iterdir())]
    return [array[: 96 - 7 * (i % 3), 3 * (i % 3) :] for i, array in enumerate(arrays)]


def assert_equal(actual: Detections, expected: Detections, score_tolerance: float = 2e-7) -> int:
    """Compare detections, with a relative tolerance of the scores; return the number of pixels that differ."""
    assert actual.image_size == expected.image_size
    assert actual.omitted == expected.omitted
    np.testing.assert_allclose(actual.scores, expected.scores, rtol=score_tolerance)
    np.testing.assert_array_equal(actual.labels, expected.labels)
    np.testing.assert_array_equal(actual.boxes, expected.boxes)
    assert len(actual.cropped_masks) == len(expected.cropped_masks)
    pixels = 0
    for mask, other in zip(actual.cropped_masks, expected.cropped_masks, strict=True):
        assert (mask.x, mask.y, mask.shape) == (other.x, other.y, other.shape)
        pixels += int((mask.bits != other.bits).sum())
    return pixels


@pytest.mark.parametrize(
    "options",
    [
        {"score": 0.03},
        {"score": None},
        {"score": "auto"},
        {"score": 0.02, "classes": ("star", "cross")},
        {"score": 0.02, "class_scores": ("ring=0.2",)},
        {"score": 0.02, "class_agnostic": True, "max_detections": 7},
        {"score": 0.03, "nms_iou": 0.7, "batch_size": 5},
        {"score": 0.03, "tta_flip": True},
        {"score": 0.03, "tiles": 64},
    ],
    ids=lambda options: "-".join(map(str, options)),
)
def test_detections_are_those_of_the_host(options: dict[str, Any], trained: Path, images: list[np.ndarray]) -> None:
    images = images if Predictor(trained, device="cpu", **options).options.single_pass else images[:2]
    expected = Predictor(trained, device="cpu", **options).batch(images)
    predictor = on_route(trained, **options)
    pixels = sum(assert_equal(*pair) for pair in zip(predictor.batch(images), expected, strict=True))
    assert pixels <= 2  # logits within rounding of 0
    assert (sum(map(len, expected)) > 10) == (options["score"] != "auto")  # the model is below 0.3 everywhere
    streamed = list(predictor.stream(iter(images)))
    assert sum(assert_equal(*pair) for pair in zip(streamed, expected, strict=True)) <= 2


@pytest.fixture(scope="module")
def with_maskness(trained: Path) -> TrainedModel:
    """Return the trained model with scores multiplied by the maskness, a margin of masks, and boxes from masks."""
    model = load_model(trained)
    settings = replace(model.experiment.postprocess, maskness=True, mask_margin=0.1, boxes_from_masks=True)
    return replace(model, experiment=replace(model.experiment, postprocess=settings))


@pytest.mark.parametrize(
    "options",
    [
        {"score": 0.03},
        {"score": None},
        {"score": 0.02, "classes": ("star", "cross"), "class_scores": ("star=0.03",)},
        {"score": 0.02, "class_agnostic": True, "max_detections": 7},
        {"score": 0.02, "tiles": 64},
    ],
    ids=lambda options: "-".join(map(str, options)),
)
def test_detections_with_maskness_are_those_of_the_host(
    options: dict[str, Any], with_maskness: TrainedModel, images: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = images if "tiles" not in options else images[:2]
    expected = Predictor(with_maskness, device="cpu", **options).batch(images)
    predictor = on_route(with_maskness, **options)
    predictor.batch(images)  # the sizes follow
    monkeypatch.setattr(predictor, "_detect", lambda *arguments: pytest.fail("the route of the host"))
    pixels = sum(assert_equal(*pair, 1e-5) for pair in zip(predictor.batch(images), expected, strict=True))
    assert pixels <= 2  # logits within rounding of 0
    assert sum(map(len, expected)) > 10


def test_boxes_of_a_model_without_masks_are_those_of_the_host(tiny: Experiment, images: list[np.ndarray]) -> None:
    experiment = replace(tiny, model=replace(tiny.model, masks=False, pretrained=False))
    model = random_model(experiment)
    expected = Predictor(model, device="cpu", score=0.002).batch(images[:4])
    actual = on_route(model, score=0.002).batch(images[:4])
    for pair in zip(actual, expected, strict=True):
        assert_equal(*pair)
    assert all(len(detections) > 10 and not detections.cropped_masks for detections in actual)


def test_a_batch_that_needs_larger_shapes_takes_the_route_of_the_host(
    trained: Path, images: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred masks need more than the first capacity; the next batch has enough."""
    predictor = on_route(trained, score=0.0)
    on_host: list[int] = []
    detect = predictor._detect

    def record(canvases: Any, *arguments: Any) -> list[Detections]:
        on_host.append(len(canvases))
        return detect(canvases, *arguments)

    monkeypatch.setattr(predictor, "_detect", record)
    expected = Predictor(trained, device="cpu", score=0.0).batch(images[:3])
    for calls in ([3], [3]):
        for pair in zip(predictor.batch(images[:3]), expected, strict=True):
            assert_equal(*pair)
        assert on_host == calls
    sizes = predictor.backend.device_route.sizes  # type: ignore[attr-defined]
    assert sizes.areas >= 4


def test_sizes_follow_the_batches() -> None:
    sizes = FixedSizes()
    assert (sizes.areas, sizes.candidates, sizes.repetitions) == (2, 1000, 8)
    sizes.follow(7.0, False, False)
    assert (sizes.areas, sizes.candidates, sizes.repetitions) == (16, 2000, 16)
    for _ in range(40):
        sizes.follow(0.1, True, True)
    assert (sizes.areas, sizes.candidates, sizes.repetitions) == (1, 2000, 16)
    for _ in range(9):
        sizes.follow(0.1, False, False)
    assert sizes.limit_candidates(1) == 4000
    assert sizes.limit_candidates(8) < 4000
    assert fits(64, 192 * 192, 100)
    assert not fits(8, 192 * 192, 5000)


def test_threads_that_share_a_predictor_get_their_own_objects(trained: Path, images: list[np.ndarray]) -> None:
    predictor = on_route(trained, score=0.03)
    expected = [content(predictor(image)) for image in images]
    assert len(set(expected)) == len(images)
    assert in_threads(lambda image: content(predictor(image)), images) == expected * 6


def random_model(experiment: Experiment) -> TrainedModel:
    torch.manual_seed(0)
    network = find_architecture("sais").build(experiment, len(CLASS_NAMES))
    return TrainedModel(network, experiment, CLASS_NAMES, (1, 2, 3))


def random_experiment(tiny: Experiment, maskness: bool = False) -> Experiment:
    """Return the settings of a network with random weights."""
    model, settings = replace(tiny.model, pretrained=False), replace(tiny.postprocess, maskness=maskness)
    return replace(tiny, model=model, postprocess=settings)


@pytest.fixture(params=[False, True], ids=["plain", "maskness"])
def simulated(
    request: pytest.FixtureRequest, tiny: Experiment, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[SimulatedDevice, Predictor]]:
    """Yield a simulated accelerator and a predictor on it, at which nothing may take the route of the host."""
    model = random_model(random_experiment(tiny, request.param))
    predictor = Predictor(model, device="cpu", precision="bf16", score=0.001, max_detections=20)
    backend: Any = predictor.backend
    monkeypatch.setattr(predictor, "_detect", lambda *arguments: pytest.fail("the route of the host"))
    with SimulatedDevice() as device:
        module_to_device(backend.network)
        backend.device_route = route_of(predictor, DEVICE)
        yield device, predictor


def test_a_prediction_of_eight_images_copies_once_to_the_device_and_once_back(
    simulated: tuple[SimulatedDevice, Predictor], images: list[np.ndarray]
) -> None:
    device, predictor = simulated
    finish = predictor._start(*batch_of(images[:8]), predictor.filter)
    assert device.copies_to_device == 1
    assert +device.waits == {"copy to the host": 1}  # which a CUDA device makes while the host goes on
    detections = finish()
    assert device.copies_to_device == 1
    assert device.waits.total() == 1
    assert all(len(of_image) == 20 == len(of_image.cropped_masks) for of_image in detections)


def batch_of(images: list[np.ndarray]) -> tuple[np.ndarray, list[Any]]:
    """Return the canvases (B, 3, 64, 64) and canvas maps of images."""
    from sais.ops.letterbox import group_by_canvas

    ((_, canvas_maps, stacked),) = group_by_canvas(images, "fixed", (64, 64))
    return stacked.transpose(0, 3, 1, 2), canvas_maps


def test_launches_do_not_grow_with_images_or_detections(
    simulated: tuple[SimulatedDevice, Predictor], images: list[np.ndarray]
) -> None:
    device, predictor = simulated
    counts = []
    for number, score in ((1, 0.001), (8, 0.001), (8, 0.9)):
        device.launches.clear()
        detection_filter = replace(predictor.filter, minimum=np.full(len(CLASS_NAMES), score, np.float32))
        detections = predictor._start(*batch_of(images[:number]), detection_filter)()
        assert {len(of_image) for of_image in detections} == {0 if score > 0.5 else 20}
        counts.append(device.launches.total())
    assert counts[0] == counts[1] == counts[2]
    assert counts[0] < 700


def test_the_device_works_on_the_next_batch_before_the_host_takes_a_result(
    simulated: tuple[SimulatedDevice, Predictor], images: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, predictor = simulated
    events: list[str] = []
    start = predictor._start

    def record(*arguments: Any) -> Any:
        events.append("start")
        finish = start(*arguments)
        return lambda: (events.append("result"), finish())[1]

    monkeypatch.setattr(predictor, "_start", record)
    object.__setattr__(predictor.options, "batch_size", 4)
    assert len(list(predictor.stream(images))) == 12
    assert events == ["start", "start", "result", "start", "result", "result"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "maskness"),
    [({}, False), ({"classes": ("star",)}, False), ({}, True)],
    ids=["all", "classes", "maskness"],
)
def test_post_processing_and_masks_compile_without_a_graph_break(
    options: dict[str, Any], maskness: bool, tiny: Experiment, images: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches of other images and of other shapes of masks use the same few graphs."""
    model = random_model(random_experiment(tiny, maskness))
    options = {"device": "cpu", "score": 0.001, "max_detections": 20, "batch_size": 4, **options}
    predictor = Predictor(model, **options)
    expected = predictor.batch(images)
    backend: Any = predictor.backend
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager", fullgraph=True))
    postprocess = backend.architecture.postprocess_fixed
    backend.device_route = DeviceRoute(
        backend.network, postprocess, torch.device("cpu"), backend.class_names, backend.mask_stride, compile=True
    )
    graphs = torch._dynamo.utils.counters["stats"]
    graphs.clear()
    for _ in range(3):
        for pair in zip(predictor.batch(images), expected, strict=True):
            assert_equal(*pair, 1e-5 if maskness else 2e-7)
    assert 1 <= graphs["unique_graphs"] <= 2


def test_an_evaluation_equals_that_of_the_host_and_works_ahead(trained: Path, shapes: Path) -> None:
    from sais.evaluation.evaluate import evaluate

    expected = evaluate(Predictor(trained, device="cpu", score=None), shapes, batch_size=2, workers=0)
    actual = evaluate(on_route(trained, score=None), shapes, batch_size=2, workers=0)
    assert actual.metrics.to_dict() == expected.metrics.to_dict()  # None for NaN
    assert len(actual.results) == len(expected.results) > 100
