"""Pictures in: any file or array to uint8 RGB as a person sees it, and the one way it is placed on a canvas.

Numpy and Pillow only. What each kind of picture becomes:

- EXIF orientation is applied, always.
- Grey is repeated over the three channels; palette, CMYK, YCbCr and the like are converted by Pillow.
- Alpha is composited over white. Merely dropping it shows whatever colours lie under the transparent parts, and black
  makes dark cut-outs vanish; white is what browsers, label tools and paper show behind a transparent picture.
- 16 bits (Pillow's I;16 and I, uint16 arrays) are taken as the full range 0 .. 65535 and divided by 257. A 12-bit
  camera in a 16-bit file therefore comes out dark: stretch it before. 16-bit colour PNG is reduced by Pillow itself.
- Floating-point files (Pillow's F) are scaled by the smallest of the ranges 1, 255, 65535 that holds their maximum.
- Of several frames or pages, the first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from sais.structures import Placement, SaisError

PADDING = (124, 116, 104)
"""What fills the canvas beside the picture: about the ImageNet mean, so near zero once normalised."""

CANVAS_MULTIPLE = 32
"""A canvas side is a multiple of this many pixels, the stride of C5."""

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
"""EXIF orientation -> what brings the picture upright; 5 .. 8 swap height and width."""


def read_picture(source: str | Path | BinaryIO) -> np.ndarray:
    """The picture in a file, (H, W, 3) uint8 RGB contiguous, upright. `source` is a path or an open binary file.

    Raises:
        SaisError: missing, not a picture, cut short or otherwise broken.
    """
    with _opened(source) as image:
        try:
            image.load()
            return _from_image(image)
        except Exception as error:  # decoders meet broken bytes with every kind of exception
            raise SaisError(
                f"{_name(source)}: broken picture ({_one_line(error)}); restore the file or leave it out"
            ) from error


def read_size(path: str | Path) -> tuple[int, int]:
    """(H, W) of the upright picture, from the file's header (a PNG is decoded: its EXIF may stand behind the pixels).

    Raises:
        SaisError: missing or not a picture.
    """
    with _opened(path) as image:
        width, height = image.size
        return (width, height) if _orientation(image) >= 5 else (height, width)


def as_picture(source: np.ndarray | str | Path | Image.Image | BinaryIO) -> np.ndarray:
    """What the Python API accepts as a picture, as (H, W, 3) uint8 RGB contiguous.

    Args:
        source: a path, an open binary file, a Pillow image, or an array (H, W), (H, W, 1), (H, W, 3) RGB or
            (H, W, 4) RGBA of uint8 or uint16.

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
        return read_picture(source)
    raise SaisError(
        f"cannot take a {type(source).__name__} as a picture; "
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


def place(picture_size: tuple[int, int], mode: Literal["fixed", "keep_ratio"], size: tuple[int, int]) -> Placement:
    """Where a picture of `picture_size` (H, W) goes on the canvas.

    Args:
        picture_size: (H, W) pixels.
        mode: fixed stretches to `size`; keep_ratio scales until the short side is size[0] or the long side size[1],
            and pads right and below to a multiple of 32.
        size: fixed: (height, width) of the canvas; keep_ratio: (short side, greatest long side).

    Raises:
        SaisError: a fixed size that is not of positive multiples of 32, or an unknown mode.
    """
    height, width = picture_size
    if height < 1 or width < 1:
        raise SaisError(f"a picture of {height} x {width} pixels has nothing to place; give one of at least 1 x 1")
    if min(size) < 1:
        raise SaisError(f"input size {size[0]} {size[1]}: both must be positive")
    if mode == "fixed":
        if size[0] % CANVAS_MULTIPLE or size[1] % CANVAS_MULTIPLE:
            near = " ".join(str(max(1, round(side / CANVAS_MULTIPLE)) * CANVAS_MULTIPLE) for side in size)
            raise SaisError(f"input size {size[0]} {size[1]}: both must be multiples of 32, for instance {near}")
        return Placement((height, width), (size[0], size[1]), (size[0] / height, size[1] / width))
    if mode != "keep_ratio":
        raise SaisError(f"input mode {mode!r} is unknown; known are 'fixed', 'keep_ratio'")
    factor = min(size[0] / min(height, width), size[1] / max(height, width))
    resized = max(1, round(height * factor)), max(1, round(width * factor))
    canvas = _rounded_up(resized[0]), _rounded_up(resized[1])
    return Placement((height, width), canvas, (resized[0] / height, resized[1] / width))


def fit(picture: np.ndarray, placement: Placement) -> np.ndarray:
    """The canvas: the picture resized (bilinear, antialiased) to its place at the top left, PADDING elsewhere.

    Args:
        picture: (H, W, 3) uint8, H and W as `placement.picture_size` has them.
        placement: from `place`.

    Returns:
        (height, width, 3) uint8 of its own memory.
    """
    if picture.shape[:2] != placement.picture_size:
        raise ValueError(f"picture of {picture.shape[:2]}, placement for {placement.picture_size}")
    # place() made scale = resized / size, so the product is the whole number again but for the last bit.
    height = round(placement.picture_size[0] * placement.scale[0])
    width = round(placement.picture_size[1] * placement.scale[1])
    resized = picture
    if (height, width) != picture.shape[:2]:
        resized = np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR))
    if (height, width) == placement.canvas_size:
        return np.array(resized, order="C")
    canvas = np.empty((*placement.canvas_size, 3), np.uint8)
    canvas[:] = PADDING
    height, width = min(height, canvas.shape[0]), min(width, canvas.shape[1])
    canvas[:height, :width] = resized[:height, :width]
    return canvas


def canvases(
    pictures: Sequence[np.ndarray], mode: Literal["fixed", "keep_ratio"], size: tuple[int, int]
) -> Iterator[tuple[list[int], list[Placement], np.ndarray]]:
    """Pictures fitted to their canvases, those with canvases alike together: one pass of a network each.

    Yields:
        Which of the pictures (their places in the list), where they lie, and the canvases (B, height, width, 3) uint8.
    """
    placements = [place((p.shape[0], p.shape[1]), mode, size) for p in pictures]
    for canvas in dict.fromkeys(p.canvas_size for p in placements):
        group = [i for i, p in enumerate(placements) if p.canvas_size == canvas]
        yield group, [placements[i] for i in group], np.stack([fit(pictures[i], placements[i]) for i in group])


def _rounded_up(side: int) -> int:
    return -(-side // CANVAS_MULTIPLE) * CANVAS_MULTIPLE


def _opened(source: str | Path | BinaryIO) -> Image.Image:
    name = _name(source)
    try:
        return Image.open(source)
    except FileNotFoundError as error:
        raise SaisError(f"{name}: no such picture; check the path") from error
    except IsADirectoryError as error:
        raise SaisError(f"{name}: a folder, not a picture; name one file in it") from error
    except UnidentifiedImageError as error:
        raise SaisError(f"{name}: not a picture Pillow can read; convert it to JPEG or PNG, or remove it") from error
    except Image.DecompressionBombError as error:
        raise SaisError(
            f"{name}: too many pixels ({_one_line(error)}); save it in parts, or see sais predict --tiles"
        ) from error
    except Exception as error:  # a header broken in a way the decoder did not foresee, or no permission
        raise SaisError(f"{name}: cannot be opened ({_one_line(error)}); restore the file or leave it out") from error


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # broken EXIF is common, and no reason to lose the picture
        return 1


def _from_image(image: Image.Image) -> np.ndarray:
    turn = _TURNS.get(_orientation(image))
    if image.mode.startswith("I") or image.mode == "F":
        array = np.asarray(image)
        grey = _floats_to_bytes(array) if image.mode == "F" else _words_to_bytes(np.clip(array, 0, 65535))
        image = Image.fromarray(grey)
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
            f"cannot take an array of {array.dtype} as a picture; give uint8 0 .. 255, for instance "
            "(x * 255).round().astype('uint8') if it is 0 .. 1"
        )
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)) or not array.size:
        turned = ", for instance x.transpose(1, 2, 0)" if array.ndim == 3 and array.shape[0] in (1, 3) else ""
        raise SaisError(f"cannot take an array of shape {array.shape} as a picture; give (H, W) or (H, W, 3){turned}")
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
