"""Thousands of malformed and hostile requests to `sais serve`, with good requests in between."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from peers.serving.hostile import KINDS, Attack, post, sample
from peers.serving.process import ServiceProcess, start_service

CLOSE_SECONDS = 25.0
"""Time in seconds in which a connection must be answered or closed."""
GOOD_SECONDS = 20.0
"""Time in seconds in which a good request must be answered."""
CONNECTIONS = 24
"""Number of requests that are sent at once."""


@dataclass
class FaultReport:
    """What happened.

    Args:
        statuses: (kind, status) -> number of requests.
        good: number of good requests, all answered with 200 unless `faults` has them.
        slowest_good: seconds of the slowest good request.
        faults: descriptions of what was wrong; expected to be empty.
    """

    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    good: int = 0
    slowest_good: float = 0.0
    faults: list[str] = field(default_factory=list)

    def markdown(self) -> str:
        """Return the report as Markdown."""
        rows = []
        for kind in KINDS:
            counts = {status: count for (name, status), count in sorted(self.statuses.items()) if name == kind}
            listing = ", ".join(f"{status or 'closed'}: {count}" for status, count in counts.items())
            rows.append(f"| {kind} | {sum(counts.values())} | {listing} |")
        table = "\n".join(["| kind | requests | statuses |", "|:---|---:|:---|", *rows])
        faults = "\n".join(f"- {fault}" for fault in self.faults[:50]) or "none"
        good = f"{self.good} good requests in between, the slowest in {self.slowest_good:.2f} s."
        return f"{table}\n\n{good}\n\nFaults: {faults}\n"


def attack_service(model: Path, requests: int, seed: int, out: Path) -> FaultReport:
    """Send hostile requests to a service of a model.

    Args:
        model: model file.
        requests: number of hostile requests.
        seed: seed of the first request; that of the next is one higher.
        out: folder for the output of the service.
    """
    out.mkdir(parents=True, exist_ok=True)
    log = out / "serve.log"
    with start_service([str(model), "--timeout", "10", "--threads", "1"], log) as service:
        report = attack_address(service.address, requests, seed)
        _check_process(service, report)
    for line in log.read_text(errors="replace").splitlines():
        if "Traceback" in line or '"status": 500' in line:
            report.faults.append(f"in the log of the service: {line[:200]}")
    return report


def attack_address(address: tuple[str, int], requests: int, seed: int = 0, names: Sequence[str] = ()) -> FaultReport:
    """Send hostile requests to a running service, and a good one after every ten.

    Args:
        address: host and port.
        requests: number of hostile requests.
        seed: seed of the first request.
        names: kinds of requests; empty for all.
    """
    report = FaultReport()
    kinds = list(names or KINDS)
    weights = [KINDS[name][1] for name in kinds]

    def send(index: int) -> None:
        rng = Random(seed + index)
        name = rng.choices(kinds, weights)[0]
        attack = KINDS[name][0](rng)
        started = time.monotonic()
        status = exchange(address, attack)
        seconds = time.monotonic() - started
        report.statuses[name, status] += 1
        if status not in attack.statuses:
            report.faults.append(f"seed {seed + index}, {name}: {status} is not in {sorted(attack.statuses)}")
        if seconds > CLOSE_SECONDS:
            report.faults.append(f"seed {seed + index}, {name}: closed after {seconds:.1f} s")
        if index % 10 == 0:
            _send_good(address, report)

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        list(pool.map(send, range(requests)))
    _send_good(address, report)
    return report


def exchange(address: tuple[str, int], attack: Attack) -> int:
    """Send a request and return the status of the first answer; 0 if the connection was closed without one."""
    with socket.create_connection(address, CLOSE_SECONDS) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(attack.sent)
        if attack.finish == "abort":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # with a reset
            return 0
        received = b""
        try:
            while not received.startswith(b"HTTP/1.1 ") or len(received) < 12:
                chunk = connection.recv(4096)
                if not chunk:
                    break
                received += chunk
        except ConnectionError:
            pass
        except TimeoutError:
            return -1
        return int(received[9:12]) if received[9:12].isdigit() else 0


def _send_good(address: tuple[str, int], report: FaultReport) -> None:
    started = time.monotonic()
    status = exchange(address, Attack(post(sample()), frozenset({200})))
    seconds = time.monotonic() - started
    report.good += 1
    report.slowest_good = max(report.slowest_good, seconds)
    if status != 200 or seconds > GOOD_SECONDS:
        report.faults.append(f"a good request: {status} after {seconds:.1f} s")


def _check_process(service: ServiceProcess, report: FaultReport) -> None:
    """Check that nothing is left of the requests: none in progress, no image admitted."""
    end = time.monotonic() + CLOSE_SECONDS
    while True:
        text = service.get("/metrics")[1]
        values = dict(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("sais_"))
        busy = float(values["sais_requests_in_progress"]) - 1  # /metrics itself
        admitted = sum(float(value) for name, value in values.items() if name.startswith("sais_images_admitted"))
        if busy == 0 and admitted == 0:
            return
        if time.monotonic() > end:
            report.faults.append(f"{busy:g} requests and {admitted:g} images are left in progress")
            return
        time.sleep(0.2)
