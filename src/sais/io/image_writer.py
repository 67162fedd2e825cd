"""Image writing: atomic, as PNG where the image is larger than the format allows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from sais.io.atomic import atomic_write

MAX_SIDES = {".jpg": 65_500, ".jpeg": 65_500, ".webp": 16_383}
"""Suffix -> maximum side in pixels that the encoder accepts; other formats have no limit in practice."""


def image_path(path: Path, image: np.ndarray) -> Path:
    """Return `path`, or the same with the suffix .png if a side of the image (H, W, 3) exceeds `MAX_SIDES`."""
    return path.with_suffix(".png") if max(image.shape[:2]) > MAX_SIDES.get(path.suffix.lower(), 2**31) else path


def write_image(path: Path, image: np.ndarray, quality: int = 92) -> Path:
    """Write an image atomically; see `sais.io.atomic.atomic_write`.

    Args:
        path: File with the suffix of its format; missing folders are created.
        image: (H, W, 3) uint8 RGB.
        quality: Quality of JPEG and WebP, 1 to 100.

    Returns:
        The file written, see `image_path`.

    Raises:
        ResourceError: The file cannot be written.
    """
    path = image_path(path, image)
    Image.preinit()
    if path.suffix.lower() not in Image.registered_extensions():
        raise ValueError(f"{path}: no image format has this suffix")
    with atomic_write(path) as temporary:
        Image.fromarray(image).save(temporary, Image.registered_extensions()[path.suffix.lower()], quality=quality)
    return path
