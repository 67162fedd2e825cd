"""The workload of a benchmark: one image with a fixed number of known objects.

A randomly initialized network detects nothing, and trained networks detect different numbers of objects. Detections are
therefore injected: the network runs, then its raw outputs are overwritten so that post-processing returns exactly these
objects and processes as many candidates as an image with these objects would produce.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sais.ops.numpy_boxes import box_iou

if TYPE_CHECKING:
    from sais.structures import Batch

BOX_SIDES = (0.04, 0.6)
"""Minimum and maximum box side as a fraction of the image side; log-uniformly distributed."""
POLYGON_POINTS = 24
"""Number of points of an object's polygon."""
MAX_SAME_CLASS_IOU = 0.33
"""Maximum IoU of two boxes of one class: below every NMS threshold, so that NMS removes no object."""


@dataclass(frozen=True)
class Workload:
    """An image and its D known objects."""

    image: np.ndarray
    """(H, W, 3) uint8."""
    boxes: np.ndarray
    """(D, 4) float32, image pixels."""
    labels: np.ndarray
    """(D,) int64; objects of one class overlap by at most `MAX_SAME_CLASS_IOU`."""
    num_classes: int
    """C."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image in pixels."""
        return self.image.shape[0], self.image.shape[1]


def make_workload(
    num_objects: int = 100, size: tuple[int, int] = (960, 1280), num_classes: int = 80, seed: int = 0
) -> Workload:
    """Create an image of noise with `num_objects` boxes of all sizes; deterministic for the same arguments.

    Args:
        num_objects: the number of objects D.
        size: the height and width of the image in pixels.
        num_classes: the number of classes C.
        seed: the seed of boxes, labels and noise.
    """
    random = np.random.default_rng(seed)
    sides = np.exp(random.uniform(np.log(BOX_SIDES[0]), np.log(BOX_SIDES[1]), (num_objects, 2))) * size[::-1]
    corners = random.uniform(0, 1, (num_objects, 2)) * (np.array(size[::-1]) - sides)
    boxes = np.concatenate([corners, corners + sides], 1).astype(np.float32)
    image = random.integers(0, 256, (*size, 3), dtype=np.uint8)
    labels = _assign_labels(boxes, num_classes, random, size)
    return Workload(image, boxes, labels, num_classes)


def _assign_labels(
    boxes: np.ndarray, num_classes: int, random: np.random.Generator, size: tuple[int, int]
) -> np.ndarray:
    """Assign each box (D, 4) the first class, starting from its index, that has no overlapping box yet: (D,) int64.

    If every class has one (few classes, many objects), the box is moved at random and shrunk by 5 %, in place, until
    a class is free.
    """
    labels = np.zeros(len(boxes), np.int64)
    for i in range(len(boxes)):
        while True:
            taken = set(labels[:i][box_iou(boxes[i], boxes[:i]) > MAX_SAME_CLASS_IOU].tolist())
            free = [c % num_classes for c in range(i, i + num_classes) if c % num_classes not in taken]
            if free:
                labels[i] = free[0]
                break
            sides = 0.95 * (boxes[i, 2:] - boxes[i, :2])
            corner = random.uniform(0, 1, 2) * (np.array(size[::-1]) - sides)
            boxes[i] = [*corner, *(corner + sides)]
    return labels


def training_batch(workload: Workload, canvas_size: tuple[int, int], batch_size: int, num_objects: int = 10) -> Batch:
    """Create a training batch of copies of the workload, resized to the canvas, with elliptic masks.

    The loader is bypassed because YOLACT's inputs of 550 and 700 pixels are not multiples of 32.

    Args:
        workload: the image and its objects.
        canvas_size: the height and width of the network's input in pixels.
        batch_size: the number of copies B.
        num_objects: the number of objects N of each image: the first ones of the workload.
    """
    import torch
    from PIL import Image

    from sais.data.loader import rasterize_ground_truth
    from sais.ops.letterbox import CanvasMap
    from sais.ops.rasterize import Polygons
    from sais.structures import Batch, Sample

    size = workload.size
    scale = (canvas_size[0] / size[0], canvas_size[1] / size[1])
    boxes = (workload.boxes[:num_objects] * np.array([scale[1], scale[0]] * 2)).astype(np.float32)
    angles = np.linspace(0, 2 * np.pi, POLYGON_POINTS, endpoint=False)
    circle = np.stack([np.cos(angles), np.sin(angles)], 1)
    ellipses = [(box[:2] + box[2:]) / 2 + circle * (box[2:] - box[:2]) / 2 for box in boxes]
    image = np.array(Image.fromarray(workload.image).resize(canvas_size[::-1], Image.Resampling.BILINEAR))
    masks = [Polygons((ellipse,)) for ellipse in ellipses]
    canvas_map = CanvasMap(size, canvas_size, scale)
    sample = Sample(1, image, boxes, workload.labels[:num_objects], list(masks), canvas_map)
    images = torch.from_numpy(image).permute(2, 0, 1)[None].expand(batch_size, -1, -1, -1).contiguous()
    ground_truths = [rasterize_ground_truth(sample) for _ in range(batch_size)]
    return Batch(images, ground_truths, list(range(batch_size)), [canvas_map] * batch_size)
