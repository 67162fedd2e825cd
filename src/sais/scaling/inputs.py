"""Inputs of a prediction over many images: what an INPUT names becomes a list of images in a fixed order.

A folder, a glob pattern, a text file with a path or address in each line, Parquet files, or WebDataset tar files; each
of them local or in a storage that `sais.scaling.storage` opens.
"""

from __future__ import annotations

import glob
import hashlib
import posixpath
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from sais.errors import InputError
from sais.io.decoding import one_line
from sais.io.download import URL_SCHEMES
from sais.io.regular_file import read_regular_file
from sais.io.result_names import result_names, url_name
from sais.io.sources import STANDARD_INPUT, find_sources, is_image
from sais.scaling.containers import parquet_items, tar_items
from sais.scaling.items import ImageItem
from sais.scaling.storage import is_remote, local_path, open_storage

LIST_SUFFIXES = (".txt", ".lst", ".list")
"""Suffixes of text files with a path or address in each line."""
PARQUET_SUFFIXES = (".parquet", ".pq")
TAR_SUFFIXES = (".tar",)
_COMPRESSED_TAR = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MAX_RANGE = 100_000


@dataclass
class InputImages:
    """The images of an input."""

    items: list[ImageItem] = field(default_factory=list)
    """The images, with unique names."""
    column: str | None = None
    """Parquet files: column with the images."""
    notes: list[str] = field(default_factory=list)
    """Lines about what was left out."""


def find_items(
    word: str,
    listing: bytes,
    column: str | None = None,
    name_column: str | None = None,
    output: Path | None = None,
) -> InputImages:
    """Return the images that an input names, in a fixed order.

    Args:
        word: the input, as typed.
        listing: content of the list of paths and addresses; see `read_listing`.
        column: column with the images of Parquet files, or extension of the images in tar files; None to find it.
        name_column: column with the names of the images of Parquet files; None to find it.
        output: folder whose Parquet files are results and no input, also where a pattern matches them.

    Raises:
        InputError: there is no image, or the input cannot be read.
        MissingDependencyError: a package for Parquet or the storage is not installed.
    """
    if listing or word == STANDARD_INPUT:
        return _listed_items(listing.decode("utf-8-sig", "surrogateescape"))
    files = _container_files(word, output)
    if not files:
        return _image_files(word)
    if files[0].lower().endswith(TAR_SUFFIXES):
        return InputImages(_unique([(item, PurePosixPath(item.location).stem) for item in tar_items(files, column)]))
    found = parquet_items(files, column, name_column)
    items = [(item, PurePosixPath(item.location).stem if item.start is not None else "") for item in found.items]
    return InputImages(_unique(items), found.column, found.notes)


def read_listing(word: str, standard_input: bytes = b"") -> bytes:
    """Return the content of an input that is a list of paths and addresses; empty for other inputs.

    Args:
        word: the input, as typed.
        standard_input: content of standard input, which `-` names.

    Raises:
        InputError: the list cannot be read, or has no line.
    """
    if word == STANDARD_INPUT:
        listing = standard_input
    elif word.lower().endswith(LIST_SUFFIXES) and not is_remote(word):
        listing = read_regular_file(local_path(word), "list of images")
    elif word.lower().endswith(LIST_SUFFIXES) and not word.lower().startswith(URL_SCHEMES):
        system, path = open_storage(word)
        try:
            listing = bytes(system.cat_file(path))
        except OSError as error:
            raise InputError(f"{word}: cannot be read ({one_line(error)}). Check the address.") from error
    else:
        return b""
    if not listing.strip():
        raise InputError(f"{word}: no paths. Give a path or address in each line.")
    return listing


def listing_digest(listing: bytes) -> str | None:
    """Return the SHA-256 of a list; None if there is none."""
    return hashlib.sha256(listing).hexdigest() if listing else None


def _listed_items(text: str) -> InputImages:
    lines = text.split("\0") if "\0" in text else [line.strip("\r") for line in text.split("\n")]
    pairs: dict[Path | str, str] = {}
    repeated = 0
    for line in filter(str.strip, lines):
        place: Path | str = line if is_remote(line) else local_path(line).absolute()
        repeated += place in pairs
        pairs.setdefault(place, url_name(place) if isinstance(place, str) else place.name or "root")
    notes = [f"left out: {repeated} lines that repeat an earlier one"] if repeated else []
    return InputImages(_named(list(pairs.items())), notes=notes)


def _named(pairs: Sequence[tuple[Path | str, str]]) -> list[ImageItem]:
    names = result_names(pairs)
    return [ImageItem(name, str(location)) for (location, _), name in zip(pairs, names, strict=True)]


def _image_files(word: str) -> InputImages:
    """Return the images of a folder or a pattern, or a single one, as `sais predict` names them."""
    if is_remote(word) and not word.lower().startswith(URL_SCHEMES):
        return _remote_images(word)
    sources = find_sources([word])
    notes = list(sources.notes)
    if sources.left_out:
        notes.append(f"left out: {sources.left_out_text()}")
    if sources.videos:
        raise InputError(f"{word}: a video. Use sais predict, or extract the frames.")
    items = []
    for image in sources.images:
        location = image.location if isinstance(image.location, str) else str(image.location.absolute())
        items.append(ImageItem(image.file_name, location))
    return InputImages(items, notes=notes)


def _remote_images(word: str) -> InputImages:
    """Return the images of a folder, a pattern or a file in a storage, by their suffixes."""
    system, path = open_storage(word)
    try:
        paths = _matches(system, path)
    except (OSError, ValueError) as error:
        raise InputError(f"{word}: cannot be listed ({one_line(error)}). Check the address.") from error
    images = [name for name in paths if is_image(name)]
    if not images:
        raise InputError(f"{word}: no images among {len(paths)} files. Check the address.")
    root = re.split(r"[*?\[]", path)[0].rpartition("/")[0] if glob.has_magic(path) else path.rstrip("/")
    pairs: list[tuple[Path | str, str]] = []
    for name in images:
        relative = name[len(root) :].lstrip("/") if name.startswith(root) and name != root else ""
        pairs.append((system.unstrip_protocol(name), relative or PurePosixPath(name).name))
    left_out = len(paths) - len(images)
    notes = [f"left out: {left_out} files without the suffix of an image"] if left_out else []
    return InputImages(_named(pairs), notes=notes)


def _matches(system: Any, path: str) -> list[str]:
    """Return the files that a path in a storage names, sorted: those of a folder, without subfolders, or a pattern."""
    if glob.has_magic(path):
        return sorted(str(name) for name in system.glob(path))
    if system.isfile(path):
        return [path]
    entries = system.ls(path, detail=True)
    return sorted(str(entry["name"]) for entry in entries if entry["type"] == "file")


def _container_files(word: str, output: Path | None) -> list[str]:
    """Return the tar or Parquet files that an input names outside of `output`; none if it names something else."""
    if word.lower().endswith(_COMPRESSED_TAR):
        raise InputError(f"{word}: a compressed tar file, which must be read from its start. Decompress it to .tar.")
    files = sorted({file for part in _expand(word) for file in _files(part)})
    if output is not None:
        files = [file for file in files if is_remote(file) or not Path(file).is_relative_to(output.absolute())]
    for suffixes in (PARQUET_SUFFIXES, TAR_SUFFIXES):
        containers = [file for file in files if file.lower().endswith(suffixes)]
        if containers and not any(is_image(file) for file in files):
            return containers
    return []


def _files(word: str) -> list[str]:
    """Return the files that a path, an address, a folder or a pattern names."""
    if is_remote(word):
        if word.lower().startswith(URL_SCHEMES):
            return [word]
        system, path = open_storage(word)
        try:
            return [system.unstrip_protocol(name) for name in _matches(system, path)]
        except (OSError, ValueError) as error:
            raise InputError(f"{word}: cannot be listed ({one_line(error)}). Check the address.") from error
    place = local_path(word).absolute()
    if place.is_dir():
        return [str(child) for child in place.iterdir() if not child.name.startswith(".")]
    if place.exists():
        return [str(place)]
    return [str(Path(name).absolute()) for name in glob.glob(str(place), recursive=True)]


def _expand(word: str) -> Iterator[str]:
    """Yield the names of a range such as ``train-{000..127}.tar``, as WebDataset writes it."""
    match = _RANGE.search(word)
    if match is None:
        yield word
        return
    first, last = int(match[1]), int(match[2])
    if not 0 <= last - first < _MAX_RANGE:
        raise InputError(f"{word}: the range {match[0]} is not one of up to {_MAX_RANGE} numbers. Check it.")
    for number in range(first, last + 1):
        yield from _expand(f"{word[: match.start()]}{number:0{len(match[1])}d}{word[match.end() :]}")


def _unique(pairs: Sequence[tuple[ImageItem, str]]) -> list[ImageItem]:
    """Return images of tar and Parquet files with unique names: equal ones start with the name of their file."""
    counts: dict[str, int] = {}
    for item, _ in pairs:
        counts[item.name] = counts.get(item.name, 0) + 1
    taken: dict[str, int] = {}
    items = []
    for item, file in pairs:
        name = item.name if counts[item.name] == 1 or not file else f"{file}/{item.name}"
        wanted, (stem, suffix) = name, posixpath.splitext(name)
        while name in taken:
            taken[wanted] += 1
            name = f"{stem}-{taken[wanted]}{suffix}"
        taken[name] = 1
        items.append(ImageItem(name, item.location, item.start, item.size))
    return items
