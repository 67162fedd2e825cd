"""What a prediction can be made of: images in files, folders and globs, and videos in and out.

Reading the pixels of an image is `sais.io.images`' part; this file finds the files. Videos need the extra `video`.
"""

from __future__ import annotations

import glob
import re
from pathlib import Path

from sais.errors import SaisError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif")
"""Files taken as images, whatever the case of their suffix; of an animated GIF the first image."""


def find_images(source: str | Path) -> list[Path]:
    """The image files a source names, in natural order (2.jpg before 10.jpg).

    Args:
        source: an image file; a folder, of which the images lying directly in it are taken (not those of its
            subfolders, where a tool's own output often lies); or a glob such as ``shots/*.jpg`` or ``shots/**/*``,
            of which everything that is an image is taken.

    Raises:
        SaisError: there is no image, or the file is not of a known kind.
    """
    path = Path(source)
    if path.is_file():
        if not is_image(path):
            raise SaisError(f"{path}: not an image by its suffix; known are {' '.join(IMAGE_SUFFIXES)}")
        return [path]
    if path.is_dir():
        found = [child for child in path.iterdir() if child.is_file() and is_image(child)]
        if not found:
            deeper = sum(is_image(child) for child in path.rglob("*"))
            hint = f", {deeper} in its subfolders: give '{path}/**/*'" if deeper else "; give another folder"
            raise SaisError(f"{path}: no images in this folder{hint}")
    else:
        found = [Path(name) for name in glob.glob(str(source), recursive=True)]
        if not found:
            remedy = "no file fits this pattern" if glob.has_magic(str(source)) else "no such file or folder"
            raise SaisError(f"{source}: {remedy}; check the path")
        found = [child for child in found if child.is_file() and is_image(child)]
        if not found:
            raise SaisError(f"{source}: what fits has no images; known are {' '.join(IMAGE_SUFFIXES)}")
    return sorted(found, key=_natural)


def _natural(path: Path) -> tuple[list[tuple[int, int, str]], str]:
    parts = re.split(r"([0-9]+)", str(path).lower())
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts if part], str(path)


def is_image(path: str | Path) -> bool:
    """Whether a path has the suffix of an image and is not a hidden file (such as macOS's ``._shot.jpg``)."""
    path = Path(path)
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
