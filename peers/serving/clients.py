"""Load of `sais serve`: clients in a process of their own, by locust where it is installed, else by asyncio.

Each client has a connection and sends the next image when it has the answer to the last one.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sais.errors import ResourceError

LOCUST_FILE = Path(__file__).parent / "locustfile.py"


@dataclass
class LoadResult:
    """What the clients measured.

    Args:
        seconds: time of the load.
        statuses: HTTP status (0 without an answer) -> number of requests.
        latencies: milliseconds of the answers with status 200 -> their number.
    """

    seconds: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)
    latencies: Counter[float] = field(default_factory=Counter)

    @property
    def throughput(self) -> float:
        """Images per second."""
        return self.statuses[200] / self.seconds if self.seconds else 0.0

    def percentile(self, fraction: float) -> float:
        """Return the latency in milliseconds below which a fraction of the answers is."""
        count = 0
        for latency in sorted(self.latencies):
            count += self.latencies[latency]
            if count >= fraction * self.latencies.total():
                return latency
        return float("nan")


def send_load(url: str, images: Sequence[Path], clients: int, seconds: float, locust: str | None) -> LoadResult:
    """Send images from a process of its own.

    Args:
        url: address of the service.
        images: image files, sent in turns.
        clients: number of clients.
        seconds: time of the load.
        locust: program of locust; None for the asyncio clients.

    Raises:
        ResourceError: the process failed.
    """
    environment = os.environ | {"SAIS_LOAD_IMAGES": os.pathsep.join(map(str, images))}
    if locust is None:
        command = [sys.executable, "-m", "peers.serving.clients", url, str(clients), str(seconds)]
    else:
        command = [locust, "-f", str(LOCUST_FILE), "--headless", "-u", str(clients), "-r", str(clients)]
        command += ["-t", f"{round(seconds)}s", "--host", url, "--json", "--loglevel", "ERROR"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=seconds + 120)
    try:
        content = json.loads(done.stdout)
    except json.JSONDecodeError:
        raise ResourceError(f"{command[0]}: no result ({done.stderr[-300:]}). See its output.") from None
    return _from_locust(content, seconds) if locust is not None else _from_json(content)


def _from_json(content: dict[str, Any]) -> LoadResult:
    statuses = Counter({int(status): count for status, count in content["statuses"].items()})
    latencies = Counter({float(latency): count for latency, count in content["latencies"].items()})
    return LoadResult(content["seconds"], statuses, latencies)


def _from_locust(entries: list[dict[str, Any]], seconds: float) -> LoadResult:
    """Return the result of locust's entries, whose names are the statuses."""
    result = LoadResult(seconds)
    for entry in entries:
        status = int(entry["name"])
        result.statuses[status] += entry["num_requests"]
        if status == 200:
            result.latencies.update({float(latency): count for latency, count in entry["response_times"].items()})
    return result


async def _run(url: str, bodies: Sequence[bytes], clients: int, seconds: float) -> LoadResult:
    result = LoadResult()
    host, _, port = url.removeprefix("http://").partition(":")
    requests = [
        f"POST /v1/predict HTTP/1.1\r\nHost: {host}\r\nContent-Type: image/jpeg\r\n"
        f"Content-Length: {len(body)}\r\n\r\n".encode()
        + body
        for body in bodies
    ]
    started = time.monotonic()
    end = started + seconds

    async def client(number: int) -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        while (sent := time.monotonic()) < end:
            writer.write(requests[number % len(requests)])
            number += clients
            try:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
                await reader.readexactly(int(length.partition(b":")[2]))
                status = int(head[9:12])
            except (OSError, asyncio.IncompleteReadError):
                status = 0
                reader, writer = await asyncio.open_connection(host, int(port))
            result.statuses[status] += 1
            if status == 200:
                result.latencies[round((time.monotonic() - sent) * 1000, 1)] += 1
            else:
                await asyncio.sleep(0.1)  # a refused client does not try again at once
        writer.close()

    await asyncio.gather(*(client(number) for number in range(clients)))
    result.seconds = time.monotonic() - started
    return result


def main(words: Sequence[str]) -> None:
    """Run the asyncio clients and print what they measured."""
    url, clients, seconds = words
    bodies = [Path(path).read_bytes() for path in os.environ["SAIS_LOAD_IMAGES"].split(os.pathsep)]
    result = asyncio.run(_run(url, bodies, int(clients), float(seconds)))
    print(json.dumps(vars(result)))


if __name__ == "__main__":
    main(sys.argv[1:])
