"""Start of Ray on this machine, or connection to a cluster."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sais.errors import MissingDependencyError, ResourceError
from sais.io.decoding import one_line

MAX_TEMPORARY_PATH = 40
"""Characters of a folder in which Ray's sockets have names that the system accepts (107 characters)."""
CONNECT_SECONDS = 10.0
REMOVE_ATTEMPTS = 20
_FOLDER = re.compile(r"ray-(\d+)-\w+")
OBJECT_STORE_BYTES = 100 * 2**20
"""Shared memory of the embedded Ray in addition to the model's files; results are files, not objects."""


@contextlib.contextmanager
def running_ray(address: str | None, workers: int, model_bytes: int) -> Iterator[None]:
    """Connect to a cluster, or start Ray on this machine for the duration of the block.

    Ray on this machine has no dashboard, listens on the loopback interface only, requires a token that is drawn for
    this run, and sends no usage statistics. Where this process has imported or started Ray before, its settings hold.

    Args:
        address: address of a cluster, such as ``auto`` or ``ray://head:10001``; None for this machine.
        workers: number of workers, 0 for one for each core or GPU; on this machine it may exceed the number of cores.
        model_bytes: size of the model's files.

    Raises:
        MissingDependencyError: Ray is not installed.
        ResourceError: Ray cannot be started, or the cluster cannot be reached.
    """
    if "ray" not in sys.modules:  # it reads them when it is imported
        _set_environment(alone=address is None)
    try:
        import ray
    except ImportError:
        message = 'Ray is not installed. Run pip install "sais-seg[ray]".'
        raise MissingDependencyError(message, "ray", "ray") from None
    if ray.is_initialized():
        yield
        return
    folder = _make_folder() if address is None else ""
    settings: dict[str, Any] = {"logging_level": logging.CRITICAL, "log_to_driver": False}  # what fails is raised
    if address is None:
        settings |= {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES + model_bytes}
        settings["_temp_dir"] = folder if len(folder) <= MAX_TEMPORARY_PATH else None
        settings["num_cpus"] = max(workers, os.cpu_count() or 1)
    try:
        _start(address, settings)
        yield
    finally:
        ray.shutdown()
        if folder:
            _remove(Path(folder))


def _set_environment(alone: bool) -> None:
    """Set the variables that Ray reads when it is imported; `alone` for Ray on this machine only."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if alone:
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # its name for: the loopback interface only
        if "RAY_AUTH_MODE" not in os.environ:
            os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


def _make_folder() -> str:
    """Create a folder for Ray's sockets and logs, named for this process; remove those of killed processes."""
    for leftover in leftover_folders(Path(tempfile.gettempdir())):
        shutil.rmtree(leftover, ignore_errors=True)
    return tempfile.mkdtemp(prefix=f"ray-{os.getpid()}-")


def _remove(folder: Path) -> None:
    """Remove the folder of Ray, whose processes may still write into it while they end."""
    for _ in range(REMOVE_ATTEMPTS):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)


def leftover_folders(place: Path) -> list[Path]:
    """Return the folders for Ray in the folder for temporary files whose process has ended."""
    matches = ((path, _FOLDER.fullmatch(path.name)) for path in place.glob("ray-*"))
    return [path for path, match in matches if match is not None and not _is_running(int(match[1]))]


def _is_running(pid: int) -> bool:
    if os.name != "posix":  # Windows has no signal 0
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # a process of another user
        return True
    return True


def _start(address: str | None, settings: dict[str, Any]) -> None:
    """Start Ray, or connect to a cluster.

    Raises:
        ResourceError: neither succeeds.
    """
    import ray

    if address is not None:
        _check_reachable(address)
    try:
        ray.init("local" if address is None else address, **settings)
    except Exception as error:  # Ray raises a plain Exception if it does not start within 30 s
        reason = one_line(error)[:500]
        if address is None:
            message = f"Ray: cannot be started on this machine ({reason}). Try again, or use the local engine."
            raise ResourceError(message) from error
        raise ResourceError(f"{address}: no cluster at this address ({reason}). Check the address.") from error


def _check_reachable(address: str) -> None:
    """Raise ResourceError if no process listens at HOST:PORT, for which Ray would wait many minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():  # auto, or local
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        reason = one_line(getattr(error, "strerror", None) or error)
        raise ResourceError(f"{address}: no cluster at this address ({reason}). Check the address.") from error
