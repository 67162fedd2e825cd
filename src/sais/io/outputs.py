"""The rule for files that are written: never onto a file that was read, and onto one of others only if asked.

Every command checks its outputs here before its work starts. It recognizes a file that it has written itself by a mark
in the content (`written_by`), so that it can be repeated; a format without room for a mark, such as a list of COCO
results, counts as a file of others. Symbolic links are not followed below the output folder: a link at the place of a
file is replaced only if that is asked for, and its target stays as it is.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path

from sais.errors import InputError
from sais.io.atomic import check_writable

EXPORT, PAGE = "sais export", "sais page"
"""Writers whose files have marks of their own: exported models and HTML pages."""

_HEAD_BYTES = 1024
_TAIL_BYTES = 2**18
_ONNX_PRODUCER = b"\x12\x04sais"
_TAIL_MARKS = {
    (EXPORT, ".xml"): b"sais-graph-",
    (EXPORT, ".pt2"): b"/sais.json",
    (PAGE, ".html"): b"<footer>Written by sais",
}
"""(writer, suffix) -> mark near the end: OpenVINO's metadata, a file in torch.export's archive, a footer."""
_COMPANIONS = {".bin": ".xml", ".md": ".json", ".csv": ".json"}
"""Suffix of a file without a mark -> suffix of the marked file of the same name that is written before it."""


def mark_text(writer: str) -> str:
    """Return the text that marks an image of a writer: a JPEG comment, a PNG text."""
    return f"written by {writer};"


def written_by(writer: str) -> Callable[[Path], bool]:
    """Return a function that recognizes the files of a writer, such as "sais eval", by the marks in their content.

    JSON files have an entry ``"written_by": "sais eval"`` near their start, images a comment (`mark_text`).
    """
    marks = ((b"{", f'"written_by": "{writer}"'), (b"\xff\xd8\xff", mark_text(writer)), (b"\x89PNG", mark_text(writer)))

    def recognize(path: Path) -> bool:
        path = path.with_suffix(_COMPANIONS.get(path.suffix, path.suffix))
        tail_mark = _TAIL_MARKS.get((writer, path.suffix))
        if tail_mark is not None:
            return tail_mark in _read(path, tail=True)
        head = _read(path)
        if writer == EXPORT:
            return path.suffix == ".onnx" and _ONNX_PRODUCER in head
        return any(head.startswith(start) and mark.encode() in head for start, mark in marks)

    return recognize


def starts_with(mark: str) -> Callable[[Path], bool]:
    """Return a function that recognizes files by a text near their start."""
    return lambda path: mark.encode() in _read(path)


def _read(path: Path, tail: bool = False) -> bytes:
    """Return the start or the end of a regular file; nothing if it cannot be read."""
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            return b""
        with path.open("rb") as file:
            if not tail:
                return file.read(_HEAD_BYTES)
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            return file.read()
    except OSError:
        return b""


def check_outputs(
    outputs: Iterable[Path],
    inputs: Iterable[Path] = (),
    overwrite: bool = False,
    folder: Path | None = None,
    own: Callable[[Path], bool] = lambda path: False,
) -> None:
    """Check that files may be written. Creates nothing.

    Args:
        outputs: files that will be written.
        inputs: files that are read; consumed only if an output exists.
        overwrite: whether files of others and symbolic links are replaced; never those that are read.
        folder: output folder; below it no folder may be a symbolic link. None: only the files are checked.
        own: function that recognizes the files that may be replaced, such as `written_by("sais eval")`; by default
            none are.

    Raises:
        InputError: a file would replace one that is read or one of others, its folder cannot be created or written
            to, or something else than a file exists at its path.
    """
    outputs = list(outputs)
    parents = dict.fromkeys(path.parent for path in outputs)
    for parent in parents if folder is None else [folder]:
        check_writable(parent)
    if folder is not None:
        for parent in parents:
            _check_links(parent, folder)
    if len({os.path.abspath(path) for path in outputs}) < len(outputs):
        raise InputError(f"{outputs[-1]}: two outputs have this path. Give each a path of its own.")
    existing = [path for path in outputs if os.path.lexists(path)]
    read = file_identities(inputs) if existing else set()
    for path in existing:
        if file_identities([path]) & read:
            raise InputError(f"{path}: would replace a file that is read. Choose another output.")
        if path.is_dir():
            raise InputError(f"{path}: is a folder. Give the name of a file.")
        if path.exists() and not path.is_file():
            raise InputError(f"{path}: is a device or pipe. Give the name of a file.")
        if overwrite:
            continue
        if path.is_symlink():
            raise InputError(
                f"{path}: is a symbolic link, which is not followed. Choose another output, or replace the link with "
                "overwrite=True."
            )
        if not own(path):
            raise InputError(
                f"{path}: exists, and is not an earlier output of this kind. Choose another output, or replace it with "
                "overwrite=True."
            )


def file_identities(paths: Iterable[Path]) -> set[tuple[int, int]]:
    """Return device and number of the files and folders that exist, which are equal for all names of one."""
    identities = set()
    for path in paths:
        with contextlib.suppress(OSError, ValueError):
            status = os.stat(path)
            identities.add((status.st_dev, status.st_ino))
    return identities


def _check_links(parent: Path, folder: Path) -> None:
    """Raise InputError if a folder between an output and the output folder is a symbolic link."""
    while parent not in (folder, parent.parent):
        if parent.is_symlink():
            raise InputError(f"{parent}: is a symbolic link, which is not followed. Choose another output folder.")
        parent = parent.parent
