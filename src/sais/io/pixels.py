"""Pixels of every mode, depth and type to uint8 RGB. Numpy and Pillow only.

- **Alpha** is composited over white, as browsers and annotation tools do. Dropping alpha would show the colors hidden
  under transparent pixels.
- **Gray** is repeated over three channels; 1-bit, palette, CMYK, YCbCr, LAB and similar modes are converted by Pillow.
- **16 bits** (gray and color files, uint16 arrays): `white_level` becomes 255 and higher values are clipped. If it is
  None, the file decides: its stated depth (TIFF with 9 to 15 bits; formats whose decoder scales to 16), or else the
  smallest of 8, 10, 12, 14 and 16 bits that contains the maximum. A 12-bit camera image in a 16-bit file is therefore
  divided by 4095, and so is a darker image of the same camera unless all its pixels are below a quarter of the range.
- **Floating point** (Pillow's mode F, float arrays): the same with 1, 255, 65535 and the maximum itself. NaN and values
  below 0 become 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from sais.errors import InputError
from sais.io.decoding import decoding_error, has_deep_color, open_image, read_low_bytes

DEPTHS = (8, 10, 12, 14, 16)
"""Bits of the sensors and converters whose values are stored in 16."""
_HIGH_BYTES_SUFFICE = 2 ** DEPTHS[-2] // 256
"""Maximum of the high bytes from which the depth is 16 bits."""
_BITS_PER_SAMPLE = 258
_STRIP_PIXELS = 2**24
"""Number of pixels copied at once."""
_CONVERTED_SAMPLES = 2**22
"""Number of samples converted at once."""

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


def decode_page(
    image: Image.Image,
    source: str | Path | BinaryIO,
    position: int = 0,
    white_level: int | None = None,
    notes: Counter[str] | None = None,
) -> np.ndarray:
    """Decode a page of an opened file to an array (H, W, 3) uint8.

    Args:
        image: The opened file.
        source: The same file, which is opened again for color with 16 bits.
        position: Position of the page, as `sais.io.pages.page_positions` lists it.
        white_level: As for `sais.io.images.read_image`.
        notes: As for `sais.io.images.read_image`.
    """
    if position:
        image.seek(position)
    deep = has_deep_color(image)
    image.load()
    low_bytes = None
    if deep and _needs_low_bytes(image, white_level):
        low_bytes = read_low_bytes(source, position)
    return upright_array(image, white_level, notes, low_bytes)


def upright_array(
    image: Image.Image,
    white_level: int | None,
    notes: Counter[str] | None,
    low_bytes: Image.Image | None = None,
) -> np.ndarray:
    """Convert a Pillow image (H, W) of any mode to an array (H, W, 3) uint8 RGB, turned as its EXIF data states.

    Args:
        image: The image.
        white_level: As for `sais.io.images.read_image`.
        notes: As for `sais.io.images.read_image`.
        low_bytes: As for `rgb_from_pillow`.
    """
    image.load()  # turns a TIFF upright and removes its orientation, which must not be applied again
    transpose = _TRANSPOSES.get(read_orientation(image))
    if image.mode != "RGB" or low_bytes is not None or image.has_transparency_data:
        image = rgb_from_pillow(image, white_level, notes, low_bytes)
    if transpose is not None:
        image = image.transpose(transpose)
    return to_array(image)


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return the size (H, W) of an image after it is turned as its EXIF data states."""
    width, height = image.size
    turned = image.format != "TIFF" and read_orientation(image) >= 5  # Pillow states the upright size of a TIFF
    return (width, height) if turned else (height, width)


def rgb_from_pillow(
    image: Image.Image,
    white_level: int | None = None,
    notes: Counter[str] | None = None,
    low_bytes: Image.Image | None = None,
) -> Image.Image:
    """Convert a decoded Pillow image (H, W) of any mode to mode RGB; an RGB image is returned without a copy.

    Args:
        image: The decoded image.
        white_level: 16-bit value that becomes 255; None: see the module.
        notes: Counter that receives the conversion.
        low_bytes: Low bytes of the samples (H, W) of a color image with 16 bits.
    """
    notes = Counter() if notes is None else notes
    if image.mode.startswith("I") or image.mode == "F":
        samples = np.asarray(image)
        if image.mode == "F":
            return Image.fromarray(float_to_uint8(samples, notes)).convert("RGB")
        level = white_level or _stated_white_level(image)
        return Image.fromarray(deep_to_uint8(samples, level, notes)).convert("RGB")
    if low_bytes is not None:
        image = _deep_color(image, low_bytes, white_level, notes)
    if image.has_transparency_data or image.mode in ("RGBa", "La"):
        unassociated = image.convert("LA") if image.mode == "La" else image
        return Image.fromarray(_composite_over_white(np.asarray(unassociated.convert("RGBA")), notes))
    if image.mode == "RGB":
        return image
    names = {"L": "grayscale", "1": "with 1 bit", "P": "with a palette"}
    notes[names.get(image.mode, image.mode)] += 1
    return image.convert("RGB")


def rgb_from_array(array: np.ndarray, white_level: int | None = None, notes: Counter[str] | None = None) -> np.ndarray:
    """Convert an array to (H, W, 3) uint8 RGB, contiguous.

    Args:
        array: (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA of uint8, uint16, bool (False black, True white), or
            floating point from 0 to 1 or 0 to 255.
        white_level: uint16 value that becomes 255; None: see the module.
        notes: Counter that receives the conversion.

    Raises:
        InputError: The array has another shape or type, or negative values.
    """
    notes = Counter() if notes is None else notes
    _check_shape(array)
    if array.dtype == bool:
        array = array.astype(np.uint8) * np.uint8(255)
    elif array.dtype == np.uint16:
        array = deep_to_uint8(array, white_level, notes)
    elif array.dtype.kind == "f":
        low = float(np.nanmin(array, initial=0))
        if low < -1e-3:  # normalized by a mean and standard deviation; rounding alone gives less
            raise InputError(f"image: float array with values from {low:.3g}. Give values in 0 to 1 or in 0 to 255.")
        array = float_to_uint8(array, notes)
    elif array.dtype != np.uint8:
        raise InputError(
            f"image: unsupported array dtype {array.dtype}. Convert it to uint8 in 0 to 255, for example with "
            "x.clip(0, 255).astype('uint8')."
        )
    if array.ndim == 2:
        array = array[:, :, None]
    if array.shape[2] == 1:
        notes["grayscale"] += 1
        array = np.repeat(array, 3, axis=2)
    if array.shape[2] == 4:
        array = _composite_over_white(array, notes)
    return np.ascontiguousarray(array)


def array_from_tensor(tensor: object) -> np.ndarray:
    """Convert a torch tensor (H, W), (1, H, W), (3, H, W) or (4, H, W) to an array (H, W) or (H, W, C).

    Raises:
        InputError: The tensor has another shape.
    """
    array: np.ndarray = tensor.detach().cpu().numpy()  # type: ignore[attr-defined]
    if array.ndim == 4:
        raise InputError(f"image: a batch of tensors {array.shape}. Give one image (3, H, W), or a list of them.")
    if array.ndim == 3 and array.shape[0] in (1, 3, 4):
        return array.transpose(1, 2, 0)
    if array.ndim == 2:
        return array
    raise InputError(f"image: unsupported tensor shape {array.shape}. Give (3, H, W), or an array (H, W, 3).")


def deep_to_uint8(samples: np.ndarray, white_level: int | None, notes: Counter[str]) -> np.ndarray:
    """Scale integer samples of more than 8 bits, of any shape, to uint8; `white_level` None: by the maximum."""
    level = white_level or _smallest_white_level(samples)
    notes[f"16-bit (0 to {level} scaled to 0 to 255)"] += 1
    scaled = np.empty(samples.shape, np.uint8)
    for rows in _strips(samples):
        scaled[rows] = _scale(samples[rows], level)
    return scaled


def _scale(samples: np.ndarray, level: int) -> np.ndarray:
    """Scale integer samples of any shape from 0 to `level` to uint8."""
    if level >= 2**16:  # 32-bit integers
        return np.rint(np.clip(samples, 0, level) * (255 / level)).astype(np.uint8)
    table = np.minimum((np.arange(2**16) * 255 + level // 2) // level, 255).astype(np.uint8)
    return table[np.clip(samples, 0, 2**16 - 1)]


def file_white_level(path: Path) -> int | None:
    """Return the white level that an image file with more than 8 bits has by itself; None for other files.

    Raises:
        SaisError: As for `sais.io.images.read_image`.
    """
    with open_image(path) as image:
        if not image.mode.startswith("I") and not has_deep_color(image):
            return None
        try:
            if has_deep_color(image):
                image.load()
                return _joined_white_level(np.asarray(image), np.asarray(read_low_bytes(path, 0)))
            return _stated_white_level(image) or _smallest_white_level(np.asarray(image))
        except Exception as error:
            raise decoding_error(error, str(path)) from error


def array_white_level(array: np.ndarray) -> int | None:
    """Return the white level that an array of any shape has by itself; None if it is not uint16."""
    return _smallest_white_level(array) if array.dtype == np.uint16 else None


def float_to_uint8(samples: np.ndarray, notes: Counter[str]) -> np.ndarray:
    """Scale floating-point samples of any shape to uint8, by the smallest of 1, 255, 65535 and their maximum."""
    maximum = max((float(_finite(samples[rows]).max(initial=0.0)) for rows in _strips(samples)), default=0.0)
    level = next((level for level in (1.0, 255.0, 65535.0) if maximum <= level), maximum)
    notes[f"floating-point (0 to {level:g} scaled to 0 to 255)"] += 1
    scaled = np.empty(samples.shape, np.uint8)
    for rows in _strips(samples):
        scaled[rows] = np.rint(np.clip(_finite(samples[rows]), 0, level) * (255 / level)).astype(np.uint8)
    return scaled


def _finite(samples: np.ndarray) -> np.ndarray:
    """Return samples of any shape as float64 without NaN and infinite values."""
    return np.nan_to_num(samples.astype(np.float64), nan=0.0, posinf=65535.0, neginf=0.0)


def _strips(samples: np.ndarray) -> Iterator[slice]:
    """Yield slices of the first axis of an array of any shape that are converted one after another.

    At once, a conversion would take up to 40 bytes of memory for each pixel.
    """
    step = max(1, _CONVERTED_SAMPLES * len(samples) // max(1, samples.size))
    for first in range(0, len(samples), step):
        yield slice(first, first + step)


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


def _needs_low_bytes(image: Image.Image, white_level: int | None) -> bool:
    """Return whether the decoded high bytes (H, W) of a color image with 16 bits do not suffice."""
    if white_level is not None:
        return True
    extrema = image.getextrema()[:3]
    return max(int(high) for _, high in extrema) < _HIGH_BYTES_SUFFICE  # type: ignore[misc]


def _deep_color(high: Image.Image, low: Image.Image, white_level: int | None, notes: Counter[str]) -> Image.Image:
    """Join the high and low bytes of samples and scale them; alpha keeps its high byte. `low` is closed."""
    channels, low_bytes = np.array(high), np.array(low)
    low.close()  # frees 4 bytes for each pixel
    level = white_level or _joined_white_level(channels, low_bytes)
    notes[f"16-bit (0 to {level} scaled to 0 to 255)"] += 1
    for rows in _strips(channels):
        channels[rows, :, :3] = _scale(_join_bytes(channels[rows], low_bytes[rows]), level)
    return Image.fromarray(channels)


def _join_bytes(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """Return samples (H, W, 3) uint16 from their high and low bytes (H, W, 3 or 4), without alpha."""
    return high[:, :, :3].astype(np.uint16) * np.uint16(256) + low[:, :, :3]


def _joined_white_level(high: np.ndarray, low: np.ndarray) -> int:
    """Return the white level of samples given by their high and low bytes (H, W, 3 or 4)."""
    return max(_smallest_white_level(_join_bytes(high[rows], low[rows])) for rows in _strips(high))


def _smallest_white_level(samples: np.ndarray) -> int:
    """Return the highest value of the smallest depth that contains the samples, which have any shape."""
    maximum = max(int(samples.max(initial=0)), 0)
    return next((2**bits - 1 for bits in DEPTHS if maximum < 2**bits), maximum)


def read_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of an image, 1 to 8; 1 if there is none."""
    try:
        orientation = int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # corrupt EXIF data is common and does not affect the pixels
        return 1
    return orientation if orientation in range(1, 9) else 1


def _stated_white_level(image: Image.Image) -> int | None:
    """Return the white level of a gray image with more than 8 bits if its file states it, or None."""
    if image.format == "PPM":  # Pillow scales to 16 bits
        return 2**16 - 1
    tags = getattr(image, "tag_v2", None)
    bits = tags.get(_BITS_PER_SAMPLE) if tags is not None else None
    depth = bits[0] if isinstance(bits, tuple) and bits else bits
    return 2**depth - 1 if isinstance(depth, int) and 8 < depth < 16 else None


def _check_shape(array: np.ndarray) -> None:
    if array.ndim in (2, 3) and (array.ndim == 2 or array.shape[2] in (1, 3, 4)) and array.size:
        return
    hint = ", for example with x.transpose(1, 2, 0)" if array.ndim == 3 and array.shape[0] in (1, 3) else ""
    if array.ndim == 4:
        hint = "; give the images of a batch as a list"
    raise InputError(f"image: unsupported array shape {array.shape}. Convert it to (H, W) or (H, W, 3){hint}.")


def _composite_over_white(rgba: np.ndarray, notes: Counter[str]) -> np.ndarray:
    """Composite (H, W, 4) uint8 with unassociated alpha over white: (H, W, 3) uint8."""
    if (rgba[:, :, 3] == 255).all():
        return rgba[:, :, :3].copy()
    notes["with transparency (composited over white)"] += 1
    rgb = np.empty((*rgba.shape[:2], 3), np.uint8)
    for rows in _strips(rgba):
        alpha = rgba[rows, :, 3:].astype(np.uint16)
        rgb[rows] = (rgba[rows, :, :3] * alpha + 255 * (255 - alpha) + 127) // 255
    return rgb
