"""From a picture in its file to a canvas with its objects: flip, zoom, fit, colour, with boxes and masks.

Masks stay shapes (`geometry.raster`) through everything and become pixels once, at the end, on the prototype grid.
Every random choice comes from the generator that is handed in, so that a sample depends on (seed, epoch, image) alone.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from PIL import Image, ImageEnhance

from sais.config import InputConfig
from sais.geometry.raster import flipped, moved
from sais.images import PADDING, fit, place
from sais.structures import Placement, Sample

LEAST_SIDE = 1.0
"""Canvas pixels: an object whose visible box is narrower after a crop is no target any more."""
LEAST_VISIBLE = 0.1
"""Share of its box's area that an object must keep after a crop."""


def fitted(sample: Sample, settings: InputConfig) -> Sample:
    """The sample on its canvas, without any randomness: what evaluation and prediction see."""
    placement = place(sample.picture.shape[:2], settings.mode, settings.size)
    vertical, horizontal = placement.scale
    masks = [moved(m, horizontal, vertical, 0, 0) if m is not None else None for m in sample.masks]
    boxes = placement.to_canvas(sample.boxes).astype(np.float32)
    return replace(sample, picture=fit(sample.picture, placement), boxes=boxes, masks=masks, placement=placement)


def augmented(sample: Sample, settings: InputConfig, random: np.random.Generator) -> Sample:
    """The sample on its canvas as training sees it, by the options of `settings`; in the paper: flip only."""
    if random.random() < settings.flip:
        sample = flip(sample)
    low, high = settings.scale_jitter
    sample = zoomed(sample, settings, random, low, high) if low != high or low != 1 else fitted(sample, settings)
    if settings.colour_jitter > 0:
        sample = replace(sample, picture=recoloured(sample.picture, settings.colour_jitter, random))
    return sample


def flip(sample: Sample) -> Sample:
    """Mirrored left to right."""
    width = sample.picture.shape[1]
    boxes = sample.boxes.copy()
    boxes[:, [0, 2]] = width - sample.boxes[:, [2, 0]]
    masks = [flipped(m, width) if m is not None else None for m in sample.masks]
    return replace(sample, picture=np.ascontiguousarray(sample.picture[:, ::-1]), boxes=boxes, masks=masks)


def zoomed(sample: Sample, settings: InputConfig, random: np.random.Generator, low: float, high: float) -> Sample:
    """Scaled by a factor drawn between `low` and `high` (evenly in its logarithm) around the usual fit, then cropped or
    padded at a random place to the usual canvas."""
    usual = place(sample.picture.shape[:2], settings.mode, settings.size)
    factor = float(np.exp(random.uniform(np.log(low), np.log(high))))
    size = sample.picture.shape[:2]
    canvas = np.empty((*usual.canvas_size, 3), np.uint8)
    canvas[:] = PADDING
    scale, shift, source, target = [0.0, 0.0], [0.0, 0.0], [(0.0, 0.0)] * 2, [(0, 0)] * 2
    for axis in (0, 1):
        room = usual.canvas_size[axis]
        length = max(1, round(size[axis] * usual.scale[axis] * factor))
        scale[axis] = length / size[axis]
        offset = int(random.integers(min(0, room - length), max(0, room - length) + 1))
        shift[axis] = float(offset)
        target[axis] = max(offset, 0), min(offset + length, room)
        source[axis] = (target[axis][0] - offset) / scale[axis], (target[axis][1] - offset) / scale[axis]
    (top, bottom), (left, right) = target
    crop = Image.fromarray(sample.picture).resize(
        (right - left, bottom - top),
        Image.Resampling.BILINEAR,
        box=(source[1][0], source[0][0], source[1][1], source[0][1]),
    )
    canvas[top:bottom, left:right] = np.asarray(crop)
    placement = Placement(size, usual.canvas_size, (scale[0], scale[1]))
    boxes = _moved_boxes(sample.boxes, scale, shift)
    masks = [moved(m, scale[1], scale[0], shift[1], shift[0]) if m is not None else None for m in sample.masks]
    return visible(replace(sample, picture=canvas, boxes=boxes, masks=masks, placement=placement))


def _moved_boxes(boxes: np.ndarray, scale: list[float], shift: list[float]) -> np.ndarray:
    factors = np.array([scale[1], scale[0], scale[1], scale[0]], np.float32)
    return boxes * factors + np.array([shift[1], shift[0], shift[1], shift[0]], np.float32)


def visible(sample: Sample) -> Sample:
    """Boxes clipped to the canvas; objects of which too little is left are no targets."""
    height, width = sample.picture.shape[:2]
    clipped = np.clip(sample.boxes, 0, np.array([width, height, width, height], np.float32)).astype(np.float32)
    sides = clipped[:, 2:] - clipped[:, :2]
    before = (sample.boxes[:, 2:] - sample.boxes[:, :2]).prod(1)
    kept = (sides.min(1, initial=np.inf) >= LEAST_SIDE) & (sides.prod(1) >= LEAST_VISIBLE * before)
    masks = [m for m, keep in zip(sample.masks, kept, strict=True) if keep]
    return replace(sample, boxes=clipped[kept], labels=sample.labels[kept], masks=masks)


def recoloured(picture: np.ndarray, strength: float, random: np.random.Generator) -> np.ndarray:
    """Brightness, contrast and saturation each changed by a factor within 1 +- strength."""
    image = Image.fromarray(picture)
    for enhancer in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = enhancer(image).enhance(float(random.uniform(1 - strength, 1 + strength)))
    return np.array(image)  # its own memory: torch wants to be able to write
