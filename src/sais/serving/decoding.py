"""Uploads to images: size checked before the pixels are decoded, and errors that name no internals of the server."""

from __future__ import annotations

import io

import numpy as np

from sais.errors import InputError, MissingDependencyError, OutOfMemoryError, ResourceError, SaisError
from sais.io.decoding import open_image
from sais.io.images import read_image
from sais.serving.limits import overloaded
from sais.serving.request_error import RequestError
from sais.serving.uploads import Upload

CORRUPT_KINDS = ("truncated", "corrupt")
"""Kinds of `InputError` for files of a known format."""


def decode(upload: Upload, position: int, max_pixels: int, white_level: int | None = None) -> np.ndarray:
    """Decode an uploaded image.

    Args:
        upload: uploaded file.
        position: its position in the request, from 0, for messages.
        max_pixels: maximum number of pixels, checked before any is decoded.
        white_level: as for `sais.io.images.read_image`.

    Returns:
        (H, W, 3) uint8 RGB, upright as its EXIF data states.

    Raises:
        RequestError: 400 for a corrupt image, 413 for one with too many pixels, 415 for other files; 503 if memory does
            not suffice.
    """
    where = f"image {position + 1}"
    try:
        with open_image(io.BytesIO(upload.data), max_pixels) as image:  # which rejects only twice the number
            if image.width * image.height > max_pixels:
                raise ResourceError(f"{where}: {image.width} x {image.height} pixels. Send a smaller image.")
        return read_image(io.BytesIO(upload.data), max_pixels, white_level=white_level)
    except OutOfMemoryError as error:
        raise overloaded() from error
    except ResourceError as error:
        message = f"{where}: more than {max_pixels / 1e6:g} megapixels, or too many scans. Send a smaller image."
        raise RequestError(413, "image_too_large", message) from error
    except MissingDependencyError as error:
        message = f"{where}: this server does not read HEIC. Send JPEG or PNG."
        raise RequestError(415, "unsupported_image", message) from error
    except InputError as error:
        if error.kind == "empty file":
            raise RequestError(400, "empty_image", f"{where}: empty. Send the bytes of an image.") from error
        if error.kind in CORRUPT_KINDS:
            message = f"{where}: {error.kind}; it cannot be decoded. Send the whole file, or save it again."
            raise RequestError(400, "corrupt_image", message) from error
        kind = "" if error.kind in ("", "not an image") else f" ({error.kind})"
        message = f"{where}: not an image that is read{kind}. Send JPEG, PNG, WebP or TIFF."
        raise RequestError(415, "unsupported_image", message) from error
    except SaisError as error:
        raise RequestError(400, "corrupt_image", f"{where}: cannot be decoded. Send another image.") from error
