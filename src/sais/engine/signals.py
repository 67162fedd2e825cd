"""Ctrl-C, SIGTERM and SIGHUP: a run finishes its current step, saves, and then ends. The second one ends it at once.

SIGHUP is sent when a terminal is closed; a run started with `nohup` ignores it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
REPEAT_SECONDS = 1.0
"""SIGTERM received again sooner than this is the same request: `timeout`, systemd and torchrun send it to a process and
to its group."""
EXIT_SECONDS = 5.0
"""Time that a command takes at most to end after SIGTERM or SIGHUP."""


class StopRequest:
    """Record a request to end the run; use it as a context manager.

    Signals can be caught only in the main thread; in other threads nothing is recorded.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        """Number of the received signal; None if none was received."""
        self._immediate = False
        self._time = 0.0
        self._previous_handlers: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            # Python cannot restore a handler (None) of the program that it is part of, such as R.
            handled = [n for n in SIGNALS if not _is_ignored_hangup(n) and signal.getsignal(n) is not None]
            self._previous_handlers = {number: signal.signal(number, self._handle) for number in handled}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def immediately(self) -> Iterator[None]:
        """Let a signal end the run immediately inside the block: everything is saved, as in an evaluation.

        Processes that read images are killed then: each may wait for an image that never arrives.
        """
        if self.signal is not None:
            exit_by_signal(self.signal)
        self._immediate = True
        try:
            yield
        except (KeyboardInterrupt, SystemExit):
            from sais.data.workers import kill_workers

            with ignore_worker_deaths():
                kill_workers()
            raise
        finally:
            self._immediate = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.signal is None:
            self.signal, self._time, second = number, now, False
        else:
            repeated = number == signal.SIGTERM and now - self._time >= REPEAT_SECONDS
            second = number == signal.SIGINT or repeated
        if second or self._immediate:
            exit_by_signal(number)


def _is_ignored_hangup(number: int) -> bool:
    return number == getattr(signal, "SIGHUP", None) and signal.getsignal(number) == signal.SIG_IGN


@contextlib.contextmanager
def ignore_worker_deaths() -> Iterator[None]:
    """Ignore the death of image-reading processes inside the block.

    torch raises an exception as soon as it learns of one, even in the middle of an update, half of which would then be
    applied twice. When the next batch is requested, torch notices the death again.
    """
    number = getattr(signal, "SIGCHLD", None)
    in_main_thread = threading.current_thread() is threading.main_thread()
    if number is None or not in_main_thread or signal.getsignal(number) is None:
        yield
        return
    previous_handler = signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(number, previous_handler)


def is_worker_death(error: BaseException) -> bool:
    """Return whether torch raised an exception because an image-reading process has ended."""
    return isinstance(error, RuntimeError) and "DataLoader worker (pid" in str(error)


def exit_on_signals() -> None:
    """Let SIGTERM and SIGHUP raise SystemExit, so that temporary files are removed; for the process of a command.

    Signals that are ignored or handled already remain so. The second signal, unless it is the same request
    (`REPEAT_SECONDS`), ends the process at once; the first one after `EXIT_SECONDS`, for example if a thread waits for
    a file that never arrives.
    """
    for number in SIGNALS:
        if number != signal.SIGINT and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _exit)


def exit_soon(code: int) -> None:
    """End this process after `EXIT_SECONDS` if it has not ended by then."""
    timer = threading.Timer(EXIT_SECONDS, os._exit, (code,))
    timer.daemon = True
    timer.start()


def _exit(number: int, frame: FrameType | None) -> None:
    received = time.monotonic()

    def end(number: int, frame: FrameType | None) -> None:
        if time.monotonic() - received >= REPEAT_SECONDS:
            os._exit(128 + number)

    signal.signal(number, end)
    exit_soon(128 + number)
    exit_by_signal(number)


def exit_by_signal(number: int) -> None:
    """Raise the exception of a program that received a signal: KeyboardInterrupt, or SystemExit (128 + `number`)."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)
