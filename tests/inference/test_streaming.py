"""`Predictor.stream`: the detections of `Predictor.batch`, in order, while a thread prepares the next batch."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from sais.errors import InputError
from sais.inference.on_device import DeviceRoute
from sais.inference.predictor import Predictor
from sais.inference.streaming import finish_in_order, prepared_ahead, start_batch
from sais.io.images import read_image
from sais.ops.letterbox import CanvasMap
from tests.inference.test_sharing import content


@pytest.fixture(scope="module")
def predictor(trained: Path) -> Predictor:
    return Predictor(trained, device="cpu", score=0.03, batch_size=4)


@pytest.fixture(scope="module")
def paths(shapes: Path) -> list[Path]:
    return sorted((shapes / "images" / "train").iterdir())[:7]


def test_stream_yields_the_detections_of_batches_in_order(predictor: Predictor, paths: list[Path]) -> None:
    images = [read_image(path)[: 96 - 5 * (i % 2)] for i, path in enumerate(paths)]
    expected = [content(d) for first in (0, 4) for d in predictor.batch(images[first : first + 4])]
    assert len(set(expected)) == 7
    assert [content(detections) for detections in predictor.stream(iter(images))] == expected
    assert list(predictor.stream([])) == []


def test_stream_groups_images_by_canvas_and_keeps_their_order(trained: Path, paths: list[Path]) -> None:
    from dataclasses import replace

    from sais.inference.trained_model import load_model

    model = load_model(trained)
    rules = replace(model.experiment.input, mode="keep_ratio", size=(64, 96))
    model = replace(model, experiment=replace(model.experiment, input=rules))
    predictor = Predictor(model, device="cpu", score=0.03, batch_size=4)
    images = [read_image(path) if i % 3 else read_image(path).transpose(1, 0, 2) for i, path in enumerate(paths)]
    sizes = [detections.image_size for detections in predictor.stream(images)]
    assert sizes == [image.shape[:2] for image in images]


def test_images_of_a_batch_are_resized_by_several_threads_for_a_gpu(
    trained: Path, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Resizing an image waits until four threads resize one. For a CPU, one thread resizes all."""
    predictor = Predictor(trained, device="cpu", score=0.03, batch_size=4)
    backend: Any = predictor.backend
    postprocess, device = backend.architecture.postprocess_fixed, torch.device("cpu")
    backend.device_route = DeviceRoute(backend.network, postprocess, device, backend.class_names, 4)
    expected = [content(detections) for detections in predictor.batch(paths[:4])]
    barrier, resize = threading.Barrier(4), CanvasMap.image

    def resize_together(canvas_map: CanvasMap, image: np.ndarray) -> np.ndarray:
        barrier.wait(10)
        return resize(canvas_map, image)

    monkeypatch.setattr(CanvasMap, "image", resize_together)
    assert [content(detections) for detections in predictor.stream(paths[:4])] == expected
    finish = start_batch(predictor, [read_image(path) for path in paths[:4]])  # as `sais predict`
    assert [content(detections) for detections in finish()] == expected


def test_stream_of_frames_that_share_one_pillow_image(
    trained: Path, predictor: Predictor, paths: list[Path], tmp_path: Path
) -> None:
    frames = [read_image(path) for path in paths[:5]]
    expected = [content(d) for first in (0, 4) for d in predictor.batch(frames[first : first + 4])]
    first, *others = map(Image.fromarray, frames)
    first.save(tmp_path / "frames.tiff", save_all=True, append_images=others)
    routed = Predictor(trained, device="cpu", score=0.03, batch_size=4)
    backend: Any = routed.backend
    postprocess = backend.architecture.postprocess_fixed
    backend.device_route = DeviceRoute(backend.network, postprocess, backend.device, backend.class_names, 4)
    for each in (predictor, routed):  # with one thread that reads, and with several
        with Image.open(tmp_path / "frames.tiff") as image:
            assert [content(d) for d in each.stream(ImageSequence.Iterator(image))] == expected
        with Image.open(tmp_path / "frames.tiff") as image:
            assert len({content(d) for d in each.stream([image] * 4)}) == 1


def test_images_are_read_at_most_two_batches_ahead(predictor: Predictor, paths: list[Path]) -> None:
    read: list[int] = []

    def images() -> Iterator[Path]:
        for i in range(40):
            read.append(i)
            yield paths[i % 7]

    stream = predictor.stream(images())
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert 4 <= len(read) <= 8


def test_an_unreadable_image_stops_the_stream_after_the_batches_before_it(
    predictor: Predictor, paths: list[Path]
) -> None:
    results = []
    with pytest.raises(InputError, match="missing.jpg: no such image"):
        for detections in predictor.stream([*paths[:4], Path("missing.jpg")]):
            results.append(detections)
    assert len(results) == 4


def test_batches_are_prepared_while_the_caller_works() -> None:
    """The second batch is ready before the caller asks for it; the third is not begun."""
    prepared: list[list[int]] = []
    ready = [threading.Event() for _ in range(3)]

    def prepare(sources: list[int]) -> int:
        prepared.append(sources)
        ready[len(prepared) - 1].set()
        return len(sources)

    batches = prepared_ahead(range(5), 2, prepare)
    assert next(batches) == 2
    assert ready[1].wait(60)
    assert prepared == [[0, 1], [2, 3]]
    assert list(batches) == [2, 1]


@pytest.mark.parametrize(("ahead", "order"), [(False, "a A b B c C"), (True, "a b A c B C")])
def test_results_are_waited_for_in_order(ahead: bool, order: str) -> None:
    events: list[str] = []

    def started() -> Iterator[tuple[str, object]]:
        for name in "abc":
            events.append(name)
            yield name, lambda name=name: events.append(name.upper()) or name.upper()

    results = list(finish_in_order(started(), ahead))  # type: ignore[arg-type]
    assert results == [("a", "A"), ("b", "B"), ("c", "C")]
    assert events == order.split()


@pytest.mark.parametrize("ahead", [False, True])
def test_results_before_an_error_are_not_lost(ahead: bool) -> None:
    def started() -> Iterator[tuple[int, object]]:
        yield 1, lambda: "a"
        yield 2, lambda: "b"
        raise InputError("c: no such image")

    results = []
    with pytest.raises(InputError, match="c: no such image"):
        for key, result in finish_in_order(started(), ahead):  # type: ignore[arg-type]
            results.append((key, result))
    assert results == [(1, "a"), (2, "b")]


def test_stream_with_tiles_and_augmentation(trained: Path, paths: list[Path]) -> None:
    for options in ({"tiles": 64}, {"tta_flip": True}):
        predictor = Predictor(trained, device="cpu", score=0.03, batch_size=1, **options)  # type: ignore[arg-type]
        assert [content(d) for d in predictor.stream(paths[:2])] == [content(predictor(path)) for path in paths[:2]]


def test_arrays_of_the_stream_may_be_reused_by_the_caller_after_their_detections(
    predictor: Predictor, paths: list[Path]
) -> None:
    images = [read_image(path) for path in paths[:4]]
    expected = [content(detections) for detections in predictor.batch([np.array(image) for image in images])]
    results = []
    for image, detections in zip(images, predictor.stream(images), strict=True):
        image[:] = 0
        results.append(content(detections))
    assert results == expected
