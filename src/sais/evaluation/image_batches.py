"""Batches of a dataset split for models that run without torch: threads read the images, numpy resizes them.

`sais.data.loader` does the same in processes for models in torch. B images, H W an image.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from sais.config import InputConfig
from sais.data.annotations import DatasetSplit, ImageRecord
from sais.data.dataset import canvas_batches, read_resized_sample, read_sample
from sais.errors import OutOfMemoryError, SaisError
from sais.io.images import LARGE_IMAGE_PIXELS
from sais.ops.letterbox import CanvasMap
from sais.structures import Sample

AHEAD = 2
"""Number of images that each thread has read in advance."""

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass
class CanvasBatch:
    """Images on canvases of one size."""

    image_ids: list[int]
    """B ids."""
    canvases: np.ndarray
    """(B, 3, height, width) uint8 RGB."""
    canvas_maps: list[CanvasMap]
    """B maps from the images to their canvases."""
    unreadable_images: list[str]
    """One line for each unreadable image."""


def read_canvases(split: DatasetSplit, settings: InputConfig, batch_size: int, threads: int) -> Iterator[CanvasBatch]:
    """Yield all images on their canvases, without objects; a batch has B <= `batch_size` readable images."""

    def read(record: ImageRecord) -> Sample | str:
        try:
            return read_resized_sample(record, settings)
        except OutOfMemoryError:
            raise
        except SaisError as error:
            return str(error)

    batches = canvas_batches(split, settings, batch_size)
    items = _map_ahead(read, [split.images[i] for batch in batches for i in batch], threads)
    for batch in batches:
        samples, unreadable = _sort([next(items) for _ in batch])
        canvases = np.stack([s.image for s in samples]) if samples else np.zeros((0, 32, 32, 3), np.uint8)
        maps = [s.canvas_map for s in samples if s.canvas_map is not None]
        yield CanvasBatch([s.image_id for s in samples], canvases.transpose(0, 3, 1, 2), maps, unreadable)


def read_full_images(
    split: DatasetSplit, batch_size: int, threads: int, white_level: int | None = None
) -> Iterator[list[Sample | str]]:
    """Yield all images (H, W, 3) at their own size; an unreadable image gives its error message."""

    def read(record: ImageRecord) -> Sample | str:
        try:
            return read_sample(record, False, LARGE_IMAGE_PIXELS, white_level)
        except OutOfMemoryError:
            raise
        except SaisError as error:
            return str(error)

    items = _map_ahead(read, split.images, threads)
    for first in range(0, len(split.images), batch_size):
        yield [next(items) for _ in split.images[first : first + batch_size]]


def _sort(items: list[Sample | str]) -> tuple[list[Sample], list[str]]:
    """Return the samples, and the messages about unreadable images."""
    return [item for item in items if isinstance(item, Sample)], [item for item in items if isinstance(item, str)]


def _map_ahead(function: Callable[[Item], Result], items: Sequence[Item], threads: int) -> Iterator[Result]:
    """Yield the results of a function in order; threads compute the next ones. 0 threads: nothing in advance."""
    if not threads:
        yield from map(function, items)
        return
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > AHEAD * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
