"""Metrics of the service for Prometheus. Each application has a registry of its own."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
    multiprocess,
)

from sais.serving.batcher import Job

FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""Environment variable with the folder in which several processes share their metrics."""
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
STAGES = ("decode", "queue", "predict", "encode")


class Metrics:
    """Counters, gauges and histograms of an application.

    With several processes (`FOLDER_VARIABLE`), `text` adds up those of all.
    """

    def __init__(self) -> None:
        disable_created_metrics()
        self._shared = FOLDER_VARIABLE in os.environ
        self.registry = registry = CollectorRegistry()
        self.requests = Counter("sais_requests", "Responses", ("path", "status"), registry=registry)
        self.errors = Counter("sais_errors", "Responses with an error", ("code",), registry=registry)
        self.latency = Histogram(
            "sais_request_seconds", "Time of requests", ("path",), buckets=SECONDS, registry=registry
        )
        self.stages = Histogram(
            "sais_stage_seconds",
            "Time of the stages of an image: decode, queue, predict (its batch), encode (its response)",
            ("model", "stage"),
            buckets=SECONDS,
            registry=registry,
        )
        self.images = Counter("sais_images", "Images predicted", ("model",), registry=registry)
        self.batches = Histogram(
            "sais_batch_images", "Images in a batch", ("model",), buckets=BATCH_SIZES, registry=registry
        )
        self.in_progress = Gauge(
            "sais_requests_in_progress", "Requests in progress", registry=registry, multiprocess_mode="livesum"
        )
        self.admitted = Gauge(
            "sais_images_admitted",
            "Images accepted and not yet answered",
            ("model",),
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.waiting = Gauge(
            "sais_queue_images",
            "Images that wait for a batch",
            ("model",),
            registry=registry,
            multiprocess_mode="livesum",
        )
        if not self._shared:
            ProcessCollector(registry=registry)

    def observe_batch(self, model: str, jobs: Iterable[Job]) -> None:
        """Count the jobs of a batch."""
        jobs = list(jobs)
        self.batches.labels(model).observe(len(jobs))
        self.images.labels(model).inc(len(jobs))
        for job in jobs:
            self.stages.labels(model, "queue").observe(job.started - job.submitted)
            self.stages.labels(model, "predict").observe(job.finished - job.started)

    def watch(self, model: str, admitted: Callable[[], int], waiting: Callable[[], int]) -> None:
        """Read the gauges of a model from functions, where metrics are not shared by processes."""
        if not self._shared:
            self.admitted.labels(model).set_function(admitted)
            self.waiting.labels(model).set_function(waiting)

    def update(self, model: str, admitted: int, waiting: int) -> None:
        """Set the gauges of a model, where metrics are shared by processes."""
        if self._shared:
            self.admitted.labels(model).set(admitted)
            self.waiting.labels(model).set(waiting)

    def text(self) -> bytes:
        """Return all metrics in the text format of Prometheus."""
        if not self._shared:
            return generate_latest(self.registry)
        folder = Path(os.environ[FOLDER_VARIABLE])
        _forget_dead(folder)
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry, str(folder))
        return generate_latest(registry)


def _forget_dead(folder: Path) -> None:
    """Remove the gauges of processes that have ended."""
    for path in folder.glob("gauge_live*_*.db"):
        match = re.search(r"_(\d+)\.db$", path.name)
        if match is not None and not _is_alive(int(match[1])):
            with contextlib.suppress(OSError):
                path.unlink()


def _is_alive(process: int) -> bool:
    if os.name != "posix":  # where signal 0 would end it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
