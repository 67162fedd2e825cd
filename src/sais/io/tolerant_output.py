"""Output that may be lost: a closed pipe or a full disk of a log costs lines of text, never the work itself."""

from __future__ import annotations

import contextlib
import os
import sys
from types import TracebackType
from typing import Any


class TolerantOutput:
    """Let `print` lose lines that cannot be written, instead of raising; use it as a context manager.

    Inside the block, `sys.stdout` and `sys.stderr` are replaced by streams that count the lost lines.
    """

    def __init__(self) -> None:
        self.lost = 0
        """Number of lines that could not be written."""
        self.reason = ""
        """Reason why the first one could not be written."""
        self._replaced: dict[str, tuple[Any, _Stream]] = {}

    def __enter__(self) -> TolerantOutput:
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream is not None:
                self._replaced[name] = stream, _Stream(stream, self)
                setattr(sys, name, self._replaced[name][1])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name, (stream, tolerant) in self._replaced.items():
            tolerant.flush()
            if tolerant.failed:  # or the end of Python would report what remains in its buffer
                discard(stream)
            if getattr(sys, name) is tolerant:
                setattr(sys, name, stream)

    def summary(self) -> str:
        """Return a line about the lost lines; empty if there are none."""
        return f"{self.lost} lines of output could not be written ({self.reason})" if self.lost else ""


class _Stream:
    """A text stream whose methods `write` and `flush` never raise."""

    def __init__(self, stream: Any, output: TolerantOutput) -> None:
        self._stream, self._output = stream, output
        self.failed = False
        """Whether the last call failed."""
        self._closed = False

    def write(self, text: str) -> int:
        if self._closed:
            self._output.lost += text.count("\n")
            return len(text)
        try:
            self._stream.write(text)
            self.failed = False
        except (OSError, ValueError) as error:
            self._record(error, text.count("\n"))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        if self._closed:
            return
        try:
            self._stream.flush()
            self.failed = False
        except (OSError, ValueError) as error:
            self._record(error, 1)

    def _record(self, error: OSError | ValueError, lines: int) -> None:
        self.failed = True
        self._output.lost += lines
        self._output.reason = self._output.reason or str(getattr(error, "strerror", None) or error)
        if isinstance(error, (BrokenPipeError, ValueError)):  # the reader is gone for ever
            self._closed = True
            discard(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def discard(stream: Any) -> None:
    """Let nothing more be written to a stream of the process, so that the end of Python reports no error."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # it may be no file
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
