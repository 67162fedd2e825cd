"""A gallery of labeled images: drawings in a folder, and an HTML page that shows them (`sais show`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import numpy as np
from PIL import Image

from sais.data.annotations import DatasetSplit, ImageRecord
from sais.data.dataset import read_sample
from sais.data.label_folder import unique_stems
from sais.data.visualize import draw_sample
from sais.errors import InputError, OutOfMemoryError, SaisError
from sais.io.atomic import write_text
from sais.io.image_writer import write_image
from sais.io.outputs import PAGE, check_outputs, file_identities, written_by
from sais.reports.html import render_page
from sais.results.draw import ColorBy
from sais.text import short_name

PAGE_NAME = "index.html"
"""Name of the page in the output folder."""
DRAWINGS = "drawings"
"""Folder of the drawings in the output folder."""
WRITER = "sais show"
QUALITY = 88
"""JPEG quality of drawings."""

MAX_LISTED = 10
"""Maximum number of unreadable images that the page lists."""

ShownImage = tuple[DatasetSplit, ImageRecord]
"""A split and one of its images, whose annotations are those to draw."""


@dataclass(frozen=True)
class GalleryImage:
    """A drawing on the page."""

    link: str
    """Address of the drawing relative to the page."""
    name: str
    split: str
    caption: str
    width: int
    height: int


class LabelGallery:
    """Draws labels as training reads them, and writes a page that shows the drawings.

    Args:
        out: output folder.
        images: images to draw, with the annotations to draw.
        inputs: files that are read, in addition to the images.
        max_side: longest side of a drawing in pixels; larger images are reduced.
        color_by: as for `sais.results.draw.draw`.
        overwrite: whether files of others are replaced.

    Raises:
        InputError: a drawing would replace a file that is read or one of others.
    """

    def __init__(
        self,
        out: Path,
        images: Sequence[ShownImage],
        inputs: Iterable[Path] = (),
        max_side: int = 1600,
        color_by: ColorBy = "class",
        overwrite: bool = False,
    ) -> None:
        self.out = out
        self.unreadable: list[str] = []
        """One line for each image that cannot be read."""
        self._images, self._max_side, self._color_by = images, max_side, color_by
        names = unique_stems([_named(record) for _, record in images])
        self._paths = [out / DRAWINGS / f"{name}.jpg" for name in names]
        self._sources = [record.source for _, record in images if isinstance(record.source, Path)]
        folders = file_identities([out, out / DRAWINGS])
        if folders & file_identities({source.parent for source in self._sources}):
            raise InputError(f"{out}: the folder of the images that are read. Choose another output folder.")
        check_outputs(self._paths, [*self._sources, *inputs], overwrite, out, written_by(WRITER))
        check_outputs([out / PAGE_NAME], (), overwrite, out, written_by(PAGE))

    def write(self, title: str, description: str, progress: Callable[[int], None] = lambda images: None) -> Path:
        """Write the drawings, then the page, and remove the other drawings of an earlier call; return the page's path.

        Args:
            title: name of the data set.
            description: what is shown, as a sentence.
            progress: function called with the number of images done since its last call.

        Raises:
            InputError: no image can be read.
            ResourceError: a file cannot be written.
        """
        shown = []
        for (split, record), path in zip(self._images, self._paths, strict=True):
            try:
                sample = read_sample(record)
            except OutOfMemoryError:
                raise
            except SaisError as error:
                self.unreadable.append(str(error))
            else:
                drawing = self._reduce(draw_sample(sample, split.class_names, self._color_by))
                write_image(path, drawing, QUALITY, WRITER)
                shown.append(_gallery_image(path, split, record, drawing))
            progress(1)
        if not shown:
            raise InputError(f"show: no image can be read ({self.unreadable[0]}). Check the data set.")
        page = render_page(
            "label_gallery.html.jinja",
            ("run_report.css", "label_gallery.css"),
            title=title,
            description=description,
            images=shown,
            unreadable=self.unreadable[:MAX_LISTED],
            unlisted=max(0, len(self.unreadable) - MAX_LISTED),
        )
        write_text(self.out / PAGE_NAME, page)
        self._remove_earlier()
        return self.out / PAGE_NAME

    def _reduce(self, drawing: np.ndarray) -> np.ndarray:
        """Return a drawing (H, W, 3), resized if a side is longer than allowed."""
        height, width = drawing.shape[:2]
        ratio = self._max_side / max(height, width)
        if ratio >= 1:
            return drawing
        size = (max(1, round(width * ratio)), max(1, round(height * ratio)))
        return np.asarray(Image.fromarray(drawing).resize(size, Image.Resampling.LANCZOS))

    def _remove_earlier(self) -> None:
        """Delete drawings that an earlier call wrote, unless they have been replaced, changed or read."""
        is_own, read = written_by(WRITER), file_identities(self._sources)
        for path in set((self.out / DRAWINGS).glob("*.jpg")) - set(self._paths):
            if is_own(path) and not file_identities([path]) & read:
                path.unlink()


def _named(record: ImageRecord) -> tuple[Path | str, str]:
    """Return the file of an image and its name."""
    return (record.source, record.name) if isinstance(record.source, Path) else ("", f"image_{record.id}.png")


def _gallery_image(path: Path, split: DatasetSplit, record: ImageRecord, drawing: np.ndarray) -> GalleryImage:
    """Return what the page shows of a drawing (H, W, 3)."""
    counts = Counter(split.class_names[a.label] for a in record.annotations if not a.crowd)
    crowds = sum(a.crowd for a in record.annotations)
    parts = [f"{count} {short_name(name)}" for name, count in counts.most_common()] or ["no objects"]
    parts += [f"{crowds} crowd{'s' if crowds != 1 else ''}, not drawn"] if crowds else []
    link = f"{DRAWINGS}/{quote(path.name, errors='surrogateescape')}"
    return GalleryImage(link, record.name, split.name, ", ".join(parts), drawing.shape[1], drawing.shape[0])
