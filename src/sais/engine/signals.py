"""Ctrl-C and SIGTERM: a run finishes the step it is in, saves, and only then ends. A second Ctrl-C ends it at once."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Notes that the run is to end; use it as a context manager. Outside the main thread no signal can be caught, and
    it notes nothing."""

    def __init__(self) -> None:
        self.signal: int | None = None
        """The number of the signal that came; None as long as none did."""
        self._at_once = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """While nothing can be lost, as in an evaluation after everything was saved, a signal ends the run at once."""
        if self.signal is not None:
            exit_by_signal(self.signal)
        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        second = self.signal is not None and number == signal.SIGINT
        self.signal = self.signal or number
        if second or self._at_once:
            exit_by_signal(number)


@contextlib.contextmanager
def defer_signals() -> Iterator[None]:
    """While it lasts, the death of a process that reads images raises nothing.

    torch raises where it hears of one, be it in the middle of an update, half of which would then be made twice. Later,
    when the next batch is asked for, it hears of it again.
    """
    number = getattr(signal, "SIGCHLD", None)
    if number is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(number, before)


def exit_by_signal(number: int) -> None:
    """Raise what ends a program that got the signal: KeyboardInterrupt, or SystemExit (128 + `number`)."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)
