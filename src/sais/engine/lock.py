"""Whether a process is at a run: its log is locked for as long as the process lives, and a killed one holds nothing.

Neither do the processes that read images for it: they would outlive a killed one for some seconds, in which the run
could not be resumed.
"""

from __future__ import annotations

import os
import time
import weakref
from pathlib import Path
from typing import IO

PATIENCE = 0.5
"""Seconds that `lock` waits: `is_locked` of another process holds the file for a moment too."""


_held: weakref.WeakSet[IO[bytes]] = weakref.WeakSet()


def _let_go() -> None:
    """In a forked process: close what the parent holds. The parent's own lock stays."""
    for file in list(_held):
        file.close()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_let_go)


def lock(file: IO[bytes]) -> bool:
    """Make an open file ours until it is closed or the process ends; whether that went well.

    True also where the system has no such locks (Windows, some network file systems): nobody is kept out there.
    """
    until = time.monotonic() + PATIENCE
    while _try(file, exclusive=True) is False:
        if time.monotonic() > until:
            return False
        time.sleep(PATIENCE / 10)
    _held.add(file)
    return True


def is_locked(path: Path) -> bool | None:
    """Whether a living process holds a file by `lock`; None where that cannot be known."""
    try:
        with path.open("rb") as file:
            free = _try(file, exclusive=False)
    except OSError:
        return None
    return None if free is None else not free


def _try(file: IO[bytes], exclusive: bool) -> bool | None:
    """Whether the lock was free, and is ours now; None where there are no locks."""
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    try:
        # Not lockf: its locks go with the first descriptor that is closed, such as that of someone who reads the file.
        fcntl.flock(file, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return None
    return True
