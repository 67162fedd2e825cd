"""A data set that is written: label files by a writer of `sais.data.writers`, images copied, linked or encoded."""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from sais.data.output_record import OutputRecord
from sais.data.writers import LabeledImage, Writer
from sais.errors import InputError, ResourceError
from sais.io.atomic import atomic_write, write_bytes
from sais.io.outputs import check_outputs
from sais.io.result_names import drawing_names, result_names

ImageMode = Literal["copy", "link", "none"]
"""How images get to the data set: copies, hard links, or not at all."""

ENCODED = "images turned upright, or of another file format than the labels need, written as PNG"
COPIED = "images copied, because hard links to them are not possible"
_NOT_IN_LISTS = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]+")
"""Control characters, and bytes that are not UTF-8: lists of files have a name in each line, in UTF-8."""


def unique_stems(images: Sequence[tuple[Path | str, str]], blanks: bool = True) -> list[str]:
    """Return a name without suffix for each image of a split, unique and a single part of a path.

    Args:
        images: File or address, and name, of each image.
        blanks: Whether names may have blanks, which are otherwise replaced.
    """
    paths = drawing_names(result_names(images))
    names = [_NOT_IN_LISTS.sub("_", path.as_posix().replace("/", "_")) for path in paths]
    names = names if blanks else ["_".join(name.split()) for name in names]
    return [path.as_posix() for path in drawing_names([f"{name}.x" for name in names])]


class LabelFolder:
    """The folder of a data set that is written; use it as a context manager while images are added.

    Args:
        folder: Folder to write to.
        writer: Writer of the format.
        images: How images get there.
    """

    def __init__(self, folder: Path, writer: Writer, images: ImageMode = "copy") -> None:
        self.folder, self.images = folder, images
        self.notes: Counter[str] = Counter()
        """What the format cannot hold, and how images were written."""
        self._writer = writer
        self._record = OutputRecord(folder)

    @property
    def shares_images(self) -> bool:
        """Whether the images of all splits are in one folder, and lists name them: names have no blanks."""
        return self._writer.image_file("a", "image", ".png") == self._writer.image_file("b", "image", ".png")

    def check(self, planned: Iterable[tuple[str, str, Path | None]], inputs: Iterable[Path], overwrite: bool) -> None:
        """Check that the files may be written. Creates nothing.

        Args:
            planned: Split, stem, and source file of each image; None if it is in no file.
            inputs: Files that are read, in addition to the sources.
            overwrite: Whether files of others are replaced.

        Raises:
            InputError: A file would replace one that is read or one of others.
        """
        outputs = [self._record.path, *(self.folder / name for name in self._writer.dataset_files())]
        sources: list[Path] = []
        for split, stem, source in planned:
            outputs += [self.folder / name for name in self._writer.label_files(split, stem)]
            sources += [] if source is None else [source]
            target = self.folder / self._image_file(split, stem, source)
            if self.images != "none" and not (source is not None and self._is_linked(source, target)):
                outputs.append(target)
        check_outputs(outputs, [*inputs, *sources], overwrite, self.folder, self._record.is_own)

    def __enter__(self) -> LabelFolder:
        self._record.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._record.__exit__(None, None, None)

    def place_image(self, split: str, stem: str, source: Path | None, pixels: np.ndarray | None = None) -> str:
        """Bring an image to its place.

        Args:
            split: Name of the split.
            stem: Name of the image without suffix.
            source: File of the image; None if it is in no file.
            pixels: (H, W, 3) uint8 RGB, the image as it is written to a PNG file instead of `source`; None for a copy.

        Returns:
            Its path relative to the folder; with "none" that of the source.

        Raises:
            InputError: The source cannot be read.
            ResourceError: The image cannot be written.
        """
        if self.images == "none":
            place = self._image_file(split, stem, source)
            return place if source is None else Path(os.path.relpath(source, self.folder)).as_posix()
        name = self._image_file(split, stem, source if pixels is None else None)
        target = self.folder / name
        if pixels is not None:
            from sais.io.image_writer import write_image

            write_image(target, pixels)
            self.notes[ENCODED] += source is not None
        elif source is not None:
            self._transfer(source, target)
        self._record.add(name)
        return name

    def add(self, image: LabeledImage) -> None:
        """Write the label files of an image."""
        self._write(self._writer.add(image, self.notes))

    def finish(self, complete: bool = True) -> None:
        """Write the files of the data set.

        Args:
            complete: Whether all images were added; unchanged files of an earlier command are then removed.
        """
        self._write(self._writer.finish())
        if complete:
            self._record.remove_others()

    def needs_png(self, split: str, stem: str, source: Path) -> bool:
        """Return whether the format does not take an image in its own file format."""
        return Path(self._image_file(split, stem, source)).suffix.lower() != source.suffix.lower()

    def _image_file(self, split: str, stem: str, source: Path | None) -> str:
        return self._writer.image_file(split, stem, ".png" if source is None else source.suffix)

    def _write(self, files: dict[str, bytes]) -> None:
        for name, content in files.items():
            write_bytes(self.folder / name, content)
            self._record.add(name)

    def _is_linked(self, source: Path, target: Path) -> bool:
        """Return whether `target` is another name of the source already, as an earlier command linked it."""
        if self.images != "link" or target.is_symlink() or not target.is_file() or not source.exists():
            return False
        return os.path.samefile(source, target) and source.resolve() != target.resolve()

    def _transfer(self, source: Path, target: Path) -> None:
        """Copy or link a file."""
        if not source.is_file():
            raise InputError(f"{source}: no such image. Check the path.")
        if self._is_linked(source, target):
            return
        if self.images == "link":
            try:
                _link(source, target)
            except OSError:  # another file system, or one without hard links
                self.notes[COPIED] += 1
            else:
                return
        with atomic_write(target) as temporary:
            try:
                shutil.copyfile(source, temporary)
            except PermissionError as error:
                raise InputError(f"{source}: cannot be read ({error.strerror}). Fix its permissions.") from error


def _link(source: Path, target: Path) -> None:
    """Make `target` a hard link to a file, in place of a file that has this name."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"{target.parent}: the folder cannot be created ({error.strerror}). Choose another output folder."
        raise ResourceError(message) from error
    if os.path.lexists(target):
        target.unlink()
    os.link(source.resolve(), target)
