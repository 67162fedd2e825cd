"""A log file that a run appends lines to. A full disk costs lines, never the run."""

from __future__ import annotations

from pathlib import Path

from sais.errors import ResourceError


class AppendLog:
    """Append lines to a file; each line is written completely before the next begins.

    Args:
        path: file to append to; created if missing.

    Raises:
        ResourceError: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Unbuffered: a line that cannot be written is lost at once, instead of failing again on close.
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise ResourceError(
                f"{path}: cannot be written ({error.strerror}). Choose another output folder, or fix its permissions."
            ) from error
        self._incomplete = _ends_incomplete(path)
        self.lost = 0
        """Number of lines that could not be written."""
        self.reason = ""
        """Reason why the first lost line could not be written."""

    def add(self, line: str) -> bool:
        """Append a line and return whether it was written."""
        content = line.encode("utf-8", errors="backslashreplace") + b"\n"
        try:
            if self._incomplete:
                self._incomplete = self._file.write(b"\n") != 1
            written = self._file.write(content)
        except (OSError, ValueError) as error:
            self.reason = self.reason or str(getattr(error, "strerror", None) or error)
            self.lost += 1
            return False
        if written != len(content):  # the disk filled up in the middle of the line
            self._incomplete = True
            self.reason = self.reason or "the disk is full"
            self.lost += 1
            return False
        return True

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _ends_incomplete(path: Path) -> bool:
    """Return whether the last line has no line break: a process was killed while it wrote."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 1))
        return file.read(1) not in (b"", b"\n")
