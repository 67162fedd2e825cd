"""Photometric augmentation: random changes of color; positions are unchanged."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance

BRIGHTNESS = (0.875, 1.125)
"""Range of the brightness factor of `photometric_distort`, from SSD (Liu et al. 2016)."""
CONTRAST = (0.5, 1.5)
"""Range of the contrast factor, from SSD."""
SATURATION = (0.5, 1.5)
"""Range of the saturation factor, from SSD."""
HUE = 13
"""Maximum shift of the hue in 1/256 of the circle: 18 degrees, from SSD."""


def photometric_distort(image: np.ndarray, probability: float, random: np.random.Generator) -> np.ndarray:
    """Change brightness, contrast, saturation and hue, each with the given probability, in random order.

    Args:
        image: (H, W, 3) uint8 RGB; not modified.
        probability: Probability of each change.
        random: Source of randomness.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    changes: list[Callable[[Image.Image], Image.Image]] = [
        lambda pillow: ImageEnhance.Brightness(pillow).enhance(float(random.uniform(*BRIGHTNESS))),
        lambda pillow: ImageEnhance.Contrast(pillow).enhance(float(random.uniform(*CONTRAST))),
        lambda pillow: ImageEnhance.Color(pillow).enhance(float(random.uniform(*SATURATION))),
        lambda pillow: shift_hue(pillow, int(random.integers(-HUE, HUE + 1))),
    ]
    pillow = Image.fromarray(image)
    for index in random.permutation(len(changes)):
        if random.random() < probability:
            pillow = changes[index](pillow)
    return np.array(pillow)  # a writable copy, as torch requires


def shift_hue(image: Image.Image, shift: int) -> Image.Image:
    """Shift the hues of an RGB image by `shift` / 256 of the circle."""
    hue, saturation, value = image.convert("HSV").split()
    hue = hue.point([(level + shift) % 256 for level in range(256)])
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")


def color_jitter(image: np.ndarray, strength: float, random: np.random.Generator) -> np.ndarray:
    """Change brightness, contrast and saturation, each by a random factor in [1 - strength, 1 + strength].

    Args:
        image: (H, W, 3) uint8 RGB; not modified.
        strength: Maximum relative change.
        random: Source of randomness.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    pillow = Image.fromarray(image)
    for enhancer in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        pillow = enhancer(pillow).enhance(float(random.uniform(1 - strength, 1 + strength)))
    return np.array(pillow)  # a writable copy, as torch requires
