"""Names of images in results: relative to their source, unique, and valid as names of drawings."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

MAX_STEM_BYTES = 180
"""Length of the name of a drawing without its suffix; file systems allow 255 bytes, of which temporary files need
some."""
_NOT_IN_NAMES = re.compile(r'[\x00-\x1f<>:"/\\|?*]+')
"""Characters of an address that a file name cannot have on every system."""


def url_name(url: str) -> str:
    """Return a file name for the image at an address: the last part of its path, or its host."""
    try:
        parts = urlsplit(url)
    except ValueError:  # reported when it is downloaded
        return "image"
    name = unquote(parts.path.rstrip("/").rpartition("/")[2]) or parts.netloc
    return _NOT_IN_NAMES.sub("_", name).strip(". ") or "image"


def result_names(images: Sequence[tuple[Path | str, str]]) -> list[str]:
    """Return a unique name for each image.

    Where two names are equal (also without regard to case and Unicode form), they become the paths below the files'
    common folder, ``a/x.jpg`` and ``b/x.jpg``; what is still equal is numbered.

    Args:
        images: File or address, and name relative to its source, of each image.
    """
    groups: dict[str, list[int]] = {}
    for i, (_, name) in enumerate(images):
        groups.setdefault(_key(name), []).append(i)
    names = [name for _, name in images]
    for group in groups.values():
        if len(group) > 1:
            for i, name in zip(group, _below_common_folder([images[i] for i in group]), strict=True):
                names[i] = name
    return _numbered(names)


def drawing_names(file_names: Sequence[str]) -> list[Path]:
    """Return the path of each drawing below the output folder, without suffix: unique, also for a.jpg and a.png."""
    return [Path(name) for name in _numbered([_drawing_stem(name) for name in file_names])]


def _drawing_stem(file_name: str) -> str:
    path = PurePosixPath(file_name)
    stem = path.stem if path.suffix else path.name
    short = stem.encode("utf-8", "surrogateescape")[:MAX_STEM_BYTES].decode("utf-8", "ignore")
    return str(path.with_name(stem if len(stem.encode("utf-8", "surrogateescape")) <= MAX_STEM_BYTES else short))


def _below_common_folder(images: list[tuple[Path | str, str]]) -> list[str]:
    """Return the names of files with equal names below their common folder; an address starts with its host."""
    try:
        files = [os.path.abspath(location) for location, _ in images if isinstance(location, Path)]
        common = os.path.commonpath([os.path.dirname(file) for file in files]) if files else ""
    except ValueError:  # different drives of Windows
        return [name for _, name in images]
    names = []
    for location, name in images:
        if isinstance(location, Path):
            names.append(Path(os.path.relpath(os.path.abspath(location), common)).as_posix())
        else:
            names.append(f"{_NOT_IN_NAMES.sub('_', urlsplit(location).netloc)}/{name}")
    return names


def _numbered(names: Sequence[str]) -> list[str]:
    taken: set[str] = set()
    unique = []
    for name in names:
        path, number, candidate = PurePosixPath(name), 2, name
        while _key(candidate) in taken:
            candidate, number = str(path.with_name(f"{path.stem}-{number}{path.suffix}")), number + 1
        taken.add(_key(candidate))
        unique.append(candidate)
    return unique


def _key(name: str) -> str:
    """Return a name as file systems compare it that ignore case and Unicode form."""
    return unicodedata.normalize("NFC", name).casefold()
