"""Target images: which object each location learns, drawn; the paper's Figure 2 (`sais draw-targets`).

One panel for the image with its boxes, one for each rule. In a rule's panel every location is a square of the size
of its stride, in its object's color, the brighter the more central; black is background. Where the locations of
several levels cover a pixel, the most central of them is shown.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw

from sais.config import InputConfig
from sais.data.annotations import ImageRecord
from sais.data.dataset import read_sample
from sais.data.loader import rasterize_ground_truth
from sais.data.transforms.geometric import resize_sample
from sais.errors import SaisError
from sais.modeling.assigners import build_targets
from sais.ops.boxes import locations
from sais.results.draw import PALETTE, contact_sheet, draw_objects
from sais.structures import GroundTruth

STRIDES = (8, 16, 32, 64, 128)
TITLES = {"center": "center-aware (Eqs. 2-4)", "area": "area-aware (FCOS)"}
FAINTEST = 0.22
"""Brightness of a location of centerness 0; 1 is that of its object's center."""
WIDEST_PANEL = 960
"""Pixels; a larger canvas is shown smaller."""

SCENE_SIZE = (480, 640)
"""(height, width) of Figure 2's scene in pixels."""
SCENE_CELL = 16
"""Pixels between locations of the scene."""
SCENE_BOXES = ((64.0, 48.0, 560.0, 432.0), (288.0, 224.0, 528.0, 400.0))
"""Object 1, large, its center (312, 240) inside the box of object 2, small."""

Sizes = tuple[tuple[int, int], ...]


def draw_scene(scene: str, rules: tuple[str, ...]) -> np.ndarray:
    """A built-in scene and which object each of its locations learns.

    The canvas of "figure2" is 8 times its image: there both objects lie on P7, the one level without an upper
    bound, so that they compete everywhere, as in the figure.

    Args:
        scene: "figure2", the paper's: a small object over the center of a large one.
        rules: "center", "area", or both; a panel for each.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        SaisError: there is no such scene.
    """
    if scene != "figure2":
        raise SaisError(f"unknown scene '{scene}'; known is 'figure2'")
    zoom = STRIDES[-1] // SCENE_CELL
    boxes = np.array(SCENE_BOXES, np.float32)
    sizes = (*((0, 0),) * 4, (SCENE_SIZE[0] // SCENE_CELL, SCENE_SIZE[1] // SCENE_CELL))
    maps = [_target_map(_objects(boxes * zoom), sizes, SCENE_SIZE, rule, zoom) for rule in rules]
    return _panels(_scene_image(), boxes, ["object 1", "object 2"], maps, rules)


def draw_target_maps(record: ImageRecord, settings: InputConfig, rules: tuple[str, ...]) -> np.ndarray:
    """An image of a data set and which object each of its locations learns, all levels merged.

    Args:
        record: the image; crowds are no targets.
        settings: how it is fitted to the canvas.
        rules: "center", "area", or both; a panel for each.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        SaisError: the image cannot be read.
    """
    sample = resize_sample(read_sample(record), settings)
    size = (sample.image.shape[0], sample.image.shape[1])
    maps = [_target_map(rasterize_ground_truth(sample), level_sizes(size), size, rule) for rule in rules]
    names = [str(i + 1) for i in range(len(sample.boxes))]
    return _panels(sample.image, sample.boxes, names, maps, rules)


def level_sizes(canvas: tuple[int, int]) -> Sizes:
    """(height, width) of P3 .. P7 for a canvas of whole multiples of 32."""
    sizes = [(canvas[0] // stride, canvas[1] // stride) for stride in STRIDES[:3]]
    for _ in STRIDES[3:]:
        sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
    return tuple(sizes)


def _target_map(objects: GroundTruth, sizes: Sizes, size: tuple[int, int], rule: str, zoom: int = 1) -> np.ndarray:
    """(H, W, 3) uint8: the most central location over each pixel; `zoom` is canvas pixels for one of these."""
    targets = build_targets([objects], sizes, STRIDES, locations(sizes, STRIDES), rule)
    owners, centers = targets.object_index[0].numpy(), targets.centerness[0].numpy()
    owner, central = np.full(size, -1), np.full(size, -1, np.float32)
    first = 0
    for (height, width), stride in zip(sizes, STRIDES, strict=True):
        last = first + height * width
        if last > first:
            rows = (np.arange(size[0]) * zoom // stride)[:, None]
            columns = np.arange(size[1]) * zoom // stride
            here = owners[first:last].reshape(height, width)[rows, columns]
            strength = centers[first:last].reshape(height, width)[rows, columns]
            better = (here >= 0) & (strength > central)
            owner[better], central[better] = here[better], strength[better]
        first = last
    colors = np.array(PALETTE, np.float32)[owner % len(PALETTE)]
    brightness = (FAINTEST + (1 - FAINTEST) * central.clip(0)) * (owner >= 0)
    return np.rint(colors * brightness[..., None]).astype(np.uint8)


def _objects(boxes: np.ndarray) -> GroundTruth:
    empty = torch.zeros(0, dtype=torch.uint8)
    windows = torch.zeros(len(boxes), 4, dtype=torch.int64)
    return GroundTruth(torch.from_numpy(boxes), torch.zeros(len(boxes), dtype=torch.int64), windows, empty)


def _panels(
    image: np.ndarray, boxes: np.ndarray, names: list[str], maps: list[np.ndarray], rules: Sequence[str]
) -> np.ndarray:
    """The image and the maps side by side, each with its title."""
    numbers = np.arange(len(boxes))
    panels = [draw_objects(image, boxes, numbers, names), *(_outlined(one, boxes) for one in maps)]
    height, width = image.shape[:2]
    shrink = min(1.0, WIDEST_PANEL / max(height, width))
    tile = (round(height * shrink), round(width * shrink))
    titles = ["image", *(TITLES[rule] for rule in rules)]
    return contact_sheet(panels, columns=len(panels), tile=tile, captions=titles)


def _outlined(target_map: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """The map with a thin frame for each box and a cross at its center."""
    image = Image.fromarray(target_map)
    pen = ImageDraw.Draw(image)
    height, width = target_map.shape[:2]
    arm = max(3, round((height * width) ** 0.5 / 90))
    thin = max(1, round((height * width) ** 0.5 / 500))
    for i in reversed(range(len(boxes))):
        x1, y1, x2, y2 = boxes[i].tolist()
        corners = (max(x1, 0), max(y1, 0), min(x2, width) - 1, min(y2, height) - 1)
        if corners[2] > corners[0] and corners[3] > corners[1]:
            pen.rectangle(corners, outline=PALETTE[i % len(PALETTE)], width=thin)
    for x1, y1, x2, y2 in boxes.tolist():
        x, y = (x1 + x2) / 2, (y1 + y2) / 2
        for ink, line in (((0, 0, 0), thin + 2), ((255, 255, 255), thin)):
            pen.line((x - arm, y, x + arm, y), fill=ink, width=line)
            pen.line((x, y - arm, x, y + arm), fill=ink, width=line)
    return np.asarray(image).copy()


def _scene_image() -> np.ndarray:
    """Figure 2's image: a striped ellipse, a dotted disc over its center, on a plain ground with a soft light."""
    height, width = SCENE_SIZE
    y, x = np.mgrid[:height, :width] + 0.5
    light = 1 - 0.25 * np.hypot((x - width / 2) / width, (y - height / 2) / height)
    image = np.array([206, 210, 204]) * light[..., None]
    stripes = 0.5 + 0.5 * np.sin((x + 0.5 * y) / 7)
    spots = (((x + 8) % 16 - 8) ** 2 + ((y + 8) % 16 - 8) ** 2 < 16).astype(float)
    first, second = (np.array(c, float) for c in ((96, 74, 62), (52, 96, 128)))
    looks = ((first, first + 70, stripes), (second, second + 110, spots))
    for (x1, y1, x2, y2), (dark, bright, texture) in zip(SCENE_BOXES, looks, strict=True):
        across, down = (2 * x - x1 - x2) / (x2 - x1), (2 * y - y1 - y2) / (y2 - y1)
        away = np.hypot(across, down)
        inside = np.clip((1 - away) * min(x2 - x1, y2 - y1) / 2 + 0.5, 0, 1)[..., None]  # with a smooth edge
        shade = (1.08 - 0.3 * away**2 - 0.12 * across - 0.16 * down)[..., None]
        color = (dark + (bright - dark) * texture[..., None]) * shade
        image = image * (1 - inside) + color * inside
    return np.rint(image.clip(0, 255)).astype(np.uint8)
