"""Atomic file writes, for reports, results, checkpoints and exports: a file is complete or not written at all."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from sais.errors import InputError, ResourceError

REPLACE_SECONDS = 2.0
"""Maximum time that `replace_file` waits on Windows for another process to close a file."""
MAX_FOLDER_DEPTH = 200
"""Maximum number of folders in an absolute path: Python creates missing ones by recursion."""
WAITS = os.name == "nt"
"""Whether open files cannot be replaced on this system."""


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically; see `atomic_write`."""
    # A file name that is not valid UTF-8 contains lone surrogates; it is no reason to lose a report.
    write_bytes(path, text.encode("utf-8", errors="backslashreplace"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a binary file atomically; see `atomic_write`."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


@contextlib.contextmanager
def atomic_write(path: Path, *, sync: bool = False, previous: Path | None = None) -> Iterator[Path]:
    """Yield a path of the same name in a temporary folder next to `path`; at the end of the block it is renamed.

    Missing folders are created. If the block raises, the temporary folder is removed and `path` keeps its old content.
    If the process is killed, the next write into the same folder by another process removes it. If several processes
    write the same path, the last one wins.

    Args:
        path: file to write.
        sync: whether the content is flushed to the disk before the rename, so that a power failure cannot lose it.
        previous: path that receives the old content of `path`. On file systems with hard links `path` exists at all
            times.

    Raises:
        ResourceError: the file cannot be written.
    """
    from sais.io.temporary import temporary_folder

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary_folder(path.parent, f".{path.name}") as folder:
            temporary = folder / path.name
            yield temporary
            os.chmod(temporary, 0o644)  # some writers create files that only the owner can read
            if sync:
                _flush(temporary)
            if previous is not None and path.exists():
                _keep(path, previous, folder)
            replace_file(temporary, path)
            if sync and os.name != "nt":  # Windows cannot open folders
                _flush(path.parent)
    except OSError as error:
        remedy = "Choose another folder, fix its permissions, or free disk space."
        raise ResourceError(f"{path}: cannot be written ({error.strerror or error}). {remedy}") from error


def replace_file(source: Path, target: Path) -> None:
    """Rename a file and replace `target`.

    On Windows that fails while any process has one of the two open, which indexers and virus scanners do for a moment
    after each write. It is therefore tried again for `REPLACE_SECONDS`.

    Raises:
        OSError: the file cannot be renamed.
    """
    end = time.monotonic() + (REPLACE_SECONDS if WAITS else 0.0)
    while True:
        try:
            os.replace(source, target)
        except PermissionError:
            if time.monotonic() >= end:
                raise
            time.sleep(0.02)
        else:
            return


def _keep(path: Path, previous: Path, folder: Path) -> None:
    """Make `previous` a second name of the file at `path`, by way of a temporary folder."""
    link = folder / "previous"
    try:
        os.link(path, link)
    except OSError:  # a file system without hard links: until the rename only `previous` exists, which resuming accepts
        replace_file(path, previous)
    else:
        replace_file(link, previous)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR if path.is_file() else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_writable(folder: Path) -> None:
    """Raise InputError unless `folder` exists or can be created, and can be written to. Creates nothing."""
    parent = folder.absolute()
    if len(parent.parts) > MAX_FOLDER_DEPTH:
        raise InputError(
            f"{folder}: {len(parent.parts)} folders below each other, above the limit of {MAX_FOLDER_DEPTH}. Choose "
            "another output folder."
        )
    while not os.path.lexists(parent):
        parent = parent.parent
    if not parent.is_dir():
        raise InputError(f"{folder}: {parent} is not a folder. Choose another output folder.")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(f"{folder}: {parent} is not writable. Choose another output folder or change the permissions.")
