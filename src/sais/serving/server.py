"""The processes of the service: uvicorn with one process or several, and their end."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from sais.errors import ResourceError
from sais.parent_process import end_worker_with_parent
from sais.serving.connections import Connection
from sais.serving.metrics import FOLDER_VARIABLE
from sais.serving.middleware import MAX_HEAD_BYTES
from sais.serving.options import ServingOptions

KEEP_ALIVE_SECONDS = 75
"""Time in seconds for which an idle connection stays open: longer than the usual 60 of proxies, which reuse it."""
HEALTH_SECONDS = 20
"""Time in seconds in which a process must answer its supervisor, else it is replaced; also while it starts."""
BACKLOG = 2048


def open_socket(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to an address and does not listen yet.

    Args:
        host: name or address; 0.0.0.0 or :: for all networks of this machine.
        port: port; 0 for a free one.

    Raises:
        ResourceError: the address does not exist, is in use, or needs other permissions.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        opened = socket.socket(family, kind, protocol)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
    except OSError as error:
        fix = "Choose another port." if error.errno in (errno.EADDRINUSE, errno.EACCES) else "Choose another host."
        raise ResourceError(f"port {port} of {host}: cannot be opened ({error.strerror}). {fix}") from error
    opened.set_inheritable(True)
    return opened


def address_of(opened: socket.socket) -> str:
    """Return the address of a bound socket, as a browser takes it."""
    host, port = opened.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{host}:{port}"


def is_loopback(opened: socket.socket) -> bool:
    """Return whether only this machine can reach a bound socket."""
    return ipaddress.ip_address(opened.getsockname()[0].partition("%")[0]).is_loopback


def server_config(factory: Callable[[], Any], options: ServingOptions, workers: int = 1) -> uvicorn.Config:
    """Return the settings of uvicorn; see `run_server`."""
    return uvicorn.Config(
        factory,
        factory=True,
        interface="asgi3",
        http=Connection,
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        workers=workers,
        backlog=BACKLOG,
        limit_concurrency=options.max_connections,
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=int(2 * options.timeout) + 5,
        timeout_worker_healthcheck=HEALTH_SECONDS,
    )


def run_server(factory: Callable[[], Any], opened: socket.socket, options: ServingOptions, workers: int = 1) -> int:
    """Serve an application until SIGTERM or SIGINT, then finish what was accepted.

    Args:
        factory: function that makes the application, called in each process; with several it must be picklable.
        opened: bound socket.
        options: settings of the service.
        workers: number of processes.

    Returns:
        Exit code: 0, or 2 if a process could not start.

    Raises:
        ResourceError: another server listens on the port since the socket was bound.
    """
    config = server_config(factory, options, workers)
    _listen(opened)
    if workers == 1:
        with _ignored_signals():  # uvicorn handles them, and raises them again at its end
            uvicorn.Server(config).run(sockets=[opened])
        return 0
    with _metrics_folder():
        supervisor = Supervisor(config, sockets=[opened])
        supervisor.run()
    return 2 if any(process.exitcode == STARTUP_FAILURE for process in supervisor.processes) else 0


def _listen(opened: socket.socket) -> None:
    """Listen on a bound socket: until one does, the system lets several bind the same port.

    A process of several would only fail to do so, and be replaced forever.
    """
    try:
        opened.listen(BACKLOG)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        where = "{1} of {0}".format(*opened.getsockname())
        raise ResourceError(f"port {where}: another server has taken it. Choose another port.") from error


class Supervisor(Multiprocess):
    """uvicorn's supervisor of several processes, which refuses connections as soon as they have been asked to end."""

    def terminate_all(self) -> None:
        """Close the socket, on which connections would wait for the end of this process, and end all processes."""
        for opened in self.sockets:
            opened.close()
        super().terminate_all()


class WorkerFactory:
    """A picklable function that makes the application in a process of its own.

    Args:
        factory: picklable function that makes the application.
        report: picklable function that prints an exception.
    """

    def __init__(self, factory: Callable[[], Any], report: Callable[[Exception], Any]) -> None:
        self._factory = factory
        self._report = report

    def __call__(self) -> Any:
        """Return the application; end the process, and the service, if it cannot be made."""
        end_worker_with_parent()
        try:
            return self._factory()
        except Exception as error:
            self._report(error)
            sys.exit(STARTUP_FAILURE)


@contextlib.contextmanager
def _ignored_signals() -> Iterator[None]:
    previous = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _metrics_folder() -> Iterator[None]:
    """Create the folder in which processes share their metrics."""
    with tempfile.TemporaryDirectory(prefix="sais-metrics-", ignore_cleanup_errors=True) as folder:
        os.environ[FOLDER_VARIABLE] = folder
        try:
            yield
        finally:
            del os.environ[FOLDER_VARIABLE]
