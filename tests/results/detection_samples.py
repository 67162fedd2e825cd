"""Detections for the tests of results."""

from __future__ import annotations

import numpy as np

from sais.results.cropped_mask import CroppedMask
from sais.results.detections import Detections

NAMES = ("bear", "deer", "fox")


def random_detections(count: int = 7, seed: int = 0, masks: bool = True) -> Detections:
    """Return random objects of three classes in an image of 60 x 80 pixels, with noise as masks."""
    generator = np.random.default_rng(seed)
    x, y = generator.integers(0, 60, count), generator.integers(0, 40, count)
    w, h = generator.integers(2, 21, count), generator.integers(2, 21, count)
    cropped_masks = [
        CroppedMask(int(x[i]), int(y[i]), generator.random((h[i], w[i])) < 0.6) for i in range(count if masks else 0)
    ]
    boxes = np.stack([x, y, x + w, y + h], 1) + generator.random((count, 4)) * 0.3
    scores = np.sort(generator.random(count))[::-1]
    return Detections((60, 80), boxes, scores, generator.integers(0, 3, count), NAMES, cropped_masks)


def random_image(seed: int = 0) -> np.ndarray:
    """Return an image (60, 80, 3) uint8 of noise."""
    return np.random.default_rng(seed).integers(0, 255, (60, 80, 3), dtype=np.uint8)


def squares(*corners: tuple[int, int], side: int = 10, masks: bool = True) -> Detections:
    """Return squares with their upper left corners x y in an image of 60 x 80, with scores from 0.9 downward."""
    boxes = np.array([[x, y, x + side, y + side] for x, y in corners], np.float32).reshape(-1, 4)
    bits = np.ones((side, side), bool)
    cropped = [CroppedMask(x, y, bits) for x, y in corners] if masks else []
    scores = np.linspace(0.9, 0.5, len(corners))
    return Detections((60, 80), boxes, scores, np.arange(len(corners)) % 3, NAMES, cropped)
