"""Predictions of many images: a thread prepares the next batch while the network computes.

On an accelerator the next batch also starts before the result of a batch is taken: the device computes while the host
assembles, draws and writes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from PIL import Image

from sais.io.images import as_image
from sais.ops.letterbox import CanvasMap, group_by_canvas
from sais.results.detections import Detections

if TYPE_CHECKING:
    from sais.inference.predictor import ImageSource, Predictor

MAX_READERS = 8
"""Maximum number of threads that read and resize the images of a batch for a GPU."""

Key = TypeVar("Key")
Result = TypeVar("Result")
Group = tuple[list[int], list[CanvasMap], np.ndarray]
Start = Callable[[np.ndarray, Sequence[CanvasMap]], Callable[[], list[Detections]]]


def finish_in_order(started: Iterable[tuple[Key, Callable[[], Result]]], ahead: bool) -> Iterator[tuple[Key, Result]]:
    """Yield each key with the result of its function, in their order.

    Args:
        started: keys, and functions that wait for results.
        ahead: whether the next function is taken before the result of a function is waited for.
    """
    waiting: deque[tuple[Key, Callable[[], Result]]] = deque()
    entries = iter(started)
    error: Exception | None = None
    while error is None:
        try:
            waiting.append(next(entries))
        except StopIteration:
            break
        except Exception as exception:  # the results before it are not lost
            error = exception
        else:
            if len(waiting) > ahead:
                key, finish = waiting.popleft()
                yield key, finish()
    for key, finish in waiting:
        yield key, finish()
    if error is not None:
        raise error


def stream(predictor: Predictor, images: Iterable[ImageSource]) -> Iterator[Detections]:
    """Yield the detections of each image; see `Predictor.stream`."""
    settings = predictor.experiment.input
    if predictor.options.tiles is not None:  # large images: one at a time in memory
        for image in images:
            yield predictor(image)
        return

    images = _without_shared_frames(images, settings.white_level)
    with _image_map(predictor) as image_map:

        def read(sources: list[Any]) -> list[np.ndarray]:
            return list(image_map(lambda source: as_image(source, white_level=settings.white_level), sources))

        if predictor.options.uses_tta:
            for arrays in prepared_ahead(images, predictor.options.batch_size, read):
                yield from predictor.batch(arrays)
            return

        def prepare(sources: list[Any]) -> list[Group]:
            return list(group_by_canvas(read(sources), settings.mode, settings.size, image_map))

        batches = prepared_ahead(images, predictor.options.batch_size, prepare)
        started = ((None, start_groups(predictor.start, groups)) for groups in batches)
        for _, detections in finish_in_order(started, predictor.computes_ahead):
            yield from detections


def _without_shared_frames(images: Iterable[ImageSource], white_level: int | None) -> Iterator[ImageSource]:
    """Yield images, Pillow's as arrays (H, W, 3): one object may be many frames (`PIL.ImageSequence`) or repeated."""
    for image in images:
        yield as_image(image, white_level=white_level) if isinstance(image, Image.Image) else image


@contextmanager
def _image_map(predictor: Predictor) -> Iterator[Callable[..., Iterable[Any]]]:
    """Yield a function like `map`; with a GPU that of a pool of threads, because a GPU is faster than one thread.

    Resizing an image of 1280 x 960 to 768 x 768 takes about 10 ms; the network takes less on a GPU. On a CPU, threads
    would compete with the network.
    """
    if not predictor.computes_ahead:
        yield map
        return
    with ThreadPoolExecutor(min(MAX_READERS, predictor.options.batch_size)) as pool:
        yield pool.map


def start_batch(predictor: Predictor, images: list[np.ndarray]) -> Callable[[], list[Detections]]:
    """Start the prediction of images where the device computes by itself; return the function that waits for it.

    Args:
        predictor: the predictor.
        images: at most `batch_size` images (H, W, 3) uint8.
    """
    if not predictor.computes_ahead or not predictor.options.single_pass:
        return lambda: predictor.batch(images)
    settings = predictor.experiment.input
    with _image_map(predictor) as image_map:
        groups = group_by_canvas(images, settings.mode, settings.size, image_map)
        return start_groups(predictor.start, groups)


def start_groups(start: Start, groups: Iterable[Group]) -> Callable[[], list[Detections]]:
    """Start the detection on groups of canvases; return the function that waits for the detections of all images.

    Args:
        start: function that starts the detection on canvases (B, 3, height, width).
        groups: indices of images, their maps and canvases (B, height, width, 3), from `group_by_canvas`.
    """
    started = [(group, start(stacked.transpose(0, 3, 1, 2), canvas_maps)) for group, canvas_maps, stacked in groups]

    def finish() -> list[Detections]:
        results: dict[int, Detections] = {}
        for group, finish_group in started:
            results.update(zip(group, finish_group(), strict=True))
        return [results[i] for i in range(len(results))]

    return finish


def prepared_ahead(sources: Iterable[Any], batch_size: int, prepare: Callable[[list[Any]], Result]) -> Iterator[Result]:
    """Yield batches that a thread prepares, one ahead of the caller.

    Args:
        sources: what the batches are made of; the thread iterates over it.
        batch_size: number of sources in a batch.
        prepare: function from the sources of a batch to the batch.
    """
    iterator = iter(sources)

    def next_batch() -> Result | None:
        chunk = list(islice(iterator, batch_size))
        return prepare(chunk) if chunk else None

    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(next_batch)
        while (batch := ahead.result()) is not None:
            ahead = pool.submit(next_batch)
            yield batch
