"""Configure glibc's allocator to reuse large blocks, which a network frees and requests again immediately.

By default glibc returns blocks above a certain size to the system after each use, and the system zeroes their pages
when they are requested again. At the sizes of a network that takes 10 to 25 % of the time of a training step on a CPU
(docs/log.md). The process then keeps the memory, so only the `sais` command does this, never an import of the library.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any

# Parameter numbers of mallopt in glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def can_keep_big_blocks() -> bool:
    """Return whether the allocator can be configured, which is the case on Linux with glibc."""
    return _mallopt() is not None


def keep_big_blocks() -> bool:
    """Configure the allocator of this process to keep large blocks; return whether that succeeded."""
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
