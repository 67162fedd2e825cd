"""The frame of annotations of images that EXIF turns: upright, as images are read, or as the pixels are stored.

Most tools label the upright image. Those that ignore EXIF write the stored width and height, and boxes in that frame.
The annotated size distinguishes the two for images that are turned by a quarter and not square.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sais.errors import SaisError

_QUARTER_TURNS = (5, 6, 7, 8)
"""Orientations that exchange width and height."""


def file_orientation(path: Path) -> int:
    """Return the EXIF orientation of an image file, 1 to 8; 1 if there is none, or the file cannot be opened."""
    from sais.io.decoding import open_image
    from sais.io.pixels import read_orientation

    try:
        with open_image(path) as image:
            return read_orientation(image)
    except SaisError:
        return 1


def in_stored_frame(upright: tuple[int, int], annotated: tuple[int, int], path: Path) -> bool:
    """Return whether an annotated size (H, W) is that of the pixels as they are stored, and not of the upright image.

    Args:
        upright: (H, W) of the upright image.
        annotated: (H, W) in the annotations.
        path: The image file.
    """
    if upright[0] == upright[1] or tuple(annotated) != (upright[1], upright[0]):
        return False
    return file_orientation(path) in _QUARTER_TURNS


def to_annotated_frame(image: np.ndarray, path: Path, size: tuple[int, int]) -> np.ndarray:
    """Return an upright image (H, W, 3) in the frame of its annotations: turned back if they are of the stored frame.

    Args:
        image: (H, W, 3) upright.
        path: The image file.
        size: (H, W) in the annotations.
    """
    height, width = image.shape[:2]
    if (height, width) == tuple(size) or not in_stored_frame((height, width), size, path):
        return image
    orientation = file_orientation(path)
    if orientation in (6, 8):
        return np.ascontiguousarray(np.rot90(image, 1 if orientation == 6 else -1))
    transposed = image.swapaxes(0, 1)
    return np.ascontiguousarray(transposed if orientation == 5 else np.rot90(transposed, 2))
