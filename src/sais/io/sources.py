"""Sources of a prediction: the image files that a path, a folder or a glob pattern names."""

from __future__ import annotations

import glob
import re
from pathlib import Path

from sais.errors import InputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif")
"""Suffixes of image files, compared without regard to case; of an animated GIF the first frame is read."""


def is_image(path: str | Path) -> bool:
    """Return whether a path has the suffix of an image and is not hidden, such as macOS's ``._shot.jpg``."""
    path = Path(path)
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def find_images(source: str | Path) -> list[Path]:
    """Return the image files of a source, in natural order (2.jpg before 10.jpg).

    Args:
        source: An image file; a folder, whose images are taken without those of subfolders, which often contain a
            tool's own output; or a glob pattern such as ``shots/*.jpg`` or ``shots/**/*``, whose images are taken.

    Raises:
        InputError: There is no image, or the file has an unknown suffix.
    """
    path = Path(source)
    if path.is_file():
        if not is_image(path):
            raise InputError(f"{path}: not an image suffix. Supported are {' '.join(IMAGE_SUFFIXES)}.")
        return [path]
    if path.is_dir():
        images = [child for child in path.iterdir() if child.is_file() and is_image(child)]
        if not images:
            nested = sum(is_image(child) for child in path.rglob("*"))
            remedy = f"Use '{path}/**/*' for the {nested} in its subfolders." if nested else "Use another folder."
            raise InputError(f"{path}: no images in this folder. {remedy}")
    else:
        matches = [Path(name) for name in glob.glob(str(source), recursive=True)]
        if not matches:
            problem = "no file matches this pattern" if glob.has_magic(str(source)) else "no such file or folder"
            raise InputError(f"{source}: {problem}. Check the path.")
        images = [child for child in matches if child.is_file() and is_image(child)]
        if not images:
            raise InputError(f"{source}: no images among the matches. Supported are {' '.join(IMAGE_SUFFIXES)}.")
    return sorted(images, key=_natural_key)


def _natural_key(path: Path) -> tuple[list[tuple[int, int, str]], str]:
    parts = re.split(r"([0-9]+)", str(path).lower())
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts if part], str(path)
