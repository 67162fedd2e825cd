"""The lock of a run's folder: at most one process trains there. The lock of a killed process is free at once.

The lock is the file `run.lock`, held through the filelock package. The processes that read images do not hold it, so
they cannot keep a killed run locked until they notice that their parent is gone.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from sais.errors import ResourceError

if TYPE_CHECKING:
    from filelock import BaseFileLock

LOCK_FILE = "run.lock"
"""Name of the lock file in a run's folder. It stays there and marks the folder as a run of sais."""
LOCK_TIMEOUT = 0.5
"""Seconds that `lock_run` waits: `is_locked` of another process holds the lock for a moment as well."""
PRESERVE_LOCK_FILE = os.name == "nt"
"""On Windows filelock removes the file on release by default, and the folder would no longer be known as a run."""
PROBE_TIMEOUT = 0.05
"""Seconds that `is_locked` waits, since another process may be probing at the same moment."""


def lock_run(folder: Path, name: str = LOCK_FILE) -> BaseFileLock:
    """Lock the folder of a run until `release()` is called or the process ends; create the folder if missing.

    Args:
        folder: folder of the run.
        name: name of the lock file; another one for a folder that is not a run.

    Raises:
        ResourceError: another process trains in this folder, or the lock file cannot be written.
    """
    from filelock import FileLock, Timeout

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / name, preserve_lock_file=PRESERVE_LOCK_FILE)
        lock.acquire(timeout=LOCK_TIMEOUT)
    except Timeout as error:
        raise ResourceError(
            f"{folder}: another process is training in this folder. Wait for it, or choose another output folder."
        ) from error
    except OSError as error:
        raise ResourceError(
            f"{folder}: cannot be written ({error.strerror}). Choose another output folder, or fix its permissions."
        ) from error
    return lock


def is_locked(folder: Path) -> bool | None:
    """Return whether a process is training in a run's folder; None if that cannot be determined."""
    from filelock import FileLock, Timeout

    if not (folder / LOCK_FILE).exists():
        return False
    lock = FileLock(folder / LOCK_FILE, preserve_lock_file=PRESERVE_LOCK_FILE)
    try:
        lock.acquire(timeout=PROBE_TIMEOUT, poll_interval=PROBE_TIMEOUT / 5)
    except Timeout:
        return True
    except OSError:  # no permission, or a file system without locks
        return None
    lock.release()
    return False
