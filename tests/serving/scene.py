"""A small image with objects of all kinds, for the tests of the page."""

from __future__ import annotations

import numpy as np

from sais.results.detections import Detections
from tests.serving.page_server import from_masks

SIZE = (96, 128)
NAMES = ("disc", "bar")


def make_scene() -> tuple[np.ndarray, Detections]:
    """Return an image (96, 128, 3) and objects: a ring, two parts, overlaps, a pixel, noise, at the border."""
    y, x = np.mgrid[0:96, 0:128]
    noise = np.random.default_rng(0).random(SIZE)
    masks = [
        (np.hypot(x - 30, y - 30) < 22) & (np.hypot(x - 30, y - 30) > 8),
        ((x // 20) % 2 == 1) & (x > 60) & (y > 10) & (y < 30),
        (abs(x - 80) < 30) & (abs(y - 60) < 20),
        (abs(x - 85) < 12) & (abs(y - 62) < 9),
        (x == 5) & (y == 90),
        (x > 100) & (y > 80),
        (noise > 0.5) & (x < 40) & (y > 60) & (y < 85),
    ]
    image = np.stack([x + 60, y + 90, 200 - x], axis=2).astype(np.uint8)
    return image, from_masks(masks, [0, 1, 1, 0, 0, 1, 0], [0.95, 0.9, 0.8, 0.7, 0.5, 0.35, 0.1], NAMES)


def iou(first: np.ndarray, second: np.ndarray) -> float:
    """Return the IoU of two masks (H, W) bool."""
    return float((first & second).sum() / (first | second).sum())


IMAGE, SCENE = make_scene()
