"""Results that grow for as long as a camera runs: entries of JSON arrays and rows of tables, kept on disk.

A table is readable at any time, also after the process was killed. The entries of a JSON file wait in a temporary file
without a name, which the system removes with the process, and are copied into the JSON file at the end.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from sais.errors import ResourceError
from sais.io.atomic import atomic_write, write_text

MAX_BYTES = 2**24
"""Bytes of entries that are held in memory; more are moved to a temporary file."""


class JsonEntries:
    """The entries of a JSON array, of which at most `MAX_BYTES` are in memory.

    Args:
        folder: Folder of the temporary file, which must exist when there are many entries; None for the system's.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._file = tempfile.SpooledTemporaryFile(MAX_BYTES, dir=None if folder is None else str(folder))  # noqa: SIM115
        self._folder, self._count = folder, 0

    def __len__(self) -> int:
        return self._count

    def extend(self, entries: Sequence[Any]) -> None:
        """Append entries.

        Raises:
            ResourceError: The temporary file cannot be written.
        """
        if not entries:
            return
        text = json.dumps(entries)[1:-1]
        try:
            self._file.write(f"{', ' if self._file.tell() else ''}{text}".encode("ascii"))
        except OSError as error:
            raise _write_error(self._folder or Path(tempfile.gettempdir()), error) from error
        self._count += len(entries)

    def copy_to(self, file: BinaryIO) -> None:
        """Write the entries as a JSON array; more may follow later."""
        file.write(b"[")
        self._file.seek(0)
        shutil.copyfileobj(self._file, file)
        file.write(b"]")

    def close(self) -> None:
        """Forget the entries."""
        self._file.close()


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON object atomically.

    Args:
        path: File to write.
        content: Key -> value; those that are `JsonEntries` are copied, without being held in memory.

    Raises:
        ResourceError: The file cannot be written.
    """
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        for number, (key, value) in enumerate(content.items()):
            file.write(f"{', ' if number else '{'}{json.dumps(key)}: ".encode("ascii"))
            if isinstance(value, JsonEntries):
                value.copy_to(file)
            else:
                file.write(json.dumps(value).encode("ascii"))
        file.write(b"}")


class RowFile:
    """A table as text, which is complete up to its last row at any time.

    Args:
        path: File to write; an existing one is replaced by the first row.
        header: First line of the file, with its line end.
    """

    def __init__(self, path: Path, header: str) -> None:
        self._path, self._header = path, header
        self._file: TextIO | None = None

    def append(self, lines: str = "") -> None:
        """Append lines, each with its line end; also none, to create the file.

        Raises:
            ResourceError: The file cannot be written.
        """
        try:
            if self._file is None:
                write_text(self._path, self._header)  # replaces a link instead of its target
                self._file = self._path.open("a", encoding="utf-8", errors="backslashreplace", newline="")
            self._file.write(lines)
            self._file.flush()
        except OSError as error:
            raise _write_error(self._path, error) from error

    def close(self) -> None:
        """Close the file, which exists then also without rows.

        Raises:
            ResourceError: The file cannot be written.
        """
        if self._file is None:
            self.append()
        assert self._file is not None
        try:
            self._file.close()
        except OSError as error:
            raise _write_error(self._path, error) from error


def _write_error(path: Path, error: OSError) -> ResourceError:
    remedy = "Choose another folder, fix its permissions, or free disk space."
    return ResourceError(f"{path}: cannot be written ({error.strerror or error}). {remedy}")
