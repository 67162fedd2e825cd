"""Samples combined from several images: mosaic of four images, and copy-paste of objects between images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sais.config import InputConfig
from sais.data.transforms.geometric import content_window, place_sample, placement, visible_extent
from sais.ops.letterbox import CanvasMap, letterbox
from sais.ops.numpy_boxes import Window, intersect_windows, window_slices
from sais.ops.rasterize import bounding_box, coverage, cut_mask
from sais.structures import Sample

MOSAIC_CENTER = (0.3, 0.7)
"""Range of the point where the four images of a mosaic meet, as a fraction of the canvas."""
MOSAIC_ZOOM = (1.0, 2.0)
"""Range of the size of an image in a mosaic, relative to the size that just fills its quarter."""
MAX_PASTED = 5
"""Maximum number of objects pasted into an image."""
PASTE_SCALE = (0.5, 1.5)
"""Range of the size of a pasted object, relative to its size if its image were as large as the target image."""


def mosaic(samples: Sequence[Sample], settings: InputConfig, random: np.random.Generator) -> Sample:
    """Combine four samples on the canvas of the first, one in each quarter around a random point.

    Each image is letterboxed, enlarged until it fills its quarter or up to twice that size, and cropped at random to
    the quarter. No part of a quarter is padding.
    """
    height, width = letterbox(samples[0].image.shape[:2], settings.mode, settings.size).canvas_size
    y, x = (round(side * random.uniform(*MOSAIC_CENTER)) for side in (height, width))
    canvas = np.empty((height, width, 3), np.uint8)
    quarters = ((0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height))
    parts = []
    for sample, quarter in zip(samples, quarters, strict=True):
        canvas_map = _fill_quarter(sample, quarter, (height, width), settings, random)
        canvas[window_slices(quarter)] = canvas_map.image_window(sample.image, quarter)
        parts.append(visible_extent(place_sample(sample, canvas_map), within=quarter))
    return replace(
        samples[0],
        image=canvas,
        boxes=np.concatenate([part.boxes for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
        masks=[mask for part in parts for mask in part.masks],
    )


def _fill_quarter(
    sample: Sample,
    quarter: Window,
    canvas_size: tuple[int, int],
    settings: InputConfig,
    random: np.random.Generator,
) -> CanvasMap:
    """Draw the map of an image to the canvas on which it fills a quarter."""
    size = sample.image.shape[:2]
    usual = letterbox(size, settings.mode, settings.size).scale
    room = quarter[3] - quarter[1], quarter[2] - quarter[0]
    filling = max(room[axis] / (size[axis] * usual[axis]) for axis in (0, 1))
    factor = filling * float(np.exp(random.uniform(*np.log(MOSAIC_ZOOM))))
    lengths = [max(room[axis], round(size[axis] * usual[axis] * factor)) for axis in (0, 1)]
    excess = [int(random.integers(0, lengths[axis] - room[axis] + 1)) for axis in (0, 1)]
    return placement(sample.image, lengths, [quarter[1] - excess[0], quarter[0] - excess[1]], canvas_size)


def copy_paste(sample: Sample, other: Sample, random: np.random.Generator) -> Sample:
    """Paste up to `MAX_PASTED` objects of another sample, each at a random scale and position.

    Pasted objects cover the objects of the sample and those pasted before. Objects without a mask are not pasted.
    """
    with_masks = [i for i, mask in enumerate(other.masks) if mask is not None]
    if not with_masks:
        return sample
    count = int(random.integers(1, min(len(with_masks), MAX_PASTED) + 1))
    sample = replace(sample, image=sample.image.copy())
    for index in random.permutation(with_masks)[:count]:
        sample = _paste_object(sample, other, int(index), random)
    return sample


def _paste_object(sample: Sample, other: Sample, index: int, random: np.random.Generator) -> Sample:
    """Return the sample with object `index` of `other` on top; the sample's image is modified in place."""
    canvas_map, content = _paste_position(sample, other, index, random)
    single = replace(other, boxes=other.boxes[[index]], labels=other.labels[[index]], masks=[other.masks[index]])
    pasted = visible_extent(place_sample(single, canvas_map), within=content)
    if not pasted.masks or pasted.masks[0] is None:
        return sample
    shape = pasted.masks[0]
    extent = bounding_box(shape)
    low, high = np.floor(extent[:2]).astype(int).tolist(), np.ceil(extent[2:]).astype(int).tolist()
    window = intersect_windows((low[0], low[1], high[0], high[1]), content)
    alpha = coverage(shape, window, cell=1.0).astype(np.float32)[..., None] / 255
    below = sample.image[window_slices(window)]
    pixels = canvas_map.image_window(other.image, window)
    below[:] = np.rint(below + (pixels.astype(np.float32) - below) * alpha).astype(np.uint8)
    covered = visible_extent(sample, covers=[cut_mask(shape, content)])
    return replace(
        covered,
        boxes=np.concatenate([covered.boxes, pasted.boxes]),
        labels=np.concatenate([covered.labels, pasted.labels]),
        masks=[*covered.masks, shape],
    )


def _paste_position(sample: Sample, other: Sample, index: int, random: np.random.Generator) -> tuple[CanvasMap, Window]:
    """Draw the map from `other` to the image of `sample`, and return it with the window covered by `other`."""
    size, room = other.image.shape[:2], sample.image.shape[:2]
    box = other.boxes[index]
    factor = min(room[0] / size[0], room[1] / size[1]) * float(np.exp(random.uniform(*np.log(PASTE_SCALE))))
    lengths, offsets = [0, 0], [0, 0]
    for axis in (0, 1):
        lengths[axis] = max(1, round(size[axis] * factor))
        scale = lengths[axis] / size[axis]
        start, end = float(box[1 - axis]) * scale, float(box[3 - axis]) * scale
        free = int(room[axis] - (end - start))
        offsets[axis] = int(random.integers(min(0, free), max(0, free) + 1)) - int(start)
    return placement(other.image, lengths, offsets, room), content_window(lengths, offsets, sample.image)
