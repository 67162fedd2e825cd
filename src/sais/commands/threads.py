"""How the threads of torch wait for each other: set for the process of a command, before torch is imported."""

from __future__ import annotations

import os
from collections.abc import MutableMapping

WAIT_SETTINGS = {"OMP_WAIT_POLICY": "passive"}
"""Variable of OpenMP -> value with which threads wait for each other without keeping a core busy. GNU's runtime (torch
on Linux) and LLVM's and Intel's (torch on macOS and Windows) read it. A short busy wait, `GOMP_SPINCOUNT=1000`, is not
faster on a quiet machine and slower on a busy one (docs/performance.md)."""
WAIT_VARIABLES = (*WAIT_SETTINGS, "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""Variables by which a user chooses how threads wait."""


def let_threads_sleep(environment: MutableMapping[str, str] | None = None) -> bool:
    """Let the threads of torch sleep while they wait for each other, instead of keeping their cores busy.

    By default a waiting thread repeats a loop for milliseconds. On a machine with other work the thread that it waits
    for has no core meanwhile, and training becomes many times slower (docs/performance.md). Call this before torch is
    imported: its OpenMP runtime reads the variables once. Values that the user has set remain.

    Args:
        environment: variables to change; those of this process if None.

    Returns:
        Whether something was changed.
    """
    environment = os.environ if environment is None else environment
    if any(name in environment for name in WAIT_VARIABLES):
        return False
    environment.update(WAIT_SETTINGS)
    return True
