"""Big images: cut into overlapping tiles, predicted a few at a time, the objects put together again across the seams.

A network looks at a canvas of a few hundred pixels; what is small in an image of 10,000 x 10,000 is nothing there. So
the image is cut into tiles that overlap, and what is found in them is moved to its place and merged (`sais.inference.slice_merging`).

Memory: the image, one batch of tiles, and the patches of what was found; never a full-frame mask. Numpy only, so that
the predictor with torch and the runtimes without it share this.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from sais.config import InputConfig
from sais.errors import SaisError
from sais.inference.slice_merging import merge_slices
from sais.results.detections import DetectFunction, Detections

MIN_SLICE_SIZE = 32
"""Pixels; a smaller tile is less than one cell of the network's coarser levels."""


def default_slice_size(settings: InputConfig) -> int:
    """Side of a tile in image pixels where the user gives none: twice the (shorter) side of the network's input.

    What suits best is the size of the training images, for then objects look as large as they did in training; but a
    checkpoint does not know that size. COCO's images of 640 x 480 are 0.8 times the paper's input, photographs of
    640 are 2.5 times the input of `sais-lite`. Two halves the detail at most, and takes a quarter of the tiles that one
    would.
    """
    return 2 * min(settings.size)


def check_slicing(side: int, overlap: float) -> None:
    """Raise SaisError where images cannot be cut so."""
    if side < MIN_SLICE_SIZE:
        raise SaisError(
            f"tiles of {side} pixels are too small to hold an object; give a side of at least {MIN_SLICE_SIZE}, best about "
            "the size of the images the model was trained on"
        )
    if not 0 <= overlap < 0.9:
        raise SaisError(f"a tile overlap of {overlap:g} is not a share of the side from 0 to below 0.9; 0.2 is usual")


def slice_windows(size: tuple[int, int], side: int, overlap: float = 0.2) -> np.ndarray:
    """Where the tiles lie, row by row: (T, 4) int64 ``x1 y1 x2 y2`` image pixels, end exclusive.

    They are all of one size, evenly spread, and cover the image: neighbors share at least `overlap` of a side (and
    one pixel, unless it is 0). Along an axis that is not longer than `side` there is one tile, as long as the image.

    Args:
        size: (H, W) of the image.
        side: of a tile in image pixels.
        overlap: least share of a side that two neighbors have in common.

    Raises:
        SaisError: a side below 32, an overlap outside of [0, 0.9).
    """
    check_slicing(side, overlap)
    tops, lefts = (_starts(length, side, overlap) for length in size)
    height, width = min(side, size[0]), min(side, size[1])
    return np.array([(x, y, x + width, y + height) for y in tops for x in lefts], np.int64)


def predict_sliced(
    image: np.ndarray,
    find: DetectFunction,
    side: int,
    overlap: float = 0.2,
    batch: int = 8,
    agreement: float = 0.5,
    progress: Callable[[int], None] = lambda tiles: None,
) -> Detections:
    """What `find` finds in the tiles of an image, as objects of the whole image.

    Args:
        image: (H, W, 3) uint8; an array in a file (`numpy.memmap`) is read tile by tile.
        find: called with at most `batch` tiles, all of one size.
        side: of a tile in image pixels.
        overlap: least share of a side that two neighbors have in common; an object wider than what they share is
            recognized as one across the seam all the same, since the parts agree there. At 0 nothing can be merged.
        agreement: as in `sais.inference.slice_merging.merge_slices`.
        progress: called with the number of tiles done since the last call.

    Returns:
        Detections of the image, scores descending; as many as there are, whatever the model's limit for one image.

    Raises:
        SaisError: a side below 32, an overlap outside of [0, 0.9), a batch below 1, an agreement outside of (0, 1].
    """
    if batch < 1:
        raise SaisError(f"a batch of {batch} tiles: must be 1 or more")
    if not 0 < agreement <= 1:
        raise SaisError(f"an agreement of {agreement:g} is not a share above 0 and up to 1; 0.5 is usual")
    size = (image.shape[0], image.shape[1])
    windows = slice_windows(size, side, overlap)
    found: list[Detections] = []
    for first in range(0, len(windows), batch):
        chosen = windows[first : first + batch]
        tiles = [np.array(image[y1:y2, x1:x2], order="C") for x1, y1, x2, y2 in chosen.tolist()]
        for tile, window, detections in zip(tiles, chosen.tolist(), find(tiles), strict=True):
            if detections.image_size != tile.shape[:2]:
                raise ValueError(f"detections of an image of {detections.image_size} for a tile of {tile.shape[:2]}")
            found.append(shift_detections(detections, window[0], window[1], size))
        progress(len(chosen))
    return merge_slices(found, windows, agreement)


def shift_detections(detections: Detections, x: int, y: int, size: tuple[int, int]) -> Detections:
    """Detections of a tile whose top left pixel is (x, y) of an image of that size, as detections of the image."""
    boxes = detections.boxes + np.array([x, y, x, y], np.float32)
    return replace(
        detections,
        image_size=size,
        boxes=boxes,
        cropped_masks=[patch.moved(x, y) for patch in detections.cropped_masks],
    )


def _starts(length: int, side: int, overlap: float) -> list[int]:
    """First pixels of the tiles along one axis, evenly spread from the first to the last that fits."""
    if length <= side:
        return [0]
    step = max(1, int(side * (1 - overlap)))  # rounded down: rather more overlap than asked for
    gaps = -(-(length - side) // step)
    return [(length - side) * i // gaps for i in range(gaps + 1)]  # whole numbers at most `step` apart
