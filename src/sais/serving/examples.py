"""Example images that the page offers: the files of a folder, listed once, with thumbnails."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

import numpy as np
from PIL import Image

from sais.errors import InputError, SaisError
from sais.io.decoding import file_kind
from sais.io.images import read_image
from sais.serving.request_error import RequestError

MEDIA_TYPES = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "GIF": "image/gif",
    "AVIF": "image/avif",
}
"""Formats that browsers show."""
THUMBNAIL_SIDE = 320
"""Maximum side of a thumbnail in pixels."""
PART_BYTES = 2**16
"""Number of bytes of an example that are in memory for a client that reads slowly."""
MAX_EXAMPLES = 200
"""Maximum number of example images."""


class Examples:
    """Example images by name. Only the files listed at the start can be read.

    Args:
        folder: folder with the images; None for no examples.

    Raises:
        InputError: no such folder, or no image in it.
    """

    def __init__(self, folder: Path | None) -> None:
        self._files: dict[str, tuple[Path, str]] = {}
        self._thumbnails: dict[str, bytes] = {}
        self._lock = threading.Lock()
        if folder is None:
            return
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder of example images. Check the path.")
        for path in sorted(folder.iterdir()):
            kind = file_kind(path) if path.is_file() else ""
            if kind in MEDIA_TYPES and len(self._files) < MAX_EXAMPLES:
                self._files[path.name] = (path.resolve(), MEDIA_TYPES[kind])
        if not self._files:
            raise InputError(f"{folder}: no example image in it. Put JPEG, PNG or WebP files there.")

    def entries(self) -> list[dict[str, str]]:
        """Return the entries of the list of examples."""
        urls = {name: f"/v1/examples/{quote(name, safe='')}" for name in self._files}
        return [{"name": name, "url": url, "thumbnail_url": f"{url}?thumbnail=true"} for name, url in urls.items()]

    def open(self, name: str) -> tuple[Iterator[bytes], int, str]:
        """Return the parts of an example, which are read as they are needed, their total size, and the media type.

        Raises:
            RequestError: 404, there is no such example.
        """
        path, media_type = self._find(name)
        try:
            file = path.open("rb")
        except OSError as error:
            raise _not_found() from error
        size = os.fstat(file.fileno()).st_size
        return _parts(file, size), size, media_type

    def thumbnail(self, name: str) -> bytes:
        """Return a JPEG file of an example, at most `THUMBNAIL_SIDE` pixels wide and high.

        Raises:
            RequestError: 404, there is no such example, or it cannot be read.
        """
        path, _ = self._find(name)
        with self._lock:
            if name not in self._thumbnails:
                try:
                    self._thumbnails[name] = _thumbnail(read_image(path))
                except SaisError as error:
                    raise _not_found() from error
            return self._thumbnails[name]

    def _find(self, name: str) -> tuple[Path, str]:
        if name not in self._files:
            raise _not_found()
        return self._files[name]


def _parts(file: BinaryIO, size: int) -> Iterator[bytes]:
    """Yield the first `size` bytes of a file in parts, and close it."""
    with file:
        while size > 0 and (part := file.read(min(size, PART_BYTES))):
            size -= len(part)
            yield part


def _thumbnail(image: np.ndarray) -> bytes:
    """Return a JPEG file of an image (H, W, 3)."""
    small = Image.fromarray(image)
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _not_found() -> RequestError:
    return RequestError(404, "not_found", "there is no such example. GET /v1/examples lists them.")
