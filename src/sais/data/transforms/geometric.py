"""One image and its objects moved together: fit, flip, zoom, window, and what is still to be seen of the objects.

Masks stay shapes (`geometry.raster`) through everything and become pixels once, at the end, on the prototype grid.
Every random choice comes from the generator that is handed in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image

from sais.config import InputConfig
from sais.ops.letterbox import PADDING, letterbox, resize_and_pad
from sais.ops.rasterize import (
    FilledRectangle,
    ObjectMask,
    Polygons,
    bounding_box,
    cut_mask,
    hflip_mask,
    inside,
    transform_mask,
)
from sais.structures import CanvasMap, Sample

MIN_BOX_SIDE = 1.0
"""Pixels: an object whose visible box is narrower after a crop is no target any more."""
MIN_VISIBLE = 0.1
"""Share of its box's area, and of its mask where a part is hidden, that an object must keep."""

Window = tuple[int, int, int, int]
"""x1 y1 x2 y2 in whole pixels, end exclusive."""


def resize_sample(sample: Sample, settings: InputConfig) -> Sample:
    """The sample on its canvas, without any randomness: what evaluation and prediction see."""
    canvas_map = letterbox(sample.image.shape[:2], settings.mode, settings.size)
    vertical, horizontal = canvas_map.scale
    masks = [transform_mask(m, horizontal, vertical, 0, 0) if m is not None else None for m in sample.masks]
    boxes = canvas_map.to_canvas(sample.boxes).astype(np.float32)
    return replace(
        sample, image=resize_and_pad(sample.image, canvas_map), boxes=boxes, masks=masks, canvas_map=canvas_map
    )


def flip(sample: Sample) -> Sample:
    """Mirrored left to right."""
    width = sample.image.shape[1]
    boxes = sample.boxes.copy()
    boxes[:, [0, 2]] = width - sample.boxes[:, [2, 0]]
    masks = [hflip_mask(m, width) if m is not None else None for m in sample.masks]
    image = np.empty_like(sample.image)
    for channel in range(3):  # one by one is six times as quick as all at once
        image[:, :, channel] = sample.image[:, ::-1, channel]
    return replace(sample, image=image, boxes=boxes, masks=masks)


def zoom(sample: Sample, settings: InputConfig, random: np.random.Generator, low: float, high: float) -> Sample:
    """Scaled by a factor drawn between `low` and `high` (evenly in its logarithm) around the usual fit, then cropped or
    padded at a random place to the usual canvas."""
    usual = letterbox(sample.image.shape[:2], settings.mode, settings.size)
    factor = float(np.exp(random.uniform(np.log(low), np.log(high))))
    size = sample.image.shape[:2]
    canvas = np.empty((*usual.canvas_size, 3), np.uint8)
    canvas[:] = PADDING
    lengths, offsets = [0, 0], [0, 0]
    for axis in (0, 1):
        room = usual.canvas_size[axis]
        lengths[axis] = max(1, round(size[axis] * usual.scale[axis] * factor))
        offsets[axis] = int(random.integers(min(0, room - lengths[axis]), max(0, room - lengths[axis]) + 1))
    window = overlap((offsets[1], offsets[0], offsets[1] + lengths[1], offsets[0] + lengths[0]), canvas_window(canvas))
    canvas[slices(window)] = resample(sample.image, lengths, offsets, window)
    laid = place_sample(sample, lengths, offsets)
    canvas_map = CanvasMap((size[0], size[1]), usual.canvas_size, (lengths[0] / size[0], lengths[1] / size[1]))
    return drop_invisible(replace(laid, image=canvas, canvas_map=canvas_map))


def resample(image: np.ndarray, lengths: Sequence[int], offsets: Sequence[int], window: Window) -> np.ndarray:
    """What lies in a window once the image was resized (bilinear, antialiased) and moved.

    Args:
        image: (H, W, 3) uint8.
        lengths: (height, width) it is resized to.
        offsets: (y, x) where its top left corner then lies.
        window: not empty, inside the resized image.

    Returns:
        The window's pixels, (h, w, 3) uint8; nothing outside the window is computed.
    """
    vertical, horizontal = lengths[0] / image.shape[0], lengths[1] / image.shape[1]
    box = (
        (window[0] - offsets[1]) / horizontal,
        (window[1] - offsets[0]) / vertical,
        (window[2] - offsets[1]) / horizontal,
        (window[3] - offsets[0]) / vertical,
    )
    size = window[2] - window[0], window[3] - window[1]
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR, box=box))


def place_sample(sample: Sample, lengths: Sequence[int], offsets: Sequence[int]) -> Sample:
    """Boxes and masks of the sample resized to `lengths` (height, width) and moved to `offsets` (y, x); the image is
    left as it is."""
    vertical, horizontal = lengths[0] / sample.image.shape[0], lengths[1] / sample.image.shape[1]
    factors = np.array([horizontal, vertical, horizontal, vertical], np.float32)
    shift = np.array([offsets[1], offsets[0], offsets[1], offsets[0]], np.float32)
    masks = [
        transform_mask(m, horizontal, vertical, offsets[1], offsets[0]) if m is not None else None for m in sample.masks
    ]
    return replace(sample, boxes=sample.boxes * factors + shift, masks=masks)


def crop_to_window(sample: Sample, window: Window, ground: tuple[int, int, int] = PADDING) -> Sample:
    """What is to be seen through a window that may reach beyond the image, there showing the color `ground`."""
    x1, y1, x2, y2 = window
    height, width = sample.image.shape[:2]
    image = np.empty((y2 - y1, x2 - x1, 3), np.uint8)
    image[:] = ground
    inner = overlap(window, (0, 0, width, height))
    shown = inner[0] - x1, inner[1] - y1, inner[2] - x1, inner[3] - y1
    image[slices(shown)] = sample.image[slices(inner)]
    laid = place_sample(sample, (height, width), (-y1, -x1))
    return visible_extent(replace(laid, image=image), within=shown)


def drop_invisible(sample: Sample) -> Sample:
    """Boxes clipped to the canvas; objects of which too little is left are no targets."""
    height, width = sample.image.shape[:2]
    clipped = np.clip(sample.boxes, 0, np.array([width, height, width, height], np.float32)).astype(np.float32)
    sides = clipped[:, 2:] - clipped[:, :2]
    before = (sample.boxes[:, 2:] - sample.boxes[:, :2]).prod(1)
    kept = (sides.min(1, initial=np.inf) >= MIN_BOX_SIDE) & (sides.prod(1) >= MIN_VISIBLE * before)
    masks = [m for m, keep in zip(sample.masks, kept, strict=True) if keep]
    return replace(sample, boxes=clipped[kept], labels=sample.labels[kept], masks=masks)


def visible_extent(sample: Sample, within: FilledRectangle | None = None, covers: Sequence[ObjectMask] = ()) -> Sample:
    """What is left of the objects in a rectangle and under shapes that lie over them.

    Masks lose exactly what is outside or hidden. The sides of a box move in, to whole pixels, where they were cut off;
    objects of which too little is left (`LEAST_SIDE`, `LEAST_VISIBLE`) are no targets any more. An object with a box
    only counts as if it filled its box.
    """
    extents = [bounding_box(cover) for cover in covers]
    boxes, masks, kept = [], [], []
    for i, (box, mask) in enumerate(zip(sample.boxes, sample.masks, strict=True)):
        shape = _filled(box) if mask is None else mask
        reach = bounding_box(shape)
        over = [cover for cover, other in zip(covers, extents, strict=True) if _meet(reach, other)]
        if over or (within is not None and not (_holds(within, reach) and _holds(within, box))):
            left = cut_mask(shape, within, over)
            seen = _seen_box(box, shape, left, within)
            if seen is None:
                continue
            box, mask = seen, None if mask is None else left
        boxes.append(box)
        masks.append(mask)
        kept.append(i)
    return replace(
        sample, boxes=np.array(boxes, np.float32).reshape(-1, 4), labels=sample.labels[kept].reshape(-1), masks=masks
    )


def _seen_box(
    box: np.ndarray, shape: ObjectMask, left: ObjectMask, within: FilledRectangle | None
) -> np.ndarray | None:
    """The box (4,) of what is left of a shape; None where that is too little."""
    reach = bounding_box(shape)
    corner = np.floor(reach[:2]).astype(int)
    window = (*corner.tolist(), *np.ceil(reach[2:]).astype(int).tolist())
    before, after = inside(shape, window), inside(left, window)
    if after.sum() < MIN_VISIBLE * before.sum():
        return None
    seen = box.astype(np.float64)
    for axis in (0, 1):  # x, y
        whole, part = np.flatnonzero(before.any(axis)), np.flatnonzero(after.any(axis))
        if len(part):  # else the shape is so thin that it holds no pixel's center
            if part[0] > whole[0]:
                seen[axis] = max(seen[axis], corner[axis] + part[0])
            if part[-1] < whole[-1]:
                seen[axis + 2] = min(seen[axis + 2], corner[axis] + part[-1] + 1)
    if within is not None:
        x1, y1, x2, y2 = within
        seen = np.clip(seen, (x1, y1, x1, y1), (x2, y2, x2, y2))
    sides = seen[2:] - seen[:2]
    if sides.min() < MIN_BOX_SIDE or sides.prod() < MIN_VISIBLE * (box[2:] - box[:2]).astype(np.float64).prod():
        return None
    return seen.astype(np.float32)


def _filled(box: np.ndarray) -> Polygons:
    x1, y1, x2, y2 = box.tolist()
    return Polygons((np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], np.float64),))


def _meet(a: np.ndarray, b: np.ndarray) -> bool:
    return bool((np.maximum(a[:2], b[:2]) < np.minimum(a[2:], b[2:])).all())


def _holds(outer: FilledRectangle, box: np.ndarray) -> bool:
    return bool(box[0] >= outer[0] and box[1] >= outer[1] and box[2] <= outer[2] and box[3] <= outer[3])


def overlap(a: Window, b: Window) -> Window:
    """What two windows share; its ends may lie before its starts where that is nothing."""
    return max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])


def canvas_window(canvas: np.ndarray) -> Window:
    """The whole of an image as a window."""
    return 0, 0, canvas.shape[1], canvas.shape[0]


def slices(window: Window) -> tuple[slice, slice]:
    """A window as an index of rows and columns."""
    return slice(window[1], window[3]), slice(window[0], window[2])
