"""A file that a run adds lines to as long as it lasts. A disk that fills up costs lines, never the run."""

from __future__ import annotations

from pathlib import Path

from sais.engine.lock import lock
from sais.errors import SaisError


class AppendLog:
    """Lines added to the end of a file, each whole before the next begins.

    Args:
        path: made where it is missing.
        alone: hold the file, so that no other process adds to it.

    Raises:
        SaisError: it cannot be opened, or another process holds it.
    """

    def __init__(self, path: Path, alone: bool = False) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Without a buffer, a line that does not fit is lost, and not kept to fail again when the file is closed.
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise SaisError(f"{path}: cannot be written ({error.strerror}); choose another --out") from error
        if alone and not lock(self._file):
            self._file.close()
            raise SaisError(f"{path.parent}: another process is at this run; wait for it, or choose another --out")
        self._torn = _ends_torn(path)
        self.lost = 0
        """Lines that could not be written."""
        self.reason = ""
        """Why the first of them could not."""

    def add(self, line: str) -> bool:
        """Add a line, and say whether it was written."""
        content = line.encode("utf-8", errors="backslashreplace") + b"\n"
        try:
            if self._torn:
                self._torn = self._file.write(b"\n") != 1
            written = self._file.write(content)
        except (OSError, ValueError) as error:
            self.reason = self.reason or str(getattr(error, "strerror", None) or error)
            self.lost += 1
            return False
        if written != len(content):  # the disk was full in the middle of it
            self._torn = True
            self.reason = self.reason or "the disk is full"
            self.lost += 1
            return False
        return True

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


def _ends_torn(path: Path) -> bool:
    """Whether the last line lacks its end: a process was killed while it wrote."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 1))
        return file.read(1) not in (b"", b"\n")
