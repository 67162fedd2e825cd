"""Target maps: to which object each location is assigned, as in the paper's Figure 2 (`sais draw-targets`).

One panel shows the image with its boxes, one panel the result of each assigner. There every location is a square of the
size of its stride, in the color of its object, brighter with higher centerness; black is background. Where locations of
several levels cover a pixel, the one with the highest centerness is shown.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw

from sais.config import CriterionConfig, InputConfig
from sais.data.annotations import ImageRecord
from sais.data.dataset import read_sample
from sais.data.loader import rasterize_ground_truth
from sais.data.transforms.geometric import resize_sample
from sais.errors import InputError
from sais.modeling.assigners import ASSIGNERS, LocationGrid, build_targets, level_ranges
from sais.modeling.losses import centerness_quality
from sais.ops.boxes import locations
from sais.results.draw import PALETTE, contact_sheet, draw_objects
from sais.structures import STRIDES, GroundTruth

TITLES = {"center": "center-aware (Eqs. 2-4)", "area": "area-aware (FCOS)"}
MIN_BRIGHTNESS = 0.22
"""Brightness of a location with centerness 0; the brightness at centerness 1 is 1."""
MAX_PANEL_SIDE = 960
"""Maximum side of a panel in pixels; a larger canvas is downscaled."""

SCENE_SIZE = (480, 640)
"""(height, width) of the scene of Figure 2 in pixels."""
SCENE_CELL = 16
"""Distance between locations of the scene in pixels."""
SCENE_BOXES = ((64.0, 48.0, 560.0, 432.0), (288.0, 224.0, 528.0, 400.0))
"""Object 1, large; its center (312, 240) is inside the box of object 2, small."""

Sizes = tuple[tuple[int, int], ...]


def draw_scene(scene: str, assigners: tuple[str, ...]) -> np.ndarray:
    """Draw a built-in scene and the assignment of its locations.

    The canvas of "figure2" has 8 times the size of its image. Both objects then belong to P7, the level without an
    upper bound, so that they compete everywhere, as in the figure.

    Args:
        scene: "figure2", the paper's scene: a small object over the center of a large one.
        assigners: "center", "area", or both; a panel for each.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        InputError: no such scene.
    """
    if scene != "figure2":
        raise InputError(f"scene '{scene}': unknown. Use 'figure2'.")
    zoom = STRIDES[-1] // SCENE_CELL
    boxes = np.array(SCENE_BOXES, np.float32)
    level_sizes = (*((0, 0),) * 4, (SCENE_SIZE[0] // SCENE_CELL, SCENE_SIZE[1] // SCENE_CELL))
    maps = [_target_map(_box_objects(boxes * zoom), level_sizes, SCENE_SIZE, name, zoom) for name in assigners]
    return _panels(_scene_image(), boxes, ["object 1", "object 2"], maps, assigners)


def draw_target_maps(record: ImageRecord, settings: InputConfig, assigners: tuple[str, ...]) -> np.ndarray:
    """Draw an image of a data set and the assignment of its locations, all levels merged.

    Args:
        record: image and annotations; crowds are ignored.
        settings: size and mode of the network's input.
        assigners: "center", "area", or both; a panel for each.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        InputError: the image cannot be read.
    """
    sample = resize_sample(read_sample(record), settings)
    size = (sample.image.shape[0], sample.image.shape[1])
    maps = [_target_map(rasterize_ground_truth(sample), level_sizes(size), size, name) for name in assigners]
    names = [str(i + 1) for i in range(len(sample.boxes))]
    return _panels(sample.image, sample.boxes, names, maps, assigners)


def level_sizes(canvas: tuple[int, int]) -> Sizes:
    """Return (height, width) of P3 to P7 for a canvas whose sides are multiples of 32 pixels."""
    sizes = [(canvas[0] // stride, canvas[1] // stride) for stride in STRIDES[:3]]
    for _ in STRIDES[3:]:
        sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
    return tuple(sizes)


def _target_map(objects: GroundTruth, sizes: Sizes, size: tuple[int, int], assigner: str, zoom: int = 1) -> np.ndarray:
    """The target map, (H, W, 3) uint8.

    Args:
        objects: N objects on the canvas.
        sizes: (height, width) of each level.
        size: (H, W) of the map in pixels.
        assigner: "center" or "area".
        zoom: canvas pixels per pixel of the map.
    """
    grid = LocationGrid(locations(sizes, STRIDES), sizes, STRIDES, level_ranges(CriterionConfig().level_ranges))
    targets = build_targets(ASSIGNERS[assigner]([objects], grid), [objects], grid.points, centerness_quality)
    assert targets.quality is not None
    indices, centerness = targets.object_index[0].numpy(), targets.quality[0].numpy()
    best_index, best_centerness = np.full(size, -1), np.full(size, -1, np.float32)
    start = 0
    for (height, width), stride in zip(sizes, STRIDES, strict=True):
        end = start + height * width
        if end > start:
            rows = (np.arange(size[0]) * zoom // stride)[:, None]
            columns = np.arange(size[1]) * zoom // stride
            level_index = indices[start:end].reshape(height, width)[rows, columns]
            level_centerness = centerness[start:end].reshape(height, width)[rows, columns]
            better = (level_index >= 0) & (level_centerness > best_centerness)
            best_index[better], best_centerness[better] = level_index[better], level_centerness[better]
        start = end
    colors = np.array(PALETTE, np.float32)[best_index % len(PALETTE)]
    brightness = (MIN_BRIGHTNESS + (1 - MIN_BRIGHTNESS) * best_centerness.clip(0)) * (best_index >= 0)
    return np.rint(colors * brightness[..., None]).astype(np.uint8)


def _box_objects(boxes: np.ndarray) -> GroundTruth:
    """Objects without masks from boxes (N, 4) in canvas pixels."""
    empty = torch.zeros(0, dtype=torch.uint8)
    windows = torch.zeros(len(boxes), 4, dtype=torch.int64)
    return GroundTruth(torch.from_numpy(boxes), torch.zeros(len(boxes), dtype=torch.int64), windows, empty)


def _panels(
    image: np.ndarray, boxes: np.ndarray, names: list[str], maps: list[np.ndarray], assigners: Sequence[str]
) -> np.ndarray:
    """The image and the maps side by side, each with a title."""
    panels = [draw_objects(image, boxes, np.arange(len(boxes)), names), *(_outline_boxes(m, boxes) for m in maps)]
    height, width = image.shape[:2]
    scale = min(1.0, MAX_PANEL_SIDE / max(height, width))
    tile = (round(height * scale), round(width * scale))
    titles = ["image", *(TITLES[name] for name in assigners)]
    return contact_sheet(panels, columns=len(panels), tile=tile, captions=titles)


def _outline_boxes(target_map: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """The map with a thin outline of each box and a cross at its center."""
    image = Image.fromarray(target_map)
    drawing = ImageDraw.Draw(image)
    height, width = target_map.shape[:2]
    arm = max(3, round((height * width) ** 0.5 / 90))
    line_width = max(1, round((height * width) ** 0.5 / 500))
    for i in reversed(range(len(boxes))):
        x1, y1, x2, y2 = boxes[i].tolist()
        corners = (max(x1, 0), max(y1, 0), min(x2, width) - 1, min(y2, height) - 1)
        if corners[2] > corners[0] and corners[3] > corners[1]:
            drawing.rectangle(corners, outline=PALETTE[i % len(PALETTE)], width=line_width)
    for x1, y1, x2, y2 in boxes.tolist():
        x, y = (x1 + x2) / 2, (y1 + y2) / 2
        for color, stroke in (((0, 0, 0), line_width + 2), ((255, 255, 255), line_width)):
            drawing.line((x - arm, y, x + arm, y), fill=color, width=stroke)
            drawing.line((x, y - arm, x, y + arm), fill=color, width=stroke)
    return np.asarray(image).copy()


def _scene_image() -> np.ndarray:
    """The image of Figure 2's scene: a striped ellipse, a dotted disc over its center, a plain background."""
    height, width = SCENE_SIZE
    y, x = np.mgrid[:height, :width] + 0.5
    light = 1 - 0.25 * np.hypot((x - width / 2) / width, (y - height / 2) / height)
    image = np.array([206, 210, 204]) * light[..., None]
    stripes = 0.5 + 0.5 * np.sin((x + 0.5 * y) / 7)
    dots = (((x + 8) % 16 - 8) ** 2 + ((y + 8) % 16 - 8) ** 2 < 16).astype(float)
    brown, blue = (np.array(color, float) for color in ((96, 74, 62), (52, 96, 128)))
    textures = ((brown, brown + 70, stripes), (blue, blue + 110, dots))
    for (x1, y1, x2, y2), (dark, bright, texture) in zip(SCENE_BOXES, textures, strict=True):
        across, down = (2 * x - x1 - x2) / (x2 - x1), (2 * y - y1 - y2) / (y2 - y1)
        radius = np.hypot(across, down)
        inside = np.clip((1 - radius) * min(x2 - x1, y2 - y1) / 2 + 0.5, 0, 1)[..., None]  # anti-aliased
        shade = (1.08 - 0.3 * radius**2 - 0.12 * across - 0.16 * down)[..., None]
        color = (dark + (bright - dark) * texture[..., None]) * shade
        image = image * (1 - inside) + color * inside
    return np.rint(image.clip(0, 255)).astype(np.uint8)
