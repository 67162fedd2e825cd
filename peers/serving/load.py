"""Throughput, latency and memory of `sais serve` under load, against the same runtime without HTTP."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peers.serving.clients import LoadResult, send_load
from peers.serving.process import ServiceProcess, start_service
from sais.benchmark.memory import in_fresh_process
from sais.errors import ResourceError
from sais.io.atomic import write_text
from sais.paper.comparison import markdown_table
from sais.serving.options import ServingOptions

MIN_RATIO = 0.85
"""Minimum throughput relative to the same runtime without HTTP."""
MAX_GROWTH = 0.03
"""Maximum growth of memory from the first to the last of `MEMORY_REQUESTS`."""
MEMORY_REQUESTS = (2_000, 20_000)
MEMORY_SECONDS = 20.0
"""Maximum time in seconds of a part of the load after which memory may be measured."""
OVERLOAD_CLIENTS = 256
"""Number of clients beyond the capacity of the default queue."""


@dataclass(frozen=True)
class LoadPlan:
    """What is measured.

    Args:
        model: model file.
        images: image files.
        clients: numbers of clients.
        seconds: time of each load, and of each measurement without HTTP.
        threads: threads of the runtime; 0: all cores.
        batch: maximum number of images in a batch.
        locust: program of locust; None for the asyncio clients.
        requests: number of requests after which memory is measured last.
    """

    model: Path
    images: Sequence[Path]
    clients: Sequence[int] = (16, 64)
    seconds: float = 60.0
    threads: int = 0
    batch: int = 8
    locust: str | None = None
    requests: int = MEMORY_REQUESTS[1]


def measure_load(plan: LoadPlan, out: Path) -> str:
    """Measure, write serving.json and serving.md to a folder, and return the latter.

    The throughput without HTTP is measured before and after each load, because that of the machine may change.
    """
    out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    with start_service(_words(plan), out / "serve.log") as service:
        before = _baseline(plan)
        for clients in plan.clients:
            seconds = service.cpu_seconds()
            result = send_load(service.url, plan.images, clients, plan.seconds, plan.locust)
            seconds = service.cpu_seconds() - seconds
            after = _baseline(plan)
            rows.append(_row(clients, result, [before, after], seconds))
            before = after
        seconds = service.cpu_seconds()
        result = send_load(service.url, plan.images, OVERLOAD_CLIENTS, plan.seconds / 2, plan.locust)
        rows.append(_row(OVERLOAD_CLIENTS, result, [before], service.cpu_seconds() - seconds) | {"overload": True})
        memory = _memory(plan, service)
    content = {"model": str(plan.model), "rows": rows, "resident_bytes": memory}
    write_text(out / "serving.json", json.dumps(content, indent=1) + "\n")
    text = _markdown(plan, rows, memory)
    write_text(out / "serving.md", text)
    return text


def measure_memory(plan: LoadPlan, out: Path) -> str:
    """Measure only the growth of memory; write memory.md to a folder, and return it."""
    out.mkdir(parents=True, exist_ok=True)
    with start_service(_words(plan), out / "serve.log") as service:
        text = f"{_memory_note(_memory(plan, service))}\n"
    write_text(out / "memory.md", text)
    return text


def _words(plan: LoadPlan) -> list[str]:
    return [str(plan.model), "--threads", str(plan.threads), "--max-batch", str(plan.batch)]


def measure_without_http(
    model: str, images: Sequence[str], seconds: float, threads: int, batch: int
) -> tuple[float, float]:
    """Measure a predictor that decodes images from memory and predicts in batches.

    Returns:
        Images per second, and seconds of processor time for an image.
    """
    from sais.engine.allocator import keep_big_blocks
    from sais.inference.predictor import Predictor

    keep_big_blocks()
    predictor = Predictor(model, threads=threads, batch_size=batch)
    contents: list[Any] = [Path(path).read_bytes() for path in images]
    predictor.batch(contents[:batch])
    end = 0.0

    def endless() -> Iterator[Any]:
        for content in itertools.cycle(contents):
            if end and time.monotonic() > end:
                return
            yield content

    count = 0
    started, cpu_seconds = time.monotonic(), time.process_time()
    end = started + seconds
    for _ in predictor.stream(endless()):
        count += 1
    return count / (time.monotonic() - started), (time.process_time() - cpu_seconds) / count


def _baseline(plan: LoadPlan) -> tuple[float, float]:
    images = [str(path) for path in plan.images]
    arguments = (str(plan.model), images, plan.seconds / 2, plan.threads, plan.batch)
    throughput, cpu_seconds = in_fresh_process("peers.serving.load:measure_without_http", *arguments)
    return throughput, cpu_seconds


def _memory(plan: LoadPlan, service: ServiceProcess) -> list[tuple[int, int]]:
    """Return numbers of requests of a load with 16 clients, about those of the plan, and the memory in bytes then.

    Raises:
        ResourceError: no request is answered.
    """
    marks = [min(MEMORY_REQUESTS[0], plan.requests // 10), plan.requests]
    memory: list[tuple[int, int]] = []
    count, seconds = 0, 2.0
    for mark in marks:
        while count < mark:
            result = send_load(service.url, plan.images, 16, seconds, plan.locust)
            if not result.statuses[200]:
                raise ResourceError(f"{service.url}: no request was answered ({dict(result.statuses)}). See serve.log.")
            count += result.statuses[200]
            left = (marks[0] if count < marks[0] else marks[1]) - count
            seconds = min(MEMORY_SECONDS, max(1.0, left / result.throughput))
        memory.append((count, service.resident_bytes()))
    return memory


def _row(
    clients: int, result: LoadResult, baselines: Sequence[tuple[float, float]], cpu_seconds: float
) -> dict[str, Any]:
    baseline, cpu_baseline = (sum(values) / len(baselines) for values in zip(*baselines, strict=True))
    return {
        "clients": clients,
        "throughput": result.throughput,
        "without_http": baseline,
        "ratio": result.throughput / baseline,
        "p50": result.percentile(0.5),
        "p95": result.percentile(0.95),
        "p99": result.percentile(0.99),
        "statuses": dict(sorted(result.statuses.items())),
        "cpu_ms": 1000 * cpu_seconds / max(1, result.statuses[200]),
        "cpu_ms_without_http": 1000 * cpu_baseline,
        "overload": False,
    }


def _markdown(plan: LoadPlan, rows: Sequence[dict[str, Any]], memory: Sequence[tuple[int, int]]) -> str:
    latencies = ("p50, ms", "p95, ms", "p99, ms")
    columns = ("clients", "images/s", "without HTTP", "ratio", "CPU ms/image", "without HTTP", *latencies, "statuses")
    cells = [
        (
            f"{row['clients']}{' (beyond the capacity)' if row['overload'] else ''}",
            f"{row['throughput']:.1f}",
            f"{row['without_http']:.1f}",
            f"{row['ratio']:.2f}",
            f"{row['cpu_ms']:.1f}",
            f"{row['cpu_ms_without_http']:.1f}",
            *(f"{row[name]:.0f}" for name in ("p50", "p95", "p99")),
            ", ".join(f"{status}: {count}" for status, count in row["statuses"].items()),
        )
        for row in rows
    ]
    throughput = rows[-1]["throughput"] or float("nan")
    full_queue = (ServingOptions().queue + plan.batch) / throughput
    notes = (
        f"Beyond the capacity, a full queue takes {1000 * full_queue:.0f} ms at this throughput. "
        f"{_memory_note(memory)} Ratio: at least {MIN_RATIO}. Generator: "
        f"{'locust' if plan.locust else 'asyncio clients'}, on the same machine."
    )
    return f"{markdown_table(columns, cells)}\n\n{notes}\n"


def _memory_note(memory: Sequence[tuple[int, int]]) -> str:
    first, last = memory
    growth = last[1] / first[1] - 1
    return (
        f"Memory: {first[1] / 1e6:.1f} MB after {first[0]} requests, {last[1] / 1e6:.1f} MB after {last[0]}: "
        f"{100 * growth:+.2f} % (limit {100 * MAX_GROWTH:g} %)."
    )
