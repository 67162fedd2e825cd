"""What all systems are measured on: one image with as many objects as asked for, known beforehand.

An untrained network finds nothing, and a trained one finds another number on each system. So the objects are planted:
after the network has run, its raw outputs are overwritten so that post-processing finds exactly these objects, and goes
through as many candidates as an image like this has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

SIDES = (0.04, 0.6)
"""Sides of the boxes as shares of the image's, evenly spread in their logarithm."""
CORNERS = 24
"""Points of an object's outline."""


@dataclass(frozen=True)
class Workload:
    """An image and its objects."""

    image: np.ndarray
    """(H, W, 3) uint8."""
    boxes: np.ndarray
    """(D, 4) float32, image pixels."""
    labels: np.ndarray
    """(D,) int64; objects of one class hardly overlap, so that suppression removes none."""
    classes: int

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.image.shape[0], self.image.shape[1]


def make_workload(
    objects: int = 100, size: tuple[int, int] = (960, 1280), classes: int = 80, seed: int = 0
) -> Workload:
    """An image of noise with `objects` boxes of all sizes; the same for the same arguments."""
    random = np.random.default_rng(seed)
    sides = np.exp(random.uniform(np.log(SIDES[0]), np.log(SIDES[1]), (objects, 2))) * size[::-1]
    corners = random.uniform(0, 1, (objects, 2)) * (np.array(size[::-1]) - sides)
    boxes = np.concatenate([corners, corners + sides], 1).astype(np.float32)
    image = random.integers(0, 256, (*size, 3), dtype=np.uint8)
    labels = _labels(boxes, classes, random, size)
    return Workload(image, boxes, labels, classes)


def _labels(boxes: np.ndarray, classes: int, random: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """The first class, from one on that is next in turn, none of whose boxes overlaps this one by a third.

    Where there is none (few classes, many objects) the box is moved, in place, and made a little smaller each time.
    """
    labels = np.zeros(len(boxes), np.int64)
    for i in range(len(boxes)):
        while True:
            taken = set(labels[:i][overlap(boxes[i], boxes[:i]) > 0.33].tolist())
            free = [c % classes for c in range(i, i + classes) if c % classes not in taken]
            if free:
                labels[i] = free[0]
                break
            sides = 0.95 * (boxes[i, 2:] - boxes[i, :2])
            corner = random.uniform(0, 1, 2) * (np.array(size[::-1]) - sides)
            boxes[i] = [*corner, *(corner + sides)]
    return labels


def overlap(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """IoU of one box (4,) with others (N, 4) -> (N,)."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    shared = (high - low).clip(0).prod(1)
    union = (box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(1) - shared
    return shared / union


def training_batch(scene: Workload, canvas: tuple[int, int], images: int, objects: int = 10) -> Any:
    """A `Batch` of `images` copies of the scene, stretched to `canvas` (height, width), with elliptic outlines.

    Made directly, not by the loader, since YOLACT's 550 and 700 are no multiples of 32.
    """
    import torch
    from PIL import Image

    from sais.data.loader import rasterize_ground_truth
    from sais.ops.rasterize import Polygons
    from sais.structures import Batch, CanvasMap, Sample

    scale = (canvas[0] / scene.size[0], canvas[1] / scene.size[1])
    boxes = (scene.boxes[:objects] * np.array([scale[1], scale[0]] * 2)).astype(np.float32)
    turn = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    circle = np.stack([np.cos(turn), np.sin(turn)], 1)
    outlines = [(b[:2] + b[2:]) / 2 + circle * (b[2:] - b[:2]) / 2 for b in boxes]
    image = np.array(Image.fromarray(scene.image).resize(canvas[::-1], Image.Resampling.BILINEAR))
    masks = [Polygons((outline,)) for outline in outlines]
    sample = Sample(1, image, boxes, scene.labels[:objects], list(masks), CanvasMap(scene.size, canvas, scale))
    stacked = torch.from_numpy(image).permute(2, 0, 1)[None].expand(images, -1, -1, -1).contiguous()
    canvas_maps = [CanvasMap(scene.size, canvas, scale)] * images
    return Batch(stacked, [rasterize_ground_truth(sample) for _ in range(images)], list(range(images)), canvas_maps)
