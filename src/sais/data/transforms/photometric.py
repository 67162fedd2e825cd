"""Colors changed at random, places left as they are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance

BRIGHTNESS = (0.875, 1.125)
CONTRAST = (0.5, 1.5)
SATURATION = (0.5, 1.5)
"""Least and greatest factor of `distorted`: those of SSD (Liu et al. 2016)."""
HUE = 13
"""Greatest turn of the hue in 1/256 of the circle: 18 degrees, as in SSD."""


def photometric_distort(image: np.ndarray, probability: float, random: np.random.Generator) -> np.ndarray:
    """Brightness, contrast, saturation and hue, each changed with this probability, one after the other in random
    order: (H, W, 3) uint8."""
    changes: list[Callable[[Image.Image], Image.Image]] = [
        lambda pillow: ImageEnhance.Brightness(pillow).enhance(float(random.uniform(*BRIGHTNESS))),
        lambda pillow: ImageEnhance.Contrast(pillow).enhance(float(random.uniform(*CONTRAST))),
        lambda pillow: ImageEnhance.Color(pillow).enhance(float(random.uniform(*SATURATION))),
        lambda pillow: shift_hue(pillow, int(random.integers(-HUE, HUE + 1))),
    ]
    pillow = Image.fromarray(image)
    for which in random.permutation(len(changes)):
        if random.random() < probability:
            pillow = changes[which](pillow)
    return np.array(pillow)  # its own memory: torch wants to be able to write


def shift_hue(image: Image.Image, turn: int) -> Image.Image:
    """The image with its hues turned by `turn` / 256 of the circle."""
    hue, saturation, value = image.convert("HSV").split()
    hue = hue.point([(level + turn) % 256 for level in range(256)])
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")


def color_jitter(image: np.ndarray, strength: float, random: np.random.Generator) -> np.ndarray:
    """Brightness, contrast and saturation each changed by a factor within 1 +- strength."""
    pillow = Image.fromarray(image)
    for enhancer in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        pillow = enhancer(pillow).enhance(float(random.uniform(1 - strength, 1 + strength)))
    return np.array(pillow)  # its own memory: torch wants to be able to write
