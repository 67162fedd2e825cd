"""Lets glibc keep the big blocks that a network frees and asks for again a moment later.

By default glibc returns blocks above some size to the system after each use, and the system hands them back page by
page, zeroed. At a network's sizes that is 10 to 25 % of the time of a training step on a CPU (docs/log.md).
Memory that was used once then stays with the process, so only our own command does this, never the import of a library.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def can_keep_big_blocks() -> bool:
    """Whether the allocator can be changed: on Linux with glibc."""
    return _mallopt() is not None


def keep_big_blocks() -> bool:
    """Change the process's allocator so; returns whether it could be changed."""
    mallopt = _mallopt()
    if mallopt is None:
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 64 * 2**20))
    return all(mallopt(name, value) == 1 for name, value in settings)


def _mallopt() -> Any:
    if not sys.platform.startswith("linux"):
        return None
    try:
        return ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return None
