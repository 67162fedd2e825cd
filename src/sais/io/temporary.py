"""Temporary folders, named for the process that owns them: those of killed processes are known as ours and removed.

A name such as `.last.safetensors.5f2b81c0-4711-9e8d7c6b-0.writing` states machine, process, a number drawn by that
process, and a counter. A process removes the folders of dead processes in each place where it creates its first one.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import os
import platform
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

PATTERN = re.compile(r".*\.([0-9a-f]{8})-(\d+)-([0-9a-f]{8})-\d+\.writing", re.DOTALL)
"""Names of temporary folders: machine, process, number drawn by the process."""
FOREIGN_SECONDS = 24 * 3600.0
"""Age from which folders of other machines are removed; whether their processes are alive cannot be known."""
MAX_NAME = 24
"""Maximum number of characters of the file's name in the name of its temporary folder."""

_counter = itertools.count()
_cleaned: set[tuple[int, str]] = set()


@contextlib.contextmanager
def temporary_folder(parent: Path | None = None, name: str = "sais") -> Iterator[Path]:
    """Yield a new folder, which is removed with its content at the end of the block.

    If the process is killed in the block, the folder is removed when another one is created in the same place.

    Args:
        parent: existing folder to create it in; None for the system's folder for temporary files.
        name: start of its name.

    Raises:
        OSError: the folder cannot be created.
    """
    folder = create_temporary_folder(parent, name)
    try:
        yield folder
    finally:  # also after Ctrl-C
        shutil.rmtree(folder, ignore_errors=True)


def create_temporary_folder(parent: Path | None = None, name: str = "sais") -> Path:
    """Create a folder as `temporary_folder` does, which the caller removes.

    Raises:
        OSError: the folder cannot be created.
    """
    place = Path(tempfile.gettempdir()) if parent is None else parent
    key = (os.getpid(), os.path.abspath(place))
    if key not in _cleaned:
        _cleaned.add(key)
        remove_leftovers(place)
    owner = f"{_machine()}-{os.getpid()}-{_token(os.getpid())}-{next(_counter)}"
    folder = place / f"{name[:MAX_NAME]}.{owner}.writing"
    folder.mkdir(mode=0o700)
    return folder


def remove_leftovers(place: Path, names: tuple[str, ...] = ()) -> int:
    """Remove the temporary folders of killed processes in a folder, and return their number.

    Args:
        place: folder to look in, not in its subfolders.
        names: names of files of which no other process is writing one, so that every temporary folder of them is left
            over.
    """
    removed = 0
    starts = tuple(f".{name[:MAX_NAME]}"[:MAX_NAME] + "." for name in names)
    with contextlib.suppress(OSError), os.scandir(place) as entries:
        for entry in entries:
            match = PATTERN.fullmatch(entry.name)
            if match is None or not entry.is_dir(follow_symlinks=False):
                continue
            own = match[2] == str(os.getpid()) and match[3] == _token(os.getpid())
            if not own and (entry.name.startswith(starts) or _is_left_over(entry, match)):
                shutil.rmtree(entry.path, ignore_errors=True)
                removed += 1
    return removed


def _is_left_over(entry: os.DirEntry[str], match: re.Match[str]) -> bool:
    """Return whether the owner of a temporary folder is dead."""
    if match[1] == _machine() and os.name == "posix":
        pid = int(match[2])
        return pid == os.getpid() or not _is_alive(pid)  # the same number with another token: a restarted container
    return time.time() - entry.stat(follow_symlinks=False).st_mtime > FOREIGN_SECONDS


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # a process of another user
        return True
    return True


@functools.cache
def _machine() -> str:
    """Return a number of the machine; containers on it have process numbers of their own and count as machines."""
    try:
        namespace = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        namespace = 0
    return hashlib.sha256(f"{platform.node()} {namespace}".encode()).hexdigest()[:8]


@functools.cache
def _token(pid: int) -> str:
    """Return a number drawn once for a process; a forked process has another one."""
    return secrets.token_hex(4)
