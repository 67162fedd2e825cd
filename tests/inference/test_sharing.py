"""Threads that share a predictor: every backend returns to each thread the objects of its own image."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sais.errors import InputError
from sais.inference.options import InferenceOptions
from sais.inference.predictor import Predictor
from sais.io.images import read_image
from sais.results.detections import Detections
from tests.conftest import Export

THREADS = 6


@pytest.fixture(scope="module")
def images(shapes: Path) -> list[np.ndarray]:
    """Return 12 different images of two sizes."""
    arrays = [read_image(path) for path in sorted((shapes / "images" / "train").iterdir())]
    return [array if i % 2 else array[8:, 16:] for i, array in enumerate(arrays)]


def content(detections: Detections) -> tuple[Any, ...]:
    """Return all of a result, for comparison."""
    masks = [(mask.x, mask.y, mask.bits.tobytes()) for mask in detections.cropped_masks]
    return detections.boxes.tobytes(), detections.scores.tobytes(), detections.labels.tobytes(), *masks


def in_threads(function: Callable[[Any], Any], inputs: Sequence[Any]) -> list[Any]:
    """Return the results of all inputs in each of six threads, which start together and at different inputs."""
    barrier = threading.Barrier(THREADS)

    def work(thread: int) -> list[Any]:
        barrier.wait()
        order = [(i + 2 * thread) % len(inputs) for i in range(len(inputs))]
        results = {i: function(inputs[i]) for i in order}
        return [results[i] for i in range(len(inputs))]

    with ThreadPoolExecutor(THREADS) as pool:
        return [result for results in pool.map(work, range(THREADS)) for result in results]


def check_answers(predictor: Predictor, images: Sequence[np.ndarray]) -> None:
    expected = [content(predictor(image)) for image in images]
    assert len(set(expected)) == len(images), "images with equal objects cannot show a mix-up"
    assert in_threads(lambda image: content(predictor(image)), images) == expected * THREADS


WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "tiles": {"tiles": 64, "batch_size": 1},
    "augmented": {"tta_flip": True},
}
"""Name of a test -> inference options."""


@pytest.mark.parametrize("way", WAYS)
def test_threads_that_share_a_torch_predictor_get_their_own_objects(
    way: str, trained: Path, images: list[np.ndarray]
) -> None:
    count = 12 if way == "plain" else 4
    check_answers(Predictor(trained, device="cpu", score=0.03, **WAYS[way]), images[:count])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "runtime", "way", "threads"),
    [
        ("masks.onnx", "onnxruntime", "plain", 1),
        ("raw.onnx", "onnxruntime", "tiles", 1),
        ("detections.xml", "openvino", "plain", 0),
        ("detections.xml", "openvino", "augmented", 1),
        ("masks.onnx", "openvino", "plain", 1),
        ("raw.onnx", "openvino", "tiles", 1),
    ],
)
def test_threads_that_share_an_exported_model_get_their_own_objects(
    name: str, runtime: Any, way: str, threads: int, exported: Export, images: list[np.ndarray]
) -> None:
    pytest.importorskip(runtime)
    options = InferenceOptions(device="cpu", score=0.03, runtime=runtime, threads=threads)
    count = 12 if way == "plain" else 4
    check_answers(Predictor(exported(name), options, **WAYS[way]), images[:count])


@pytest.mark.slow
def test_two_predictors_of_one_file_and_batches_in_parallel(exported: Export, images: list[np.ndarray]) -> None:
    pytest.importorskip("openvino")
    first, second = (Predictor(exported("detections.xml"), score=score, batch_size=2) for score in (0.03, 0.05))
    jobs = [(predictor, images[i : i + 3]) for i in range(0, 12, 3) for predictor in (first, second)]

    def run(job: tuple[Predictor, list[np.ndarray]]) -> list[tuple[Any, ...]]:
        return [content(detections) for detections in job[0].batch(job[1])]

    assert in_threads(run, jobs) == [run(job) for job in jobs] * THREADS


def test_an_error_in_one_thread_does_not_disturb_the_others(trained: Path, images: list[np.ndarray]) -> None:
    predictor = Predictor(trained, device="cpu", score=0.03)
    sources: list[Any] = [image for image in images[:6] for image in (image, "missing.jpg")]

    def run(source: Any) -> Any:
        try:
            return content(predictor(source))
        except InputError as error:
            return str(error)

    expected = [run(source) for source in sources]
    assert sum("missing.jpg: no such image" in str(answer) for answer in expected) == 6
    assert in_threads(run, sources) == expected * THREADS


@pytest.fixture
def session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return an OpenVinoSession of a graph that sums up each image, with some arithmetic that takes time."""
    openvino = pytest.importorskip("openvino")
    from openvino import opset13 as ops

    from sais.inference.backends import openvino as backend

    images = ops.parameter([-1, 3, 64, 64], np.float32, name="images")
    sums = ops.reduce_sum(images, np.array([1]), keep_dims=False)
    product = ops.matmul(sums, ops.constant(np.eye(64, dtype=np.float32)), False, False)
    for _ in range(20):
        product = ops.matmul(product, ops.constant(np.eye(64, dtype=np.float32)), False, False)
    model = openvino.Model([ops.result(product)], [images], "sums")
    model.outputs[0].set_names({"sums"})
    openvino.save_model(model, tmp_path / "sums.xml")
    monkeypatch.setattr(backend, "metadata_from_text", lambda entries, name: None)
    return backend.OpenVinoSession(tmp_path / "sums.xml", InferenceOptions(threads=1))


def test_openvino_sessions_give_each_call_its_own_outputs(session: Any) -> None:
    inputs = [np.full((1 + i % 3, 3, 64, 64), i, np.float32) for i in range(200)]

    def run(images: np.ndarray) -> tuple[tuple[int, ...], float, float]:
        sums = session.run({"images": images})["sums"]
        return sums.shape, float(sums.min()), float(sums.max())

    expected = [((1 + i % 3, 64, 64), 3.0 * i, 3.0 * i) for i in range(200)]
    assert in_threads(run, inputs) == expected * THREADS


def test_openvino_outputs_stay_as_they_are_during_later_calls(session: Any) -> None:
    outputs = [session.run({"images": np.full((1, 3, 64, 64), i, np.float32)})["sums"] for i in range(5)]
    assert [float(sums.max()) for sums in outputs] == [0, 3, 6, 9, 12]


def test_openvino_requests_are_bounded_and_survive_errors(session: Any) -> None:
    def run(images: np.ndarray) -> float | None:
        try:
            return float(session.run({"images": images})["sums"].max())
        except RuntimeError:
            return None

    good, wrong = np.ones((1, 3, 64, 64), np.float32), np.ones((1, 4, 64, 64), np.float32)
    created: list[Any] = []
    pool = session._requests
    create = pool._create

    def count() -> Any:
        created.append(create())
        return created[-1]

    pool._create = count
    assert in_threads(run, [good, wrong] * 20) == [3.0, None] * 20 * THREADS
    assert 1 <= len(created) <= pool._idle.qsize() == 2
