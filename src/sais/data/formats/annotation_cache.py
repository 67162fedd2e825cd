"""Large annotation files as they were read, in files that every process maps into memory.

An entry is used only if nothing that its reading depended on has changed: the annotation file (path, size, times,
inode), the names in the folders of its images, the options, the code and limits of the readers. Entries are in
`cache_folder()`, never next to the data of the user, and contain no code.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from sais import input_limits
from sais._version import __version__
from sais.data.formats.image_files import folder_digests
from sais.data.packed_annotations import AnnotationTable, PackedImages
from sais.errors import SaisError
from sais.io.array_file import map_arrays, write_arrays

VARIABLE = "SAIS_CACHE"
"""Environment variable with the folder of the cache, or "off"."""
MIN_FILE_BYTES = 20 * 10**6
"""Size of an annotation file from which its reading is cached; smaller ones are read in a second."""
MAX_CACHE_BYTES = 8 * 2**30
"""Total size of the entries; beyond it, those that were not used for the longest time are removed."""
SETTLED_SECONDS = 2.0
"""Age from which a file is cached: another write within the resolution of its time would not be noticed."""
LOCK_SECONDS = 300.0
"""Maximum time that a process waits for another one that reads the same file."""
_SUFFIX = ".annotations"


@dataclass(frozen=True)
class Reading:
    """What a reader made of an annotation file."""

    class_names: tuple[str, ...]
    """C names, label 0 first."""
    category_ids: tuple[int, ...]
    """C ids, label 0 first."""
    images: PackedImages
    """Images and their objects."""
    counts: dict[str, int]
    """`Notes.counts`."""
    examples: dict[str, list[str]]
    """`Notes.examples`."""
    problems: dict[str, list[str]]
    """`Notes.problems`."""
    paths: tuple[Path, ...] = ()
    """Files of the images; empty if only the arrays have them."""


def cache_folder() -> Path | None:
    """Return the folder of the entries; None if the cache is switched off."""
    value = os.environ.get(VARIABLE, "")
    if value.lower() in ("off", "0", "no", "false"):
        return None
    if value:
        return Path(value) / "annotations"
    base = os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME", "")
    try:
        return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "sais" / "annotations"
    except RuntimeError:  # no home folder
        return None


class CacheEntry:
    """The entry of an annotation file and of the options of reading it.

    Args:
        file: The annotation file.
        options: Values that decide what is read from it, which JSON can hold.
    """

    def __init__(self, file: Path, options: dict[str, Any]) -> None:
        self._file = file
        self._started = time.time()
        self._state = _state(file)
        self._key: dict[str, Any] = {}
        self.path: Path | None = None
        """File of the entry; None if the annotation file is small, or the cache is switched off."""
        folder = cache_folder()
        size = -1 if self._state is None else self._state[0]
        if folder is None or not MIN_FILE_BYTES <= size <= input_limits.MAX_JSON_BYTES:
            return
        key = {
            "file": os.path.abspath(file),
            "name": str(file),
            "state": self._state,
            "options": options,
            "reader": _reader_version(),
            "limits": {name: value for name, value in vars(input_limits).items() if name.isupper()},
        }
        text = json.dumps(key, sort_keys=True)
        self._key = json.loads(text)  # as the header of the file has it
        self.path = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:40]}{_SUFFIX}"

    def load(self) -> Reading | None:
        """Return the reading; None if there is none, or something that it depended on has changed."""
        if self.path is None:
            return None
        try:
            header, arrays = map_arrays(self.path)
            if header["key"] != self._key or header["folders"] != folder_digests(header["folders"]):
                return None
            images = PackedImages(AnnotationTable.from_arrays(arrays), file=self.path)
            class_names = tuple(header["class_names"])
            if not 0 <= images.table.labels.min(initial=0) <= images.table.labels.max(initial=0) < len(class_names):
                return None
            reading = Reading(
                class_names,
                tuple(header["category_ids"]),
                images,
                header["counts"],
                header["examples"],
                header["problems"],
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None  # missing, damaged or not ours
        with contextlib.suppress(OSError):
            os.utime(self.path)  # the time of its last use
        return reading

    def store(self, reading: Reading, folders: dict[str, str]) -> Reading:
        """Write the entry, and return the reading as it is mapped from it; unchanged if it cannot be written.

        Args:
            reading: The reading.
            folders: Digests of the names in the folders that it depended on (`ImageFiles.digests`).
        """
        state = _state(self._file)
        settled = state is not None and max(state[1:3]) / 1e9 < self._started - SETTLED_SECONDS
        if self.path is None or state != self._state or not settled:
            return reading
        header = {
            "key": self._key,
            "folders": folders,
            "class_names": reading.class_names,
            "category_ids": reading.category_ids,
            "counts": reading.counts,
            "examples": reading.examples,
            "problems": reading.problems,
        }
        try:
            write_arrays(self.path, header, reading.images.table.arrays())
            _remove_oldest(self.path)
        except (OSError, SaisError, ValueError):  # no space, no permission, ids beyond 64 bits
            return reading
        return self.load() or reading

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Let one process of several read the file while the others wait for its entry; without a cache, do nothing."""
        if self.path is None:
            yield
            return
        from filelock import FileLock, Timeout

        lock = FileLock(self.path.parent / "lock", timeout=LOCK_SECONDS)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except (OSError, Timeout, NotImplementedError):  # a file system without locks: each process reads the file
            yield
            return
        try:
            yield
        finally:
            lock.release()


def _state(file: Path) -> list[int] | None:
    """Return size, times and inode of a file; None if it is missing."""
    try:
        status = file.stat()
    except (OSError, ValueError):
        return None
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


@cache
def _reader_version() -> str:
    """Return a digest of the code that reads annotations, so that another version of it does not use old entries."""
    digest = hashlib.blake2b(f"{__version__} {np.__version__}".encode(), digest_size=16)
    folder = Path(__file__).parent
    for path in sorted([*folder.glob("*.py"), *folder.parent.glob("*.py")]):
        with contextlib.suppress(OSError):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _remove_oldest(newest: Path) -> None:
    """Remove the entries that were not used for the longest time, if all of them are beyond `MAX_CACHE_BYTES`."""
    entries = []
    for path in newest.parent.glob(f"*{_SUFFIX}"):
        with contextlib.suppress(OSError):
            status = path.stat()
            entries.append((path != newest, -status.st_mtime_ns, status.st_size, path))
    total = 0
    for is_other, _, size, path in sorted(entries):
        total += size
        if is_other and total > MAX_CACHE_BYTES:
            with contextlib.suppress(OSError):  # on Windows, another process maps it
                path.unlink()
