"""Reading of the images that sources name, one after another, with a count of conversions."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from sais.io import decoding
from sais.io.images import SEVERAL_PAGES, as_image, read_image
from sais.io.pages import page_positions
from sais.io.pixels import decode_page
from sais.io.sources import SourceImage


class ImageReader:
    """Reads images, pages and addresses; counts in `notes` how they were converted.

    The file of the last page stays open, because a frame of an animation is decoded from the frame before.

    Args:
        max_pixels: As for `sais.io.images.read_image`.
        white_level: As for `sais.io.images.read_image`.
    """

    def __init__(self, max_pixels: int | None = None, white_level: int | None = None) -> None:
        self.max_pixels = max_pixels
        self.white_level = white_level
        self.notes: Counter[str] = Counter()
        self._file: Image.Image | None = None
        self._location: Path | None = None
        self._positions: list[int] = []

    def read(self, image: SourceImage) -> np.ndarray:
        """Read one image: (H, W, 3) uint8 RGB.

        Raises:
            SaisError: As for `sais.io.images.as_image`.
        """
        if isinstance(image.location, str):
            return as_image(image.location, self.max_pixels, white_level=self.white_level, notes=self.notes)
        if image.page is not None:
            return self._read_page(image.location, image.page)
        return read_image(image.location, self.max_pixels, white_level=self.white_level, notes=self.notes)

    def close(self) -> None:
        """Close the open file."""
        if self._file is not None:
            self._file.close()
        self._file = self._location = None

    def _read_page(self, path: Path, page: int) -> np.ndarray:
        """Read one page: (H, W, 3)."""
        if self._file is None or path != self._location:
            self.close()
            self._file, self._location = decoding.open_image(path, self.max_pixels), path
            self._positions = page_positions(self._file)
        try:
            self._file.seek(self._positions[page])
            with decoding.decoding_limit(self._file, self.max_pixels):
                return decode_page(self._file, path, self._positions[page], self.white_level, self.notes)
        except Exception as error:
            name = f"{decoding.source_name(path)} page {page + 1}"
            problem = decoding.decoding_error(error, name, self._file)
            self.close()
            raise problem from error


def conversion_notes(notes: Counter[str], pages_option: str = "") -> list[str]:
    """Return lines about how images were converted, such as "converted to 8-bit RGB: 12 grayscale, 2 CMYK".

    Args:
        notes: Counter filled by `sais.io.images.read_image`.
        pages_option: How to read all pages, for the note on files with several; "" if there is no way.
    """
    lines = []
    converted = [f"{count} {kind}" for kind, count in notes.most_common() if kind != SEVERAL_PAGES]
    if converted:
        lines.append(f"converted to 8-bit RGB: {', '.join(converted)}")
    if notes[SEVERAL_PAGES]:
        remedy = f"; {pages_option} reads all" if pages_option else ""
        lines.append(f"{notes[SEVERAL_PAGES]} files {SEVERAL_PAGES}{remedy}")
    return lines
