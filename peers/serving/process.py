"""A service in a process of its own, as a user starts it."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sais.errors import ResourceError

START_SECONDS = 120


@dataclass
class ServiceProcess:
    """A running service.

    Args:
        process: its process.
        url: its address.
    """

    process: Any
    url: str

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        match = re.fullmatch(r"http://([\d.]+):(\d+)", self.url)
        assert match is not None
        return match[1], int(match[2])

    def resident_bytes(self) -> int:
        """Return the resident memory in bytes, as Linux counts it."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return 1024 * next(int(line.split()[1]) for line in text.splitlines() if line.startswith("VmRSS"))

    def cpu_seconds(self) -> float:
        """Return the processor time in seconds."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100

    def get(self, path: str) -> tuple[int, str]:
        """Return status and text of an address."""
        try:
            with urllib.request.urlopen(f"{self.url}{path}", timeout=START_SECONDS) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()


@contextlib.contextmanager
def start_service(words: Sequence[str], log: Path) -> Iterator[ServiceProcess]:
    """Start `sais serve` on a free port, wait until it is ready, and end it after the block.

    Args:
        words: model and options.
        log: file for its output.

    Raises:
        ResourceError: the service does not start, or does not end with 0 after SIGTERM.
    """
    command = [sys.executable, "-m", "sais", "serve", *words, "--port", "0"]
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file, text=True)
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            threading.Thread(target=_copy, args=(process.stdout, file), daemon=True).start()
            service = ServiceProcess(process, line.split()[-1] if line.startswith("serving") else "")
            _wait_until_ready(service, log)
            yield service
            process.send_signal(signal.SIGTERM)
            if process.wait(START_SECONDS):
                raise ResourceError(f"{log}: the service ended with {process.returncode}. See its output.")
        finally:
            process.kill()
            process.wait()


def _copy(source: Any, target: Any) -> None:
    for line in source:
        with contextlib.suppress(ValueError):  # closed
            target.write(line)


def _wait_until_ready(service: ServiceProcess, log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while service.url and service.process.poll() is None and time.monotonic() < end:
        with contextlib.suppress(urllib.error.URLError):  # it does not listen yet
            if service.get("/readyz")[0] == 200:
                return
        time.sleep(0.05)
    raise ResourceError(f"{log}: the service did not start. See its output.")
