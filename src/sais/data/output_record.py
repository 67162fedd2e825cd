"""The record of written files: which files of a folder a command may replace or remove when it is repeated.

Text files of labels and copied images have no room for a mark (`sais.io.outputs`). The record `.sais-written` lists
each file with its size and time of modification: a file that has been edited since, such as labels corrected in a
labeling tool, is one of the user. Each line is written right after its file: a killed command can be repeated.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from types import TracebackType
from typing import TextIO

from sais.io.atomic import write_text

RECORD = ".sais-written"
_HEAD = "files written by sais: size, time of modification, path\n"


class OutputRecord:
    """The files that a command has written to a folder; use it as a context manager while files are written.

    Args:
        folder: The output folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / RECORD
        self._earlier = _read(self.path)
        self._written: set[str] = set()
        self._file: TextIO | None = None

    def is_own(self, path: Path) -> bool:
        """Return whether a file is the record, or is as an earlier command has written it."""
        if path == self.path:
            return _is_record(path)
        state = self._earlier.get(path.relative_to(self.folder).as_posix())
        return state is not None and state == _state(path)

    def __enter__(self) -> OutputRecord:
        write_text(self.path, _HEAD + _lines(self._earlier))
        self._file = self.path.open("a", encoding="utf-8", errors="surrogateescape", newline="\n")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, name: str) -> None:
        """Add a written file by its path below the folder, with slashes."""
        assert self._file is not None
        self._written.add(name)
        self._file.write(_lines({name: _state(self.folder / name)}))
        self._file.flush()

    def remove_others(self) -> int:
        """Delete unchanged files of an earlier command that this one has not written; return their number."""
        count = 0
        for name in self._earlier.keys() - self._written:
            path = self.folder / name
            if self.is_own(path) and path.resolve().is_relative_to(self.folder.resolve()):
                path.unlink()
                count += 1
                with contextlib.suppress(OSError):  # not empty
                    path.parent.rmdir()
        return count


def _state(path: Path) -> tuple[int, int]:
    """Return size and time of modification of a regular file; zeros for anything else."""
    if path.is_symlink() or not path.is_file():
        return 0, 0
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _lines(states: dict[str, tuple[int, int]]) -> str:
    return "".join(f"{size} {time} {name}\n" for name, (size, time) in states.items())


def _is_record(path: Path) -> bool:
    with contextlib.suppress(OSError), path.open("rb") as file:
        return not path.is_symlink() and file.read(len(_HEAD)) == _HEAD.encode()
    return False


def _read(path: Path) -> dict[str, tuple[int, int]]:
    """Return the files of a record; none if it is not one."""
    states: dict[str, tuple[int, int]] = {}
    if not os.path.lexists(path) or not path.is_file() or not _is_record(path):
        return states
    for line in path.read_text(encoding="utf-8", errors="surrogateescape").split("\n")[1:]:
        size, _, others = line.partition(" ")
        time, _, name = others.partition(" ")
        if name and size.isdigit() and time.isdigit() and not os.path.isabs(name) and ".." not in Path(name).parts:
            states[name] = (int(size), int(time))
    return {name: state for name, state in states.items() if state != (0, 0)}
