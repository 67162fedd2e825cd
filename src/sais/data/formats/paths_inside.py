"""Files that labels name, searched for inside the folder of the data set only.

A path in a label file may be of another machine, or lead outside. Its end is compared with the files of the data
folder; a file outside of it is never read because of a name in a label file.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable
from pathlib import Path

from sais.io.sources import IMAGE_SUFFIXES


def find_inside(
    root: Path, bases: list[Path], name: str, exists: Callable[[str], bool], excluded: tuple[str, ...] = ()
) -> Path | None:
    r"""Return the path inside a folder that a name means: relative to one of the bases, or with the longest end.

    Args:
        root: Folder of the data set, to which the search is limited.
        bases: Folders inside `root` that the name may be relative to, the likeliest first.
        name: Path as another program wrote it: relative, absolute, with ``..`` or backslashes.
        exists: Whether a path is what is searched for, such as `os.path.isfile`.
        excluded: Ends that name nothing in particular, such as "images".
    """
    if not name or "\0" in name or len(name) > 4096:
        return None
    plain = name.replace("\\", "/")
    top = os.path.normpath(root)
    for base in bases:
        path = os.path.normpath(os.path.join(base, plain))
        if (path == top or path.startswith(os.path.join(top, ""))) and _holds(exists, path):
            return Path(path)
    parts = [part for part in plain.split("/") if part not in ("", ".", "..") and not part.endswith(":")]
    for first in range(len(parts)):
        end = "/".join(parts[first:])
        for base in (root, *bases):
            if end not in excluded and _holds(exists, os.path.join(base, end)):
                return Path(base, end)
    return None


def list_images(folder: Path) -> list[Path]:
    """Return the image files below a folder, hidden ones excluded, sorted."""
    paths = []
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths += [Path(place, name) for name in sorted(files) if is_image_name(name)]
    return paths


def is_image_name(name: str) -> bool:
    """Return whether a file name has the suffix of an image and is not hidden."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def images_in(folder: Path) -> list[Path]:
    """Return the image files directly in a folder, sorted; none if there is no such folder."""
    return [folder / name for name in sorted(_listing(folder)) if is_image_name(name)]


def images_by_stem(folder: Path) -> dict[str, Path]:
    """Return the image files directly in a folder by their names without suffix, and by `name_key` of these.

    Of several files the first is returned. `find_stem` looks up a name.
    """
    images = list(reversed(images_in(folder)))
    return {name_key(path.stem): path for path in images} | {path.stem: path for path in images}


def find_stem(images: dict[str, Path], stem: str) -> Path | None:
    """Return an image of `images_by_stem` of a name, or else of the name in another Unicode form or letter case."""
    return images.get(stem) or images.get(name_key(stem))


def name_key(name: str) -> str:
    """Return what the names of one file on different systems have in common: composed Unicode form, without case."""
    return unicodedata.normalize("NFC", name).casefold()


def _listing(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _holds(exists: Callable[[str], bool], path: str) -> bool:
    try:
        return exists(path)
    except (OSError, ValueError):  # a name that no file system takes
        return False
