"""Ctrl-C and SIGTERM: a run finishes its current step, saves, and then ends. A second Ctrl-C ends it immediately."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Record a request to end the run; use it as a context manager.

    Signals can be caught only in the main thread; in other threads nothing is recorded.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        """Number of the received signal; None if none was received."""
        self._immediate = False
        self._previous_handlers: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._previous_handlers = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def immediately(self) -> Iterator[None]:
        """Let a signal end the run immediately inside the block: everything is saved, as in an evaluation."""
        if self.signal is not None:
            exit_by_signal(self.signal)
        self._immediate = True
        try:
            yield
        finally:
            self._immediate = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        second = self.signal is not None and number == signal.SIGINT
        self.signal = self.signal or number
        if second or self._immediate:
            exit_by_signal(number)


@contextlib.contextmanager
def ignore_worker_deaths() -> Iterator[None]:
    """Ignore the death of image-reading processes inside the block.

    torch raises an exception as soon as it learns of one, even in the middle of an update, half of which would then be
    applied twice. When the next batch is requested, torch notices the death again.
    """
    number = getattr(signal, "SIGCHLD", None)
    if number is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    previous_handler = signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(number, previous_handler)


def exit_by_signal(number: int) -> None:
    """Raise the exception of a program that received a signal: KeyboardInterrupt, or SystemExit (128 + `number`)."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)
