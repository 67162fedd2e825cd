"""Image reading: any file or array to uint8 RGB, upright. Numpy and Pillow only.

`sais.io.decoding` has the formats, `sais.io.pixels` the rules for gray, alpha, 16-bit and floating-point data. EXIF
orientation is always applied. Of a file with several pages or frames, one is read: by default the first.
"""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from sais import input_limits
from sais.errors import InputError, SaisError

LARGE_IMAGE_PIXELS = input_limits.LARGE_IMAGE_PIXELS
"""Value of `max_pixels` for images that are predicted in tiles."""
SEVERAL_PAGES = "with several pages or frames, of which the first is read"
"""Note of `read_image` on a file."""


def read_image(
    source: str | Path | BinaryIO,
    max_pixels: int | None = None,
    *,
    page: int | None = None,
    white_level: int | None = None,
    notes: Counter[str] | None = None,
) -> np.ndarray:
    """Read an image file.

    Args:
        source: Path or open binary file.
        max_pixels: Number of pixels above which Pillow warns of a decompression bomb; it rejects twice that number. The
            limit applies to this call only. None: Pillow's own limit, 89 million.
        page: Position of the page or frame, from 0, as `count_pages` counts; None for the first.
        white_level: 16-bit value that becomes 255; None: see `sais.io.pixels`.
        notes: Counter that receives how the image was converted, such as "grayscale".

    Returns:
        (H, W, 3) uint8 RGB, contiguous and upright.

    Raises:
        InputError: The file is missing, not an image, truncated or otherwise corrupt.
        MissingDependencyError: A HEIC file without the extra `heif`.
        ResourceError: The image has too many pixels.
    """
    from sais.io import decoding, pages, pixels

    source = decoding.seekable(source)
    with decoding.open_image(source, max_pixels) as image:
        try:
            if page is None and notes is not None and len(pages.page_positions(image, limit=2)) > 1:
                notes[SEVERAL_PAGES] += 1
            position = 0 if not page else pages.find_page(image, page)
            with decoding.decoding_limit(image, max_pixels):
                return pixels.decode_page(image, source, position, white_level, notes)
        except SaisError:
            raise
        except Exception as error:
            raise decoding.decoding_error(error, decoding.source_name(source), image) from error


def read_size(path: str | Path) -> tuple[int, int]:
    """Read the size (H, W) of an upright image from the file's header.

    A PNG file is decoded, because its EXIF data may follow the pixels.

    Raises:
        InputError: The file is missing or not an image.
        MissingDependencyError: A HEIC file without the extra `heif`.
        ResourceError: The image has too many pixels.
    """
    from sais.io import decoding, pixels

    with decoding.open_image(path) as image:
        return pixels.upright_size(image)


def count_pages(path: str | Path) -> int:
    """Count the pages or frames of an image file; reduced copies and masks in a TIFF are not pages.

    Raises:
        SaisError: As for `read_size`.
    """
    from sais.io.decoding import open_image
    from sais.io.pages import page_positions

    with open_image(path, LARGE_IMAGE_PIXELS) as image:  # no pixels are decoded
        return len(page_positions(image))


def as_image(
    source: object,
    max_pixels: int | None = None,
    *,
    white_level: int | None = None,
    notes: Counter[str] | None = None,
) -> np.ndarray:
    """Convert anything that the Python API accepts as an image.

    Args:
        source: Path, http or https address, content of a file as bytes, open binary file, Pillow image, array (H, W),
            (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA of uint8, uint16, bool or floating point, or torch tensor
            (3, H, W) of the same types.
        max_pixels: As for `read_image`.
        white_level: As for `read_image`.
        notes: As for `read_image`.

    Returns:
        (H, W, 3) uint8 RGB, contiguous.

    Raises:
        InputError: The source is of another type, shape or dtype, or cannot be read.
        MissingDependencyError: A HEIC file without the extra `heif`.
        ResourceError: The image has too many pixels.
    """
    if isinstance(source, np.ndarray):
        if source.dtype == np.uint8 and source.ndim == 3 and source.shape[2] == 3 and source.size:
            return np.ascontiguousarray(source)
        from sais.io.pixels import rgb_from_array

        return rgb_from_array(source, white_level, notes)
    if isinstance(source, Image.Image):
        from sais.io.decoding import decoding_error
        from sais.io.pixels import upright_array

        try:
            return upright_array(source, white_level, notes)
        except Exception as error:
            raise decoding_error(error, "Pillow image") from error
    if isinstance(source, str) and source.lower().startswith(("http://", "https://")):
        from sais.io.download import download_image

        address, source = source, io.BytesIO(download_image(source))
        source.name = address  # for error messages
    if isinstance(source, (bytes, bytearray, memoryview)):
        source = io.BytesIO(source)
    if isinstance(source, io.TextIOBase):
        raise InputError("image: a file opened as text. Open it with mode 'rb'.")
    if isinstance(source, (str, Path)) or hasattr(source, "read"):
        return read_image(source, max_pixels, white_level=white_level, notes=notes)  # type: ignore[arg-type]
    if type(source).__module__.partition(".")[0] == "torch" and hasattr(source, "detach"):
        from sais.io.pixels import array_from_tensor, rgb_from_array

        return rgb_from_array(array_from_tensor(source), white_level, notes)
    from sais.io.decoding import unsupported_source

    raise unsupported_source(source)
