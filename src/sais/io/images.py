"""Image reading: any file or array to uint8 RGB, upright. Numpy and Pillow only.

Conversions:

- EXIF orientation is always applied.
- Gray is repeated over three channels; palette, CMYK, YCbCr and similar modes are converted by Pillow.
- Alpha is composited over white, as browsers and annotation tools do. Dropping alpha would show the colors hidden under
  transparent pixels.
- 16-bit data (Pillow's modes I;16 and I, uint16 arrays) has the full range 0 to 65535 and is divided by 257. A 12-bit
  camera image in a 16-bit file is therefore dark: scale it first. Pillow itself reduces 16-bit color PNG.
- Floating-point files (mode F) are scaled by the smallest of 1, 255 and 65535 that is not below their maximum.
- Only the first frame or page is read.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from sais.errors import InputError, ResourceError

LARGE_IMAGE_PIXELS = 2**30
"""Value of `max_pixels` for images that are predicted in tiles."""
_OPEN_LOCK = threading.RLock()
"""Held while a file is opened, because Pillow's pixel limit is a variable of its module."""
_STRIP_PIXELS = 2**24
"""Number of pixels copied at once."""

_ORIENTATION_TAG = 0x0112
_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> transpose that turns the image upright; 5 to 8 swap height and width."""


def read_image(source: str | Path | BinaryIO, max_pixels: int | None = None) -> np.ndarray:
    """Read an image file.

    Args:
        source: Path or open binary file.
        max_pixels: Number of pixels above which Pillow warns of a decompression bomb; it rejects twice that number. The
            limit applies to this call only. None: Pillow's own limit, 89 million.

    Returns:
        (H, W, 3) uint8 RGB, contiguous and upright.

    Raises:
        InputError: The file is missing, not an image, truncated or otherwise corrupt.
        ResourceError: The image has too many pixels.
    """
    with _open_image(source, max_pixels) as image:
        try:
            image.load()
            return _from_pillow(image)
        except Exception as error:  # decoders raise exceptions of every class on corrupt data
            raise InputError(
                f"{_name(source)}: corrupt image ({_one_line(error)}). Restore the file or remove it."
            ) from error


def read_size(path: str | Path) -> tuple[int, int]:
    """Read the size (H, W) of an upright image from the file's header.

    A PNG file is decoded, because its EXIF data may follow the pixels.

    Raises:
        InputError: The file is missing or not an image.
        ResourceError: The image has too many pixels.
    """
    with _open_image(path) as image:
        width, height = image.size
        return (width, height) if _orientation(image) >= 5 else (height, width)


def as_image(source: np.ndarray | str | Path | Image.Image | BinaryIO, max_pixels: int | None = None) -> np.ndarray:
    """Convert anything that the Python API accepts as an image.

    Args:
        source: Path, open binary file, Pillow image, or array (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA of
            uint8 or uint16.
        max_pixels: As for `read_image`.

    Returns:
        (H, W, 3) uint8 RGB, contiguous.

    Raises:
        InputError: The source is of another type, shape or dtype, or cannot be read.
        ResourceError: The image has too many pixels.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        try:
            return _from_pillow(source)
        except Exception as error:
            raise InputError(f"Pillow image: cannot be read ({_one_line(error)}). Open a valid file.") from error
    if isinstance(source, (str, Path)) or hasattr(source, "read"):
        return read_image(source, max_pixels)
    raise InputError(
        f"image: unsupported type {type(source).__name__}. "
        "Use a path, a Pillow image or a numpy array (H, W, 3) of uint8 RGB."
    )


def to_array(image: Image.Image) -> np.ndarray:
    """Copy an RGB image of Pillow to an array (H, W, 3) uint8 that owns its memory.

    Large images are copied in strips: Pillow exports all pixels as one temporary copy, which for 10,000 x 10,000 pixels
    would take 600 MB in addition to the array.
    """
    width, height = image.size
    array = np.empty((height, width, 3), np.uint8)
    strip_height = max(1, _STRIP_PIXELS // max(width, 1))
    if strip_height >= height:
        array[:] = np.asarray(image)
        return array
    for top in range(0, height, strip_height):
        bottom = min(top + strip_height, height)
        array[top:bottom] = np.asarray(image.crop((0, top, width, bottom)))
    return array


@contextlib.contextmanager
def _pixel_limit(max_pixels: int | None) -> Iterator[None]:
    """Set Pillow's pixel limit while one file is opened; threads of this module open files one at a time."""
    with _OPEN_LOCK:
        before = Image.MAX_IMAGE_PIXELS
        if max_pixels is not None:
            Image.MAX_IMAGE_PIXELS = max_pixels
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _open_image(source: str | Path | BinaryIO, max_pixels: int | None = None) -> Image.Image:
    name = _name(source)
    try:
        with _pixel_limit(max_pixels):
            return Image.open(source)
    except FileNotFoundError as error:
        raise InputError(f"{name}: no such image. Check the path.") from error
    except IsADirectoryError as error:
        raise InputError(f"{name}: a folder, not an image. Name an image file in it.") from error
    except UnidentifiedImageError as error:
        raise InputError(
            f"{name}: not an image that Pillow can read. Convert it to JPEG or PNG, or remove it."
        ) from error
    except Image.DecompressionBombError as error:
        raise ResourceError(
            f"{name}: too many pixels ({_one_line(error)}). Use sliced inference, or save the image in parts."
        ) from error
    except Exception as error:  # a corrupt header that the decoder does not handle, or missing permission
        raise InputError(f"{name}: cannot be opened ({_one_line(error)}). Restore the file or remove it.") from error


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # corrupt EXIF data is common and does not affect the pixels
        return 1


def _from_pillow(image: Image.Image) -> np.ndarray:
    transpose = _TRANSPOSES.get(_orientation(image))
    if image.mode.startswith("I") or image.mode == "F":
        array = np.asarray(image)
        gray = _float_to_uint8(array) if image.mode == "F" else _uint16_to_uint8(np.clip(array, 0, 65535))
        image = Image.fromarray(gray)
    elif image.has_transparency_data or image.mode in ("RGBa", "La"):
        unassociated = image.convert("LA") if image.mode == "La" else image
        image = Image.fromarray(_composite_over_white(np.asarray(unassociated.convert("RGBA"))))
    if transpose is not None:
        image = image.transpose(transpose)
    if image.mode != "RGB":  # converting an RGB image would copy it: 400 MB for 10,000 x 10,000 pixels
        image = image.convert("RGB")
    return to_array(image)


def _from_array(array: np.ndarray) -> np.ndarray:
    if array.dtype not in (np.uint8, np.uint16):
        raise InputError(
            f"image: unsupported array dtype {array.dtype}. Convert it to uint8 in 0 to 255, for example with "
            "(x * 255).round().astype('uint8') if it is in 0 to 1."
        )
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)) or not array.size:
        hint = ", for example with x.transpose(1, 2, 0)" if array.ndim == 3 and array.shape[0] in (1, 3) else ""
        raise InputError(f"image: unsupported array shape {array.shape}. Convert it to (H, W) or (H, W, 3){hint}.")
    if array.dtype == np.uint16:
        array = _uint16_to_uint8(array)
    if array.ndim == 2:
        array = array[:, :, None]
    if array.shape[2] == 1:
        array = np.repeat(array, 3, axis=2)
    if array.shape[2] == 4:
        return _composite_over_white(array)
    return np.ascontiguousarray(array)


def _uint16_to_uint8(array: np.ndarray) -> np.ndarray:
    """Map 0 to 65535 to 0 to 255, rounded: 65535 = 255 * 257."""
    return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _float_to_uint8(array: np.ndarray) -> np.ndarray:
    array = np.nan_to_num(array.astype(np.float64), nan=0.0, posinf=65535.0, neginf=0.0)
    maximum = float(array.max(initial=0.0))
    white = next((white for white in (1.0, 255.0, 65535.0) if maximum <= white), maximum)
    return np.rint(np.clip(array, 0, white) * (255 / white)).astype(np.uint8)


def _composite_over_white(rgba: np.ndarray) -> np.ndarray:
    """Composite (H, W, 4) uint8 with unassociated alpha over white: (H, W, 3) uint8."""
    alpha = rgba[:, :, 3:].astype(np.uint16)
    return ((rgba[:, :, :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def _name(source: object) -> str:
    return str(source) if isinstance(source, (str, Path)) else str(getattr(source, "name", "the open file"))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
