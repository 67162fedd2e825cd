"""Images in: any file or array to uint8 RGB as a person sees it, and the one way it is placed on a canvas.

Numpy and Pillow only. What each kind of image becomes:

- EXIF orientation is applied, always.
- Gray is repeated over the three channels; palette, CMYK, YCbCr and the like are converted by Pillow.
- Alpha is composited over white. Merely dropping it shows whatever colors lie under the transparent parts, and black
  makes dark cut-outs vanish; white is what browsers, label tools and paper show behind a transparent image.
- 16 bits (Pillow's I;16 and I, uint16 arrays) are taken as the full range 0 .. 65535 and divided by 257. A 12-bit
  camera in a 16-bit file therefore comes out dark: stretch it before. 16-bit color PNG is reduced by Pillow itself.
- Floating-point files (Pillow's F) are scaled by the smallest of the ranges 1, 255, 65535 that holds their maximum.
- Of several frames or pages, the first.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from sais.errors import SaisError

LARGE_IMAGE_PIXELS = 2**30
"""A `max_pixels` for images that are predicted in tiles."""

_PILLOW_LIMIT = threading.RLock()

_STRIP = 2**24
"""Pixels handed over at once."""

_ORIENTATION_TAG = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what brings the image upright; 5 .. 8 swap height and width."""


def read_image(source: str | Path | BinaryIO, max_pixels: int | None = None) -> np.ndarray:
    """Read an image file as (H, W, 3) uint8 RGB contiguous, upright.

    Args:
        source: a path or an open binary file.
        max_pixels: number of pixels above which Pillow warns of a decompression bomb; it refuses twice as many. None:
            Pillow's own, 89 million.

    Raises:
        SaisError: missing, not an image, cut short or otherwise broken.
    """
    with _opened(source, max_pixels) as image:
        try:
            image.load()
            return _from_image(image)
        except Exception as error:  # decoders meet broken bytes with every kind of exception
            raise SaisError(
                f"{_name(source)}: broken image ({_one_line(error)}); restore the file or leave it out"
            ) from error


def read_size(path: str | Path) -> tuple[int, int]:
    """(H, W) of the upright image, from the file's header (a PNG is decoded: its EXIF may stand behind the pixels).

    Raises:
        SaisError: missing or not an image.
    """
    with _opened(path) as image:
        width, height = image.size
        return (width, height) if _orientation(image) >= 5 else (height, width)


def as_image(
    source: np.ndarray | str | Path | Image.Image | BinaryIO, max_pixels: int | None = None
) -> np.ndarray:
    """What the Python API accepts as an image, as (H, W, 3) uint8 RGB contiguous.

    Args:
        source: a path, an open binary file, a Pillow image, or an array (H, W), (H, W, 1), (H, W, 3) RGB or
            (H, W, 4) RGBA of uint8 or uint16.
        max_pixels: as for `read_image`.

    Raises:
        SaisError: anything else, with what to do about it.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        try:
            return _from_image(source)
        except Exception as error:
            raise SaisError(f"the Pillow image cannot be read ({_one_line(error)}); open a whole file") from error
    if isinstance(source, (str, Path)) or hasattr(source, "read"):
        return read_image(source, max_pixels)
    raise SaisError(
        f"cannot take a {type(source).__name__} as an image; "
        "give a path, a Pillow image or a numpy array (H, W, 3) of uint8 RGB"
    )


def to_array(image: Image.Image) -> np.ndarray:
    """An RGB image of Pillow's as (H, W, 3) uint8 of its own memory.

    Strip by strip where it is large: Pillow hands out its pixels as a copy of the whole, a second one for a moment,
    which for 10,000 x 10,000 pixels is 600 MB more than the array itself.
    """
    width, height = image.size
    array = np.empty((height, width, 3), np.uint8)
    high = max(1, _STRIP // max(width, 1))
    if high >= height:
        array[:] = np.asarray(image)
        return array
    for top in range(0, height, high):
        below = min(top + high, height)
        array[top:below] = np.asarray(image.crop((0, top, width, below)))
    return array


@contextlib.contextmanager
def _pillow_limit(max_pixels: int | None) -> Iterator[None]:
    """Set Pillow's limit, which is a variable of its module, for as long as one file is opened."""
    if max_pixels is None:
        yield
        return
    with _PILLOW_LIMIT:
        before = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = max_pixels
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _opened(source: str | Path | BinaryIO, max_pixels: int | None = None) -> Image.Image:
    name = _name(source)
    try:
        with _pillow_limit(max_pixels):
            return Image.open(source)
    except FileNotFoundError as error:
        raise SaisError(f"{name}: no such image; check the path") from error
    except IsADirectoryError as error:
        raise SaisError(f"{name}: a folder, not an image; name one file in it") from error
    except UnidentifiedImageError as error:
        raise SaisError(f"{name}: not an image Pillow can read; convert it to JPEG or PNG, or remove it") from error
    except Image.DecompressionBombError as error:
        raise SaisError(
            f"{name}: too many pixels ({_one_line(error)}); Save it in parts, or predict it in tiles."
        ) from error
    except Exception as error:  # a header broken in a way the decoder did not foresee, or no permission
        raise SaisError(f"{name}: cannot be opened ({_one_line(error)}); restore the file or leave it out") from error


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # broken EXIF is common, and no reason to lose the image
        return 1


def _from_image(image: Image.Image) -> np.ndarray:
    turn = _TURNS.get(_orientation(image))
    if image.mode.startswith("I") or image.mode == "F":
        array = np.asarray(image)
        gray = _floats_to_bytes(array) if image.mode == "F" else _words_to_bytes(np.clip(array, 0, 65535))
        image = Image.fromarray(gray)
    elif image.has_transparency_data or image.mode in ("RGBa", "La"):
        straight = image.convert("LA") if image.mode == "La" else image
        image = Image.fromarray(_over_white(np.asarray(straight.convert("RGBA"))))
    if turn is not None:
        image = image.transpose(turn)
    if image.mode != "RGB":  # converting what is RGB already would copy it: 400 MB for 10,000 x 10,000
        image = image.convert("RGB")
    return to_array(image)


def _from_array(array: np.ndarray) -> np.ndarray:
    if array.dtype not in (np.uint8, np.uint16):
        raise SaisError(
            f"cannot take an array of {array.dtype} as an image; give uint8 0 .. 255, for instance "
            "(x * 255).round().astype('uint8') if it is 0 .. 1"
        )
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)) or not array.size:
        turned = ", for instance x.transpose(1, 2, 0)" if array.ndim == 3 and array.shape[0] in (1, 3) else ""
        raise SaisError(f"cannot take an array of shape {array.shape} as an image; give (H, W) or (H, W, 3){turned}")
    if array.dtype == np.uint16:
        array = _words_to_bytes(array)
    if array.ndim == 2:
        array = array[:, :, None]
    if array.shape[2] == 1:
        array = np.repeat(array, 3, axis=2)
    if array.shape[2] == 4:
        return _over_white(array)
    return np.ascontiguousarray(array)


def _words_to_bytes(array: np.ndarray) -> np.ndarray:
    """0 .. 65535 to 0 .. 255, rounded: 65535 = 255 * 257."""
    return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _floats_to_bytes(array: np.ndarray) -> np.ndarray:
    array = np.nan_to_num(array.astype(np.float64), nan=0.0, posinf=65535.0, neginf=0.0)
    greatest = float(array.max(initial=0.0))
    full = next((full for full in (1.0, 255.0, 65535.0) if greatest <= full), greatest)
    return np.rint(np.clip(array, 0, full) * (255 / full)).astype(np.uint8)


def _over_white(rgba: np.ndarray) -> np.ndarray:
    """(H, W, 4) uint8 with straight alpha, composited over white: (H, W, 3) uint8."""
    alpha = rgba[:, :, 3:].astype(np.uint16)
    return ((rgba[:, :, :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def _name(source: object) -> str:
    return str(source) if isinstance(source, (str, Path)) else str(getattr(source, "name", "the open file"))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
