"""Limits on image files that are checked before their pixels are decoded; the number of pixels is checked by Pillow."""

from __future__ import annotations

import io
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from sais import input_limits
from sais.errors import InputError, ResourceError

WHOLE_FILE_FORMATS = ("WEBP", "AVIF", "HEIF")
"""Formats whose decoder reads the whole file into memory when a file is opened."""
_START_OF_SCAN = b"\xff\xda"
"""JPEG marker; the byte ff is never followed by da in the data between markers."""
_USUAL_SCANS = 20
"""Number of scans that any progressive JPEG file may have."""
LARGE_FILE_BYTES = 2**24
"""Size of a file from which `check_large_file` is called before it is opened."""
_BYTES_PER_PIXEL = 20
"""Number of bytes for each pixel that decoders of WebP and JPEG 2000 take, with the decoded image."""
_CHUNK_BYTES = 2**20


def check_large_file(path: Path, size: int, kind: str, name: str) -> None:
    """Check a large file, whose decoder may read it into memory, or byte by byte in search of an image.

    Args:
        path: The file.
        size: Size in bytes, at least `LARGE_FILE_BYTES`.
        kind: Format, as `sais.io.decoding.content_kind` returns it.
        name: File name for the error message.

    Raises:
        InputError: A JPEG file without a scan after its metadata.
        ResourceError: The file is larger than the limit of its format.
    """
    if kind == "JPEG":
        with open(path, "rb") as file:
            if _START_OF_SCAN not in file.read(input_limits.MAX_JPEG_HEADER_BYTES):
                raise InputError(f"{name}: corrupt image (no scan in a JPEG file). Restore or remove it.", "corrupt")
    limit = input_limits.MAX_WHOLE_FILE_BYTES
    if size > limit and kind in WHOLE_FILE_FORMATS:
        problem = f"a {kind} file of {size / 2**30:.1f} GB, above the limit of {limit / 2**30:g} GB"
        raise ResourceError(f"{name}: {problem}. Restore the file, or save the image as TIFF.")


def check_scans(image: Image.Image, source: str | Path | BinaryIO, name: str) -> None:
    """Raise ResourceError for a progressive JPEG file whose number of scans makes decoding take minutes.

    Args:
        image: The opened file.
        source: The same file.
        name: File name for the error message.
    """
    if not image.info.get("progressive"):
        return
    if isinstance(source, (str, Path)):
        with open(source, "rb") as file:
            count = _count_scans(file)
    else:
        position = source.seek(0, io.SEEK_CUR)
        source.seek(0)
        count = _count_scans(source)
        source.seek(position)
    pixels = image.width * image.height
    limit = min(input_limits.MAX_JPEG_SCANS, max(_USUAL_SCANS, input_limits.MAX_SCANNED_PIXELS // pixels))
    if count > limit:
        raise ResourceError(f"{name}: a progressive JPEG file of more than {limit} scans. Save the image again.")


def check_pages(count: int, name: str) -> None:
    """Raise ResourceError for a file with more pages or frames than are read."""
    if count > input_limits.MAX_PAGES:
        limit = input_limits.MAX_PAGES
        raise ResourceError(f"{name}: {count} pages or frames, above the limit of {limit}. Save it in parts.")


def lacks_memory(pixels: int) -> bool:
    """Return whether memory does not suffice to decode an image with this number of pixels.

    The memory is reserved for a moment but not written: with a large corrupt image, writing it could take all memory,
    for which the system kills a process.
    """
    try:
        np.empty(_BYTES_PER_PIXEL * pixels, np.uint8)
    except MemoryError:
        return True
    return False


def webp_pixels(start: bytes) -> int:
    """Return the number of pixels that a WebP file states; 0 for other files.

    Args:
        start: At least 30 bytes at the start of a file.
    """
    chunk = start[12:16] if start[:4] == b"RIFF" and start[8:12] == b"WEBP" else b""
    if chunk == b"VP8X":
        return (int.from_bytes(start[24:27], "little") + 1) * (int.from_bytes(start[27:30], "little") + 1)
    if chunk == b"VP8L":
        bits = int.from_bytes(start[21:25], "little")
        return ((bits & 0x3FFF) + 1) * ((bits >> 14 & 0x3FFF) + 1)
    if chunk == b"VP8 ":
        return (int.from_bytes(start[26:28], "little") & 0x3FFF) * (int.from_bytes(start[28:30], "little") & 0x3FFF)
    return 0


def _count_scans(file: BinaryIO) -> int:
    """Return the number of scans in an open JPEG file; the search ends above the limit."""
    count, last = 0, b""
    while count <= input_limits.MAX_JPEG_SCANS and (chunk := file.read(_CHUNK_BYTES)):
        count += (last + chunk).count(_START_OF_SCAN)
        last = chunk[-1:]
    return count
