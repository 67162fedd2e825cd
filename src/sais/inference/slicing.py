"""Sliced inference: a large image is cut into overlapping tiles, whose detections are merged across tile borders.

Small objects disappear when a large image is resized to the network's input. Tiles keep them at the size that the
network was trained on; `sais.inference.slice_merging` joins the parts of an object that tile borders cut.

Memory: the image, one batch of tiles and the cropped masks; never a mask of the whole image. Numpy only; works with any
detect function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from sais.config import InputConfig
from sais.errors import ConfigError
from sais.inference.options import InferenceOptions
from sais.inference.slice_merging import merge_slices
from sais.results.detections import DetectFunction, Detections


def tile_side(options: InferenceOptions, settings: InputConfig) -> int:
    """Return the side of a tile in image pixels.

    For "auto" it is twice the (shorter) side of the network's input. Best is the size of the training images, at which
    objects look as large as they did in training, but a checkpoint does not know that size. COCO's images of 640 x 480
    are 0.8 times the paper's input, photographs of 640 are 2.5 times the input of `sais-lite`. Twice halves the detail
    at most, and needs a quarter of the tiles that a factor of 1 would.
    """
    return 2 * min(settings.size) if options.tiles in ("auto", None) else int(options.tiles)


def slice_windows(size: tuple[int, int], side: int, overlap: float = 0.2) -> np.ndarray:
    """Return the tiles' windows, row by row: (T, 4) int64 ``x1 y1 x2 y2`` image pixels, end exclusive.

    All have one size, are evenly spread and cover the image: neighbors share at least `overlap` of a side (and one
    pixel, unless it is 0). Along an axis that is not longer than `side` there is one tile, as long as the image.

    Args:
        size: (H, W) of the image.
        side: side of a tile in image pixels.
        overlap: minimum overlap of two neighbors as a fraction of a side.

    Raises:
        ConfigError: a side below 32, an overlap outside of [0, 0.9).
    """
    InferenceOptions(tiles=side, tile_overlap=overlap)  # the one place that checks both
    tops, lefts = (_tile_starts(length, side, overlap) for length in size)
    height, width = min(side, size[0]), min(side, size[1])
    return np.array([(x, y, x + width, y + height) for y in tops for x in lefts], np.int64)


def predict_in_tiles(
    images: Sequence[np.ndarray],
    detect: DetectFunction,
    options: InferenceOptions,
    settings: InputConfig,
    progress: Callable[[int], None],
) -> list[Detections]:
    """Predict on the tiles of images, one image after the other, with the tiles that the options describe.

    Args:
        images: (H, W, 3) uint8 each.
        detect: function from images to detections.
        options: side, overlap and batch size of the tiles.
        settings: input of the network, on which the side "auto" depends.
        progress: function called with the number of tiles done since its last call.
    """
    side, overlap, batch_size = tile_side(options, settings), options.tile_overlap, options.batch_size
    return [predict_sliced(image, detect, side, overlap, batch_size, progress=progress) for image in images]


def predict_sliced(
    image: np.ndarray,
    detect: DetectFunction,
    side: int,
    overlap: float = 0.2,
    batch_size: int = 8,
    agreement: float = 0.5,
    progress: Callable[[int], None] = lambda tiles: None,
) -> Detections:
    """Predict on the tiles of an image and merge the detections into objects of the whole image.

    Args:
        image: (H, W, 3) uint8; a memory-mapped array (`numpy.memmap`) is read tile by tile.
        detect: function from images to detections, called with at most `batch_size` tiles, all of one size.
        side: side of a tile in image pixels.
        overlap: minimum overlap of two neighbors as a fraction of a side. An object wider than the overlap is still
            merged, since its parts agree in the pixels that both tiles show. At 0 nothing can be merged.
        batch_size: tiles in one call of `detect`.
        agreement: minimum agreement of two masks, see `sais.inference.slice_merging.merge_slices`.
        progress: function called with the number of tiles done since its last call.

    Returns:
        Detections of the image, scores descending; not limited to the model's maximum for one image. Their note
        `omitted` adds up those of the tiles.

    Raises:
        ConfigError: a side below 32, an overlap outside of [0, 0.9), a batch size below 1, an agreement outside (0, 1].
    """
    if batch_size < 1:
        raise ConfigError(
            f"batch_size: {batch_size} tiles are less than 1. Give the number of tiles in one forward pass."
        )
    if not 0 < agreement <= 1:
        raise ConfigError(f"agreement: {agreement:g} is not a fraction above 0 and up to 1. 0.5 is usual.")
    size = (image.shape[0], image.shape[1])
    windows = slice_windows(size, side, overlap)
    results: list[Detections] = []
    for first in range(0, len(windows), batch_size):
        chosen = windows[first : first + batch_size].tolist()
        tiles = [np.array(image[y1:y2, x1:x2], order="C") for x1, y1, x2, y2 in chosen]
        for tile, window, detections in zip(tiles, chosen, detect(tiles), strict=True):
            if detections.image_size != tile.shape[:2]:
                raise ValueError(f"detections of an image of {detections.image_size} for a tile of {tile.shape[:2]}")
            results.append(shift_detections(detections, window[0], window[1], size))
        progress(len(chosen))
    merged = merge_slices(results, windows, agreement)
    notes = [detections.omitted for detections in results if detections.omitted is not None]
    merged.omitted = sum(notes[1:], notes[0]) if notes else None
    return merged


def shift_detections(detections: Detections, x: int, y: int, size: tuple[int, int]) -> Detections:
    """Move a tile's detections to the whole image.

    Args:
        detections: detections in the pixels of the tile.
        x: column of the tile's top left pixel in the image.
        y: row of the tile's top left pixel in the image.
        size: (H, W) of the image.

    Returns:
        Detections in the pixels of the image; boxes (D, 4).
    """
    return replace(
        detections,
        image_size=size,
        boxes=detections.boxes + np.array([x, y, x, y], np.float32),
        cropped_masks=[mask.shift(x, y) for mask in detections.cropped_masks],
    )


def _tile_starts(length: int, side: int, overlap: float) -> list[int]:
    """Return the first pixels of the tiles along one axis, evenly spread from 0 to the last that fits."""
    if length <= side:
        return [0]
    step = max(1, int(side * (1 - overlap)))  # rounded down: rather more overlap than the minimum
    gaps = -(-(length - side) // step)
    return [(length - side) * i // gaps for i in range(gaps + 1)]  # whole numbers at most `step` apart
