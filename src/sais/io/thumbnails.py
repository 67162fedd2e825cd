"""Small copies of image files for comparisons, decoded completely, so that a truncated file is noticed.

A JPEG file is decoded at a fraction of its size, which takes a third of the time; all its data is read nevertheless.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from sais.errors import SaisError
from sais.io import decoding, pages, pixels
from sais.io.images import SEVERAL_PAGES


@dataclass(frozen=True, eq=False)
class Thumbnail:
    """An upright image in gray at a small size, without its aspect ratio, and facts about the image."""

    gray: np.ndarray
    """(h, w) uint8."""
    size: tuple[int, int]
    """(H, W) of the upright image."""
    orientation: int
    """EXIF orientation of the file, 1 to 8."""
    contrast: int
    """Maximum difference of two pixels in a color channel, 0 to 255; 0 for an image of one color."""


def read_thumbnail(path: Path, size: tuple[int, int], notes: Counter[str] | None = None) -> Thumbnail:
    """Read an image file as a thumbnail.

    Args:
        path: The image file.
        size: (h, w) of the thumbnail.
        notes: As for `sais.io.images.read_image`.

    Raises:
        SaisError: As for `sais.io.images.read_image`.
    """
    with decoding.open_image(path) as image:
        try:
            if notes is not None and len(pages.page_positions(image, limit=2)) > 1:
                notes[SEVERAL_PAGES] += 1
            upright, orientation = pixels.upright_size(image), pixels.read_orientation(image)
            if image.format in ("JPEG", "MPO"):
                image.draft(None, (4 * size[1], 4 * size[0]))
            with decoding.decoding_limit(image, None):
                rgb = pixels.decode_page(image, path, 0, None, notes)
        except SaisError:
            raise
        except Exception as error:
            raise decoding.decoding_error(error, decoding.source_name(path), image) from error
    return make_thumbnail(rgb, size, upright, orientation)


def make_thumbnail(
    rgb: np.ndarray, size: tuple[int, int], upright: tuple[int, int] | None = None, orientation: int = 1
) -> Thumbnail:
    """Return the thumbnail of an image.

    Args:
        rgb: (H, W, 3) uint8, perhaps a reduced copy of the image.
        size: (h, w) of the thumbnail.
        upright: (H, W) of the image; None for that of `rgb`.
        orientation: EXIF orientation of the file.
    """
    flat = rgb.reshape(-1, 3)
    contrast = int((flat.max(0).astype(int) - flat.min(0)).max()) if len(flat) else 0
    small = Image.fromarray(rgb).convert("L").resize((size[1], size[0]), Image.Resampling.BOX)
    return Thumbnail(np.asarray(small), upright or (rgb.shape[0], rgb.shape[1]), orientation, contrast)
