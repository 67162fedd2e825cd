"""Processes that end with their parent, however the parent ends: finished, killed by the system, or hung up."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time

PR_SET_PDEATHSIG = 1
"""Option of Linux's `prctl`: the signal that a process receives when its parent ends."""
CHECK_SECONDS = 1.0
"""Interval at which the parent is looked for on other systems."""
KILL = getattr(signal, "SIGKILL", signal.SIGTERM)


def end_with_parent(parent: int, number: int = KILL) -> None:
    """Let this process end when its parent ends.

    On Linux the system sends the signal at once, also while this process waits for a file that never arrives, and also
    when only the thread ends that started this process: call this only if that was the main thread.
    Elsewhere a thread looks for the parent each second. On Windows, which sends no such signal, nothing is done.

    Args:
        parent: number of the parent process. If it has ended already, the signal is sent now.
        number: signal that this process receives.
    """
    if os.name != "posix":
        return
    if not (sys.platform == "linux" and _request_signal(number)):
        threading.Thread(target=_watch, args=(parent, number), daemon=True).start()
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


def end_worker_with_parent() -> None:
    """Let a process of `multiprocessing` end with the process that started it, for all ways of starting processes."""
    import multiprocessing
    from multiprocessing.connection import wait

    parent = multiprocessing.parent_process()
    if parent is None:
        return
    from_main_thread = getattr(multiprocessing.current_process(), "started_in_main_thread", False)
    if sys.platform == "linux" and from_main_thread and os.getppid() == parent.pid and parent.pid is not None:
        end_with_parent(parent.pid)
        return

    def watch() -> None:  # a thread or a fork server is in between, or the system has no signal for it
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _request_signal(number: int) -> bool:
    """Return whether Linux will send a signal when the parent ends."""
    with contextlib.suppress(OSError, AttributeError, ImportError):
        import ctypes

        return bool(ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0) == 0)
    return False


def _watch(parent: int, number: int) -> None:
    while os.getppid() == parent:
        time.sleep(CHECK_SECONDS)
    os.kill(os.getpid(), number)
