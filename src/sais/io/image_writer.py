"""Image writing: atomic, with a mark of sais, as PNG where the image is larger than the format allows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from sais.errors import InputError
from sais.io.atomic import atomic_write
from sais.io.outputs import mark_text

FORMATS = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".png": "PNG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
}
"""Suffix -> format of the images that are written."""
MAX_SIDES = {".jpg": 65_500, ".jpeg": 65_500, ".webp": 16_383}
"""Suffix -> maximum side in pixels that the encoder accepts; other formats have no limit in practice."""


def image_path(path: Path, image: np.ndarray) -> Path:
    """Return `path`, or the same with the suffix .png if a side of the image (H, W, 3) exceeds `MAX_SIDES`."""
    return path.with_suffix(".png") if max(image.shape[:2]) > MAX_SIDES.get(path.suffix.lower(), 2**31) else path


def check_image_suffix(path: Path) -> None:
    """Raise InputError unless images are written in the format that the suffix of `path` names."""
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"{path}: no image format has this suffix. Give a name that ends with {', '.join(FORMATS)}.")


def write_image(path: Path, image: np.ndarray, quality: int = 92, writer: str = "sais") -> Path:
    """Write an image atomically; see `sais.io.atomic.atomic_write`.

    Args:
        path: File with the suffix of its format; missing folders are created.
        image: (H, W, 3) uint8 RGB.
        quality: Quality of JPEG and WebP, 1 to 100.
        writer: Writer by which `sais.io.outputs.written_by` recognizes the file.

    Returns:
        The file written, see `image_path`.

    Raises:
        InputError: The suffix is unknown.
        ResourceError: The file cannot be written.
    """
    path = image_path(path, image)
    check_image_suffix(path)
    text = PngInfo()
    text.add_text("Comment", mark_text(writer))
    # JPEG and PNG take one of the two each and write it near their start; the other formats ignore both.
    options = {"quality": quality, "comment": mark_text(writer), "pnginfo": text}
    with atomic_write(path) as temporary:
        Image.fromarray(image).save(temporary, FORMATS[path.suffix.lower()], **options)
    return path
