"""Processes that read images: how they start where Python does not fork, and what they leave behind: nothing.

On Windows and macOS, a new process imports the main script, which without an `if __name__ == "__main__":` starts
everything again. The processes of a `DataLoader` need the package only. So they start without the main script, unless
the data set contains functions or classes of it. In that case the script must have the guard, which is checked before
anything starts.
"""

from __future__ import annotations

import contextlib
import gc
import io
import multiprocessing
import os
import pickle
import shutil
import signal
import sys
import threading
import types
import weakref
from collections.abc import Iterator
from multiprocessing.context import BaseContext, SpawnContext, SpawnProcess
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue
from multiprocessing.reduction import ForkingPickler
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any

from sais.errors import InputError
from sais.io.temporary import create_temporary_folder
from sais.parent_process import end_worker_with_parent

_processes: weakref.WeakSet[BaseProcess] = weakref.WeakSet()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_processes.clear)  # they are not the new process's own
MAX_SOCKET_FOLDER = 85
"""Maximum number of bytes of the path of a folder with sockets: macOS takes 103 bytes in total, Linux 107, and Python
adds ``/listener-xxxxxxxx``."""
GUARD = 'if __name__ == "__main__":'


class _Process(SpawnProcess):
    """A process that starts without the main script."""

    def start(self) -> None:
        self.started_in_main_thread = _in_main_thread()
        with _without_main_script():
            super().start()
        _processes.add(self)


class _Context(SpawnContext):
    """Start processes without the main script."""

    Process = _Process


def _fork_context() -> BaseContext:
    """Return Python's own context, except that `kill_workers` knows the processes; not all systems have it."""
    from multiprocessing.context import ForkContext, ForkProcess

    class Process(ForkProcess):
        def start(self) -> None:
            self.started_in_main_thread = _in_main_thread()
            super().start()
            _processes.add(self)

    class Context(ForkContext):
        pass

    Context.Process = Process
    return Context()


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def worker_context(dataset: Any, workers: int) -> BaseContext | None:
    """Return the multiprocessing context for the workers of a `DataLoader`; None without workers.

    Args:
        dataset: the data set that each worker receives.
        workers: number of processes; with 0 nothing is checked.

    Raises:
        InputError: the main script has no guard and would be run by every worker.
    """
    if not workers:
        return None
    _name_socket_folder()
    if _start_method() == "fork":
        return _fork_context()
    check_main_process()
    if not _needs_main_script(dataset):
        return _Context()
    check_guard()
    return multiprocessing.get_context("spawn")


def init_worker(worker: int) -> None:
    """Prepare a worker process: exclude inherited objects from garbage collection, ignore Ctrl-C, end with the parent.

    A collection would write to the memory shared with the parent process and thereby copy it. Ctrl-C and the end of a
    terminal reach every process of it; the main process handles them, and a dead worker would interrupt the saving of
    the run. A worker that cannot send an image ends: Python drops the image, for which the main process would wait for
    ever.
    """
    Queue._on_queue_feeder_error = staticmethod(_end_worker)  # type: ignore[attr-defined]
    gc.freeze()
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    end_worker_with_parent()


def _end_worker(error: BaseException, item: object) -> None:
    sys.stderr.write(f"a process that reads images cannot send them ({type(error).__name__}: {error})\n")
    sys.stderr.flush()
    os._exit(1)


def kill_workers() -> None:
    """Kill all processes that read images for this one, of which each may wait for an image that never arrives.

    torch waits five seconds for each of them before it does so.
    """
    processes = [process for process in list(_processes) if process.is_alive()]
    for process in processes:
        process.kill()
    for process in processes:
        process.join(1.0)


def _name_socket_folder() -> None:
    """Let this process and its workers create their sockets in a folder that is known as ours.

    By default each worker creates a folder `pymp-...` in the system's folder for temporary files, which remains there
    if the worker is killed. The workers inherit the folder that is set here. Systems remove old temporary folders, also
    from a notebook that has been open for days.
    """
    config = getattr(multiprocessing.current_process(), "_config", None)
    if not isinstance(config, dict) or os.path.isdir(config.get("tempdir") or ""):
        return
    config.pop("tempdir", None)
    with contextlib.suppress(OSError):  # then Python chooses one
        folder = create_temporary_folder()
        if len(os.fsencode(folder)) > MAX_SOCKET_FOLDER:  # a longer path of a socket is refused
            folder.rmdir()
            return
        config["tempdir"] = str(folder)
        Finalize(None, shutil.rmtree, args=(folder,), kwargs={"ignore_errors": True}, exitpriority=-100)


def _start_method() -> str:
    """Return the start method of new processes, without fixing it for the rest of the program."""
    return multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]


def check_main_process() -> None:
    """Raise InputError in a process that imports the main script in order to start: it must not train itself."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise InputError(
            f"{_main_file() or 'main script'}: a new process imports it and must not run it again. Put its calls below "
            f"`{GUARD}`."
        )


def check_guard() -> None:
    """Raise InputError if the main script is a file without a guard, which every new process would run."""
    file = _main_file()
    if file is None:
        return
    try:
        source = Path(file).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    if "__name__" not in source:
        raise InputError(
            f"{file}: the data set uses functions of this script, so every process that reads images would run it. Put "
            f"its calls below `{GUARD}`, or read images in the main process (run.workers=0)."
        )


def _main_file() -> str | None:
    """Return the file of the main script; None in a notebook, an interactive session or a module (`python -m`)."""
    main = sys.modules.get("__main__")
    if getattr(main, "__spec__", None) is not None:
        return None
    return getattr(main, "__file__", None)


def _needs_main_script(dataset: Any) -> bool:
    """Return whether an object can be unpickled only by a process that has imported the main script."""
    with _without_main_script():
        try:
            ForkingPickler(io.BytesIO(), pickle.HIGHEST_PROTOCOL).dump(dataset)
        except (pickle.PicklingError, AttributeError) as error:
            if "__main__" not in str(error):
                raise InputError(
                    f"data set: cannot be sent to the processes that read images ({error}). Use functions of a module, "
                    "or read images in the main process (run.workers=0)."
                ) from error
            return True
    return False


@contextlib.contextmanager
def _without_main_script() -> Iterator[None]:
    """Replace the main module by an empty one inside the block, so that new processes do not import it."""
    main = sys.modules["__main__"]
    empty = types.ModuleType("__main__")
    sys.modules["__main__"] = empty
    try:
        yield
    finally:
        sys.modules["__main__"] = main
