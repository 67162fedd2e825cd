"""Dynamic batching: images of different requests are predicted in one forward pass, by one thread for each model."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np

from sais.inference.predictor import Predictor
from sais.ops.letterbox import CanvasMap
from sais.results.detections import Detections

Observe = Callable[[list["Job"]], None]


class CanceledError(Exception):
    """The client of a job has gone."""


class Job:
    """An image that waits for its prediction.

    Args:
        predictor: predictor with the options of the request.
        image: (H, W, 3) uint8, for a prediction in tiles or with test-time augmentation; None with `canvas`.
        canvas: map of the image and its canvas (height, width, 3) uint8, for one forward pass.
    """

    def __init__(
        self,
        predictor: Predictor,
        image: np.ndarray | None = None,
        canvas: tuple[CanvasMap, np.ndarray] | None = None,
    ) -> None:
        self.predictor = predictor
        self.image = image
        self.canvas = canvas
        self.future: Future[Detections] = Future()
        self.canceled = False
        self.submitted = self.started = self.finished = time.monotonic()
        shape = None if canvas is None else canvas[1].shape
        alone = id(self) if predictor.options.tiles is not None else None
        self.key: Hashable = (predictor.options, shape, alone)
        """What the jobs of one batch have in common."""

    def cancel(self) -> None:
        """Drop the job and its image if it waits; a prediction in tiles ends after the current tiles."""
        self.canceled = True
        if self.future.cancel():  # else the thread uses the image
            self.image = self.canvas = None


class Batcher:
    """One thread that predicts jobs in batches, in the order of their arrival.

    A batch has the options and the canvas size of the job that has waited longest. It starts at once if it is full or
    no other image is on its way, else after `max_delay` seconds.

    Args:
        name: name of the model, for that of the thread.
        warm_up: function that the thread calls before the first job.
        max_batch: maximum number of images in a batch.
        max_delay: time in seconds for which a job waits for others.
        observe: function called with the jobs of each batch after it.
    """

    def __init__(
        self,
        name: str,
        warm_up: Callable[[], None],
        max_batch: int = 8,
        max_delay: float = 0.005,
        observe: Observe = lambda jobs: None,
    ) -> None:
        self._warm_up = warm_up
        self._max_batch = max_batch
        self._max_delay = max_delay
        self._observe = observe
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._expected = 0
        self._closed = False
        self.ready = threading.Event()
        """Set when the model has been warmed up."""
        self.failure: Exception | None = None
        """Exception of the warm-up."""
        self._thread = threading.Thread(target=self._run, name=f"predict {name}", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """Finish the jobs that wait and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join()

    @property
    def waiting(self) -> int:
        """Number of jobs that wait."""
        return len(self._jobs)

    @contextlib.contextmanager
    def expect(self) -> Iterator[Callable[[Job], None]]:
        """Announce a job that is being prepared; yield the function that submits it."""
        with self._changed:
            self._expected += 1
        announced = True

        def arrived() -> None:
            nonlocal announced
            if announced:
                self._expected -= 1
                announced = False
            self._changed.notify_all()

        def submit(job: Job) -> None:
            with self._changed:
                if self._closed:
                    job.cancel()
                else:
                    job.submitted = time.monotonic()
                    self._jobs.append(job)
                arrived()

        try:
            yield submit
        finally:
            with self._changed:
                arrived()

    def _run(self) -> None:
        try:
            self._warm_up()
        except Exception as error:
            self.failure = error
            traceback.print_exc(file=sys.stderr)
        self.ready.set()
        while (batch := self._take()) is not None:
            started = time.monotonic()
            jobs = [job for job in batch if job.future.set_running_or_notify_cancel()]
            for job in jobs:
                job.started = started
            if jobs:
                self._predict(jobs)
                try:
                    self._observe(jobs)
                except Exception:  # such as a full disk under the metrics: no reason to stop predicting
                    traceback.print_exc(file=sys.stderr)
            del batch, jobs  # the images, while the thread waits

    def _take(self) -> list[Job] | None:
        """Wait for the next batch and return it; None if the batcher is closed and no job waits."""
        with self._changed:
            while not self._drop_canceled():
                if self._closed:
                    return None
                self._changed.wait()
            first = self._jobs[0]
            key, end = first.key, first.submitted + self._max_delay
            while self._expected and not self._closed and sum(job.key == key for job in self._jobs) < self._max_batch:
                remaining = end - time.monotonic()
                if remaining <= 0:
                    break
                self._changed.wait(remaining)
            self._drop_canceled()
            batch: list[Job] = []
            others: deque[Job] = deque()
            for job in self._jobs:
                (batch if len(batch) < self._max_batch and job.key == key else others).append(job)
            self._jobs = others
            return batch

    def _drop_canceled(self) -> int:
        """Drop the jobs whose clients have gone, so that they fill no batch; return the number of the others."""
        self._jobs = deque(job for job in self._jobs if not job.canceled)
        return len(self._jobs)

    def _predict(self, jobs: list[Job]) -> None:
        """Predict a batch and set its results; if it fails, predict each job alone: one must not fail the others."""
        try:
            results = predict_jobs(jobs)
        except Exception as error:
            if len(jobs) > 1:
                for job in jobs:
                    self._predict([job])
                return
            jobs[0].finished = time.monotonic()
            jobs[0].future.set_exception(error)
            return
        finished = time.monotonic()
        for job, detections in zip(jobs, results, strict=True):
            job.finished = finished
            job.future.set_result(detections)


def predict_jobs(jobs: Sequence[Job]) -> list[Detections]:
    """Return the detections of jobs with the same key."""
    predictor = jobs[0].predictor
    if jobs[0].canvas is None:

        def check(passes: int) -> None:
            if all(job.canceled for job in jobs):
                raise CanceledError

        images: list[Any] = [job.image for job in jobs]
        return predictor.batch(images, check)
    canvases = [job.canvas for job in jobs if job.canvas is not None]
    stacked = np.stack([pixels for _, pixels in canvases])
    return predictor.detect(stacked.transpose(0, 3, 1, 2), [canvas_map for canvas_map, _ in canvases])
