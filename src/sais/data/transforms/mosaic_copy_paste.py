"""One sample made of several: four images in a mosaic, objects of one image pasted into another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sais.config import InputConfig
from sais.data.transforms.geometric import (
    Window,
    canvas_window,
    overlap,
    place_sample,
    resample,
    slices,
    visible_extent,
)
from sais.ops.letterbox import letterbox
from sais.ops.rasterize import bounding_box, coverage, cut_mask
from sais.structures import Sample

CENTER = (0.3, 0.7)
"""Where the four images of a mosaic meet, as a share of the canvas."""
ZOOM = (1.0, 2.0)
"""Size of an image of a mosaic, in that which just fills its quarter."""
MOST_PASTED = 5
"""Objects pasted into one image."""
PASTED_SCALE = (0.5, 1.5)
"""Size of a pasted object, in that which it has with its image as large as the one it comes into."""


def mosaic(samples: Sequence[Sample], settings: InputConfig, random: np.random.Generator) -> Sample:
    """Four samples on the canvas of the first, one in each quarter around a random point.

    Each is stretched as its usual fit would do, made so large that it fills its quarter or up to twice as large, and
    cut there at random. Nothing of a quarter is padding.
    """
    height, width = letterbox(samples[0].image.shape[:2], settings.mode, settings.size).canvas_size
    y, x = (round(side * random.uniform(*CENTER)) for side in (height, width))
    canvas = np.empty((height, width, 3), np.uint8)
    parts = []
    for sample, tile in zip(
        samples, ((0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height)), strict=True
    ):
        lengths, offsets = _filling(sample, tile, settings, random)
        canvas[slices(tile)] = resample(sample.image, lengths, offsets, tile)
        parts.append(visible_extent(place_sample(sample, lengths, offsets), within=tile))
    return replace(
        samples[0],
        image=canvas,
        boxes=np.concatenate([part.boxes for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
        masks=[mask for part in parts for mask in part.masks],
    )


def _filling(
    sample: Sample, tile: Window, settings: InputConfig, random: np.random.Generator
) -> tuple[list[int], list[int]]:
    """(height, width) and (y, x) of an image that fills a tile."""
    size = sample.image.shape[:2]
    usual = letterbox(size, settings.mode, settings.size).scale
    room = tile[3] - tile[1], tile[2] - tile[0]
    filling = max(room[axis] / (size[axis] * usual[axis]) for axis in (0, 1))
    factor = filling * float(np.exp(random.uniform(*np.log(ZOOM))))
    lengths = [max(room[axis], round(size[axis] * usual[axis] * factor)) for axis in (0, 1)]
    spare = [int(random.integers(0, lengths[axis] - room[axis] + 1)) for axis in (0, 1)]
    return lengths, [tile[1] - spare[0], tile[0] - spare[1]]


def copy_paste(sample: Sample, other: Sample, random: np.random.Generator) -> Sample:
    """The sample with up to `MOST_PASTED` objects of another one pasted in, each of another size, at a random place.

    Later ones lie over earlier ones and over all that was there. Objects without a mask are not pasted.
    """
    shaped = [i for i, mask in enumerate(other.masks) if mask is not None]
    if not shaped:
        return sample
    number = int(random.integers(1, min(len(shaped), MOST_PASTED) + 1))
    sample = replace(sample, image=sample.image.copy())
    for which in random.permutation(shaped)[:number]:
        sample = _pasted(sample, other, int(which), random)
    return sample


def _pasted(sample: Sample, other: Sample, which: int, random: np.random.Generator) -> Sample:
    """The sample with one object of `other` lying over everything; its image is painted in place."""
    size, room = other.image.shape[:2], sample.image.shape[:2]
    box = other.boxes[which]
    factor = min(room[0] / size[0], room[1] / size[1]) * float(np.exp(random.uniform(*np.log(PASTED_SCALE))))
    lengths, offsets = [0, 0], [0, 0]
    for axis in (0, 1):
        lengths[axis] = max(1, round(size[axis] * factor))
        scale = lengths[axis] / size[axis]
        start, end = float(box[1 - axis]) * scale, float(box[3 - axis]) * scale
        spare = int(room[axis] - (end - start))
        offsets[axis] = int(random.integers(min(0, spare), max(0, spare) + 1)) - int(start)
    image = overlap(
        (offsets[1], offsets[0], offsets[1] + lengths[1], offsets[0] + lengths[0]), canvas_window(sample.image)
    )
    one = replace(other, boxes=other.boxes[[which]], labels=other.labels[[which]], masks=[other.masks[which]])
    new = visible_extent(place_sample(one, lengths, offsets), within=image)
    if not new.masks or new.masks[0] is None:
        return sample
    shape = new.masks[0]
    reach = bounding_box(shape)
    low, high = np.floor(reach[:2]).astype(int).tolist(), np.ceil(reach[2:]).astype(int).tolist()
    window = overlap((low[0], low[1], high[0], high[1]), image)
    share = coverage(shape, window, cell=1.0).astype(np.float32)[..., None] / 255
    below = sample.image[slices(window)]
    pixels = resample(other.image, lengths, offsets, window)
    below[:] = np.rint(below + (pixels.astype(np.float32) - below) * share).astype(np.uint8)
    hidden = visible_extent(sample, covers=[cut_mask(shape, image)])
    return replace(
        hidden,
        boxes=np.concatenate([hidden.boxes, new.boxes]),
        labels=np.concatenate([hidden.labels, new.labels]),
        masks=[*hidden.masks, shape],
    )
