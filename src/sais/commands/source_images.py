"""Images of the sources of `sais predict`, read in batches while the network runs; unreadable images are counted."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from sais.errors import InputError, OutOfMemoryError, SaisError
from sais.io.image_reader import ImageReader, conversion_notes
from sais.io.sources import STANDARD_INPUT, Pages, SourceImage, Sources, find_sources, unreadable_kind
from sais.text import print_text

MAX_LISTED = 5
"""Maximum number of unreadable images that are printed one by one."""


def open_sources(words: Sequence[str], pages: Pages) -> Sources:
    """Find the images and videos of the sources and print what is left out.

    Args:
        words: Sources as typed; "-" reads a list of paths from standard input.
        pages: As for `sais.io.sources.find_sources`.

    Raises:
        InputError: As for `sais.io.sources.find_sources`.
    """
    listing = sys.stdin.buffer.read() if STANDARD_INPUT in words else b""
    sources = find_sources(words, pages, listing)
    for note in sources.notes:
        print_text(f"note: {note}")
    if sources.left_out:
        print_text(f"left out: {sources.left_out_text()}")
    return sources


class BatchReader:
    """Reads images in batches.

    Args:
        images: The images to read.
        reader: Reader of single images.
        batch_size: Number of images in a batch.
        read_ahead: Whether the next batch is read while the caller works on one; large images would need the memory.
        skip_unreadable: Whether unreadable images are counted, instead of raising the error of the first.
    """

    def __init__(
        self,
        images: Sequence[SourceImage],
        reader: ImageReader,
        batch_size: int,
        read_ahead: bool = True,
        skip_unreadable: bool = True,
    ) -> None:
        self.reader = reader
        self.unreadable: Counter[str] = Counter()
        """What is wrong -> number of images."""
        self._images = images
        self._batch_size = batch_size
        self._read_ahead = read_ahead
        self._skip_unreadable = skip_unreadable
        self._first_error: SaisError | None = None

    def __iter__(self) -> Iterator[list[tuple[SourceImage, np.ndarray]]]:
        """Yield batches of readable images (H, W, 3).

        Raises:
            SaisError: No image is readable, or one is not and unreadable images are not skipped.
        """
        images, size = self._images, self._batch_size
        chunks = [images[i : i + size] for i in range(0, len(images), size)]
        with ThreadPoolExecutor(1) as pool:
            ahead = None
            for number, chunk in enumerate(chunks):
                loaded = self._load(chunk) if ahead is None else ahead.result()
                if number + 1 < len(chunks) and self._read_ahead:
                    ahead = pool.submit(self._load, chunks[number + 1])
                readable = [(image, array) for image, array in loaded if isinstance(array, np.ndarray)]
                for image, error in loaded:
                    if isinstance(error, SaisError):
                        self._count(image, error)
                if readable:
                    yield readable
        self.reader.close()
        if self._first_error is not None and self.unreadable.total() == len(images):
            if len(images) == 1:
                raise self._first_error
            kinds = _count_text(self.unreadable)
            raise InputError(f"none of the {len(images)} images can be read ({kinds}); the first: {self._first_error}")

    def summary(self) -> list[str]:
        """Return lines about conversions and unreadable images."""
        lines = conversion_notes(self.reader.notes, "--pages all")
        if self.unreadable:
            lines.append(f"skipped {self.unreadable.total()} unreadable images: {_count_text(self.unreadable)}")
        return lines

    def _load(self, images: Sequence[SourceImage]) -> list[tuple[SourceImage, np.ndarray | SaisError]]:
        loaded: list[tuple[SourceImage, np.ndarray | SaisError]] = []
        for image in images:
            try:
                loaded.append((image, self.reader.read(image)))
            except OutOfMemoryError:
                raise
            except SaisError as error:
                loaded.append((image, error))
        return loaded

    def _count(self, image: SourceImage, error: SaisError) -> None:
        if not self._skip_unreadable:
            raise InputError(f"{error} Or leave out --no-skip-broken, to skip such images.") from error
        self._first_error = self._first_error or error
        self.unreadable[unreadable_kind(error)] += 1
        if len(self._images) > 1 and self.unreadable.total() <= MAX_LISTED:
            print_text(f"{image.label}: skipped, unreadable ({unreadable_kind(error)})")


def _count_text(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in counts.most_common())
