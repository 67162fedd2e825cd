"""Examination of image files in parallel: are they readable, of which size, what do they show at a glance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from sais.data.annotations import ImageRecord
from sais.data.exif_frame import file_orientation
from sais.data.remarks import file_digest
from sais.errors import OutOfMemoryError, SaisError

THUMBNAIL_SIZE = (32, 32)
"""(h, w) of the thumbnails that are compared."""


@dataclass(frozen=True, eq=False)
class ImageFacts:
    """What the examination of an image has shown."""

    size: tuple[int, int] = (0, 0)
    """(H, W) of the upright image."""
    error: str = ""
    """Why the image cannot be read; empty if it can."""
    orientation: int = 1
    """EXIF orientation of the file, 1 to 8."""
    digest: str = ""
    """Digest of the file's content; empty if pixels are not decoded or the image is not in a file."""
    contrast: int | None = None
    """As `Thumbnail.contrast`; None if pixels are not decoded."""
    thumbnail: np.ndarray | None = None
    """(h, w) uint8 gray of `THUMBNAIL_SIZE`; None if pixels are not decoded."""
    notes: Counter[str] = field(default_factory=Counter)
    """How the image was converted to 8-bit RGB."""


def examine_images(
    records: Sequence[ImageRecord], decode: bool = True, workers: int = 0
) -> Generator[ImageFacts, None, None]:
    """Yield facts about images, in the order given.

    Args:
        records: The images.
        decode: Whether pixels are decoded; otherwise headers are read.
        workers: Number of threads; decoders run in parallel. 0 or 1 for none. Images that functions return are read in
            this thread.

    Raises:
        OutOfMemoryError: Memory does not suffice.
    """
    examine = partial(examine_image, decode=decode)
    pool = ThreadPoolExecutor(max(1, workers))
    parallel = workers > 1 and all(isinstance(record.source, Path) for record in records)
    try:
        yield from (pool.map if parallel else map)(examine, records)
    finally:
        pool.shutdown(cancel_futures=True)  # also after Ctrl-C


def examine_image(record: ImageRecord, decode: bool = True) -> ImageFacts:
    """Examine one image; a defect of the image never raises.

    Args:
        record: The image.
        decode: Whether pixels are decoded; otherwise the header is read.

    Raises:
        OutOfMemoryError: Memory does not suffice.
    """
    from sais.io.images import read_size
    from sais.io.thumbnails import make_thumbnail, read_thumbnail

    notes: Counter[str] = Counter()
    try:
        if not isinstance(record.source, Path):
            thumbnail = make_thumbnail(record.read(notes=notes), THUMBNAIL_SIZE)
        elif decode:
            thumbnail = read_thumbnail(record.source, THUMBNAIL_SIZE, notes)
        else:
            return ImageFacts(read_size(record.source), orientation=file_orientation(record.source))
    except OutOfMemoryError:
        raise
    except SaisError as error:
        return ImageFacts(error=str(error))
    return ImageFacts(
        thumbnail.size,
        orientation=thumbnail.orientation,
        digest=file_digest(record.source) if isinstance(record.source, Path) else "",
        contrast=thumbnail.contrast,
        thumbnail=thumbnail.gray,
        notes=notes,
    )
