"""Images whose pixels are numbers: of objects (instance ids), of classes, or of what is a mask and what is not.

H, W is the size of an image; an object's crop is the smallest rectangle (h, w) around its pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from sais.errors import InputError
from sais.io.decoding import decoding_error, decoding_limit, open_image, source_name

_COUNTED_IDS = 2**16
"""Ids below this number are counted and sorted in linear time."""


def read_id_map(source: Path | BinaryIO, size: tuple[int, int] | None = None) -> np.ndarray:
    """Return the numbers of an image (H, W): gray values, palette indices, or R + 256 G + 65536 B of color.

    The type is that of the file, uint8 or uint16, or int32; no number is negative.

    The orientation that EXIF data may state is ignored: tools that write numbers write no EXIF data.

    Args:
        source: Image file.
        size: (H, W) that the image must have; None for any.

    Raises:
        InputError: The image cannot be read, or has another size.
        ResourceError: The image has too many pixels.
    """
    with open_image(source) as image:
        if size is not None and (image.height, image.width) != tuple(size):
            stated = f"{image.width} x {image.height} pixels, but the image has {size[1]} x {size[0]}"
            raise InputError(f"{source_name(source)}: {stated}. Export it again.")
        try:
            with decoding_limit(image, None):
                image.load()
                if image.mode in ("LA", "La", "PA"):
                    image = image.getchannel(0)
                elif image.mode not in ("1", "L", "P", "I", "F", "RGB") and not image.mode.startswith("I;16"):
                    image = image.convert("RGB")
                values = np.array(image)  # writable
        except Exception as error:
            raise decoding_error(error, source_name(source), image) from error
    if values.ndim == 3:
        channels = np.moveaxis(values.astype(np.int32), 2, 0)
        ids: np.ndarray = channels[0] + 256 * channels[1] + 65536 * channels[2]
        return ids
    is_float = values.dtype.kind == "f"
    if is_float and not (np.isfinite(values) & (values == np.floor(values)) & (np.abs(values) < 2**31)).all():
        raise InputError(f"{source_name(source)}: pixels that are not whole numbers. Export ids as 16-bit PNG.")
    if values.dtype not in (np.uint8, np.uint16):
        values = values.astype(np.uint8 if values.dtype == bool else np.int32)
    if values.min(initial=0) < 0:
        raise InputError(f"{source_name(source)}: pixels below 0. Export ids as 16-bit PNG.")
    return values


def read_mask(source: Path | BinaryIO, size: tuple[int, int] | None = None) -> np.ndarray:
    """Return the pixels of an image that are not black, transparency ignored, (H, W) bool.

    Args:
        source: As for `read_id_map`.
        size: As for `read_id_map`.

    Raises:
        InputError: As for `read_id_map`.
        ResourceError: As for `read_id_map`.
    """
    mask: np.ndarray = read_id_map(source, size) != 0
    return mask


def present_ids(ids: np.ndarray) -> np.ndarray:
    """Return the different ids other than 0 of an id map (H, W), ascending, (N,)."""
    flat = ids.reshape(-1)
    if flat.max(initial=0) >= _COUNTED_IDS:
        values = np.unique(flat)
        return values[values > 0]
    return np.flatnonzero(np.bincount(flat, minlength=1)[1:]) + 1


def crop_objects(ids: np.ndarray) -> Iterator[tuple[int, np.ndarray, int, int]]:
    """Yield id, mask (h, w) bool, left column and top row of each object of an id map (H, W), by ascending id.

    Pixels of 0 are background.
    """
    width = ids.shape[1]
    flat = ids.reshape(-1)
    places = np.flatnonzero(flat)
    if not len(places):
        return
    values = flat[places]
    if values.max() < _COUNTED_IDS:
        values = values.astype(np.uint16)  # sorted in linear time
    order = np.argsort(values, kind="stable")
    places, values = places[order], values[order]
    starts = np.flatnonzero(np.diff(values, prepend=0))
    for value, group in zip(values[starts].tolist(), np.split(places, starts[1:]), strict=True):
        rows, columns = np.divmod(group, width)
        left, top = int(columns.min()), int(rows[0])
        bits = np.zeros((int(rows[-1]) - top + 1, int(columns.max()) - left + 1), bool)
        bits[rows - top, columns - left] = True
        yield value, bits, left, top
