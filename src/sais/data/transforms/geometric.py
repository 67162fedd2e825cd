"""Geometric transforms of a sample: resize, flip, zoom, crop, and the visible part of its objects.

Masks remain shapes (`sais.ops.rasterize`) through all transforms and are rasterized once, at the end, on the prototype
grid. All randomness comes from the generator passed in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sais.config import InputConfig
from sais.ops.letterbox import PADDING, CanvasMap, letterbox
from sais.ops.numpy_boxes import Window, boxes_overlap, intersect_windows, window_slices
from sais.ops.pixel_extent import pixel_extents
from sais.ops.rasterize import ObjectMask, Polygons, Rectangle, bounding_box, cut_mask, hflip_mask
from sais.structures import Sample

MIN_BOX_SIDE = 1.0
"""Minimum side in pixels of an object's visible box after a crop; objects below it are dropped."""
MIN_VISIBLE = 0.1
"""Minimum visible fraction of an object's box area, and of its mask where a part is hidden."""


def resize_sample(sample: Sample, settings: InputConfig) -> Sample:
    """Letterbox a sample without randomness: the transform of evaluation and prediction."""
    canvas_map = letterbox(sample.image.shape[:2], settings.mode, settings.size)
    moved = place_sample(sample, canvas_map)
    return replace(moved, image=canvas_map.image(sample.image), canvas_map=canvas_map)


def flip(sample: Sample, flip_labels: np.ndarray | None = None) -> Sample:
    """Mirror a sample left to right.

    Args:
        sample: The sample.
        flip_labels: (C,) label of each class in a mirrored image; None if no label changes.
    """
    width = sample.image.shape[1]
    boxes = sample.boxes.copy()
    boxes[:, [0, 2]] = width - sample.boxes[:, [2, 0]]
    masks = [hflip_mask(mask, width) if mask is not None else None for mask in sample.masks]
    image = np.empty_like(sample.image)
    for channel in range(3):  # six times as fast as all channels at once
        image[:, :, channel] = sample.image[:, ::-1, channel]
    labels = sample.labels if flip_labels is None else flip_labels[sample.labels]
    return replace(sample, image=image, boxes=boxes, labels=labels, masks=masks)


def zoom(sample: Sample, settings: InputConfig, random: np.random.Generator, low: float, high: float) -> Sample:
    """Scale a sample by a random factor relative to its letterbox, then crop or pad it at random to the same canvas.

    Args:
        sample: The sample.
        settings: Mode and size of the canvas.
        random: Source of randomness.
        low: Minimum factor; factors are log-uniformly distributed.
        high: Maximum factor.
    """
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
    canvas_map = placement(sample.image, lengths, offsets, usual.canvas_size)
    window = content_window(lengths, offsets, canvas)
    canvas[window_slices(window)] = canvas_map.image_window(sample.image, window)
    return visible_extent(replace(place_sample(sample, canvas_map), image=canvas, canvas_map=canvas_map), within=window)


def placement(
    image: np.ndarray, lengths: Sequence[int], offsets: Sequence[int], canvas_size: tuple[int, int]
) -> CanvasMap:
    """Return the map of an image (H, W, 3) resized to `lengths` (height, width) and shifted to `offsets` (y, x)."""
    height, width = image.shape[:2]
    scale = lengths[0] / height, lengths[1] / width
    return CanvasMap((height, width), canvas_size, scale, (offsets[0], offsets[1]))


def content_window(lengths: Sequence[int], offsets: Sequence[int], canvas: np.ndarray) -> Window:
    """Return the window of a canvas (H, W, 3) covered by content of `lengths` (height, width) at `offsets` (y, x)."""
    content = (offsets[1], offsets[0], offsets[1] + lengths[1], offsets[0] + lengths[0])
    return intersect_windows(content, (0, 0, canvas.shape[1], canvas.shape[0]))


def place_sample(sample: Sample, canvas_map: CanvasMap) -> Sample:
    """Map the boxes and masks of a sample; the image is unchanged."""
    boxes = canvas_map.boxes(sample.boxes).astype(np.float32)
    return replace(sample, boxes=boxes, masks=canvas_map.masks(sample.masks))


def crop_to_window(sample: Sample, window: Window, fill: tuple[int, int, int] = PADDING) -> Sample:
    """Crop a sample to a window, which may extend beyond the image; pixels outside the image have the color `fill`."""
    x1, y1, x2, y2 = window
    height, width = sample.image.shape[:2]
    image = np.empty((y2 - y1, x2 - x1, 3), np.uint8)
    image[:] = fill
    inner = intersect_windows(window, (0, 0, width, height))
    content = inner[0] - x1, inner[1] - y1, inner[2] - x1, inner[3] - y1
    image[window_slices(content)] = sample.image[window_slices(inner)]
    moved = place_sample(sample, placement(sample.image, (height, width), (-y1, -x1), (y2 - y1, x2 - x1)))
    return visible_extent(replace(moved, image=image), within=content)


def visible_extent(sample: Sample, within: Rectangle | None = None, covers: Sequence[ObjectMask] = ()) -> Sample:
    """Reduce the objects of a sample to their part inside a rectangle and not hidden by other shapes.

    Masks lose exactly the part that is outside or hidden. Box sides that were cut move inwards to whole pixels. Objects
    whose visible part is below `MIN_BOX_SIDE` or `MIN_VISIBLE` are dropped. An object without a mask is treated as if
    it filled its box.

    Args:
        sample: The sample; its image is unchanged.
        within: The visible rectangle; None for no limit.
        covers: Shapes that hide the objects.
    """
    cover_boxes = [bounding_box(cover) for cover in covers]
    boxes, masks, indices = [], [], []
    outside = np.zeros(len(sample.boxes), bool) if within is None else _mostly_outside(sample.boxes, within)
    for i, (box, mask) in enumerate(zip(sample.boxes, sample.masks, strict=True)):
        if outside[i]:
            continue
        shape = _box_polygon(box) if mask is None else mask
        extent = bounding_box(shape)
        hiding = [cover for cover, other in zip(covers, cover_boxes, strict=True) if boxes_overlap(extent, other)]
        if hiding or (within is not None and not (_contains(within, extent) and _contains(within, box))):
            visible_shape = cut_mask(shape, within, hiding)
            visible_box = _visible_box(box, shape, visible_shape, within, bool(hiding))
            if visible_box is None:
                continue
            box, mask = visible_box, None if mask is None else visible_shape
        boxes.append(box)
        masks.append(mask)
        indices.append(i)
    labels = sample.labels[indices].reshape(-1)
    return replace(sample, boxes=np.array(boxes, np.float32).reshape(-1, 4), labels=labels, masks=masks)


def _mostly_outside(boxes: np.ndarray, within: Rectangle) -> np.ndarray:
    """Return which cut boxes (N, 4) have too small a part in a rectangle, whatever their shapes are: (N,) bool."""
    clipped = np.clip(boxes.astype(np.float64), within[:2] * 2, within[2:] * 2)
    sides, areas = clipped[:, 2:] - clipped[:, :2], (boxes[:, 2:] - boxes[:, :2]).astype(np.float64).prod(1)
    too_small = (sides.min(1, initial=np.inf) < MIN_BOX_SIDE) | (sides.prod(1) < MIN_VISIBLE * areas)
    return too_small & (clipped != boxes).any(1)


def _visible_box(
    box: np.ndarray, shape: ObjectMask, visible_shape: ObjectMask, within: Rectangle | None, hidden: bool
) -> np.ndarray | None:
    """Return the box (4,) of the visible part of a shape, also `hidden` by others; None if that part is too small."""
    extent = bounding_box(shape)
    corner = np.floor(extent[:2]).astype(int)
    window = (*corner.tolist(), *np.ceil(extent[2:]).astype(int).tolist())
    full, visible = pixel_extents(shape, visible_shape, window, None if hidden else within)
    if visible.area < MIN_VISIBLE * full.area:
        return None
    visible_box = box.astype(np.float64)
    for axis in (0, 1) if visible.area else ():  # otherwise the shape is so thin that it contains no pixel center
        if visible.first[axis] > full.first[axis]:
            visible_box[axis] = max(visible_box[axis], corner[axis] + visible.first[axis])
        if visible.last[axis] < full.last[axis]:
            visible_box[axis + 2] = min(visible_box[axis + 2], corner[axis] + visible.last[axis] + 1)
    if within is not None:
        x1, y1, x2, y2 = within
        visible_box = np.clip(visible_box, (x1, y1, x1, y1), (x2, y2, x2, y2))
    sides = visible_box[2:] - visible_box[:2]
    if sides.min() < MIN_BOX_SIDE or sides.prod() < MIN_VISIBLE * (box[2:] - box[:2]).astype(np.float64).prod():
        return None
    return visible_box.astype(np.float32)


def _box_polygon(box: np.ndarray) -> Polygons:
    x1, y1, x2, y2 = box.tolist()
    return Polygons((np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], np.float64),))


def _contains(rectangle: Rectangle, box: np.ndarray) -> bool:
    x1, y1, x2, y2 = rectangle
    return bool(box[0] >= x1 and box[1] >= y1 and box[2] <= x2 and box[3] <= y2)
