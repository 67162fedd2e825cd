"""A prediction over HTTP: upload, decode, batch, encode. Only the upload is read in the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from sais.errors import ResourceError
from sais.inference.predictor import Predictor
from sais.results.detections import Detections
from sais.serving.answers import HeldResponse, MaskFormat, drawing_bytes, image_entry, json_bytes
from sais.serving.batcher import Job
from sais.serving.decoding import decode
from sais.serving.limits import MemoryAccount, MemoryBudget, RefusalPace, overloaded
from sais.serving.metrics import Metrics
from sais.serving.models import ServedModel, prepare_job
from sais.serving.options import ServingOptions
from sais.serving.request_error import RequestError
from sais.serving.schemas import PredictQuery
from sais.serving.uploads import Upload, read_uploads

MAX_DECODERS = 8
"""Number of threads of the default setting on machines with many cores."""

Result = TypeVar("Result")


class Service:
    """The models of an application, and how a request is predicted.

    Args:
        predictors: predictors by name; the first one is the default.
        options: settings and limits.
        metrics: metrics of the application.
    """

    def __init__(self, predictors: dict[str, Predictor], options: ServingOptions, metrics: Metrics) -> None:
        self.options = options
        self.metrics = metrics
        self.models = {name: self._serve(name, predictor) for name, predictor in predictors.items()}
        self.default = next(iter(self.models))
        self._memory = MemoryBudget(int(options.memory_mb * 1e6))
        self._refusals = RefusalPace()
        threads = options.decoders or min(MAX_DECODERS, os.cpu_count() or 1)
        self._pool = ThreadPoolExecutor(threads, "decode")

    def start(self) -> None:
        """Start the threads that predict; each warms its model up."""
        for model in self.models.values():
            model.batcher.start()

    def close(self) -> None:
        """Finish what has been accepted and end the threads."""
        for model in self.models.values():
            model.batcher.close()
        self._pool.shutdown()

    def wait_until_ready(self) -> None:
        """Wait until all models are warmed up; raise the exception of one that failed."""
        for model in self.models.values():
            model.batcher.ready.wait()
            if model.batcher.failure is not None:
                raise model.batcher.failure

    @property
    def ready(self) -> bool:
        """Whether all models are loaded and warmed up."""
        return all(model.batcher.ready.is_set() and not model.batcher.failure for model in self.models.values())

    def model(self, name: str | None) -> ServedModel:
        """Return a model by name, the default for None.

        Raises:
            RequestError: 404, no such model.
        """
        if name is not None and name not in self.models:
            message = "model: there is no model of this name. GET /v1/models lists them."
            raise RequestError(404, "unknown_model", message)
        return self.models[self.default if name is None else name]

    def model_list(self) -> list[dict[str, Any]]:
        """Return the entries of the list of models."""
        return [model.summary | {"default": name == self.default} for name, model in self.models.items()]

    async def predict(self, request: Request, query: PredictQuery, drawing: bool) -> Response:
        """Answer a request.

        Args:
            request: request whose body has not been read.
            query: its options.
            drawing: whether the drawn image is returned instead of JSON.

        Raises:
            ClientDisconnect: the client has gone.
            RequestError: the request cannot be answered.
        """
        model = self.model(query.model)
        if not self.ready:
            raise RequestError(503, "not_ready", "the models are being loaded. Try again.", retry_after=1)
        predictor = self._predictor(model, query)
        try:
            model.admission.check()
        except RequestError:
            await asyncio.sleep(self._refusals.delay())
            raise
        with contextlib.ExitStack() as stack:
            account = stack.enter_context(self._memory.account())
            uploads = await read_uploads(request, self.options, account)
            if drawing and len(uploads) > 1:
                message = "a drawing shows one image. Send one, or ask for application/json."
                raise RequestError(400, "several_images", message)
            with model.admission.admit(len(uploads)):
                work = self._predict(model, predictor, uploads, drawing, query.masks, account)
                self.metrics.update(model.name, model.admission.count, model.batcher.waiting)
                content, details = await _until_disconnect(request, work, self.options.timeout)
            self.metrics.update(model.name, model.admission.count, model.batcher.waiting)
            account.change(len(content) - account.used)  # the answer, until the client has read it
            release = stack.pop_all().close
        request.scope["state"]["details"] |= details
        return HeldResponse(content, "image/png" if drawing else "application/json", release, self.options.timeout)

    async def _predict(
        self,
        model: ServedModel,
        predictor: Predictor,
        uploads: Sequence[Upload],
        drawing: bool,
        masks: MaskFormat,
        account: MemoryAccount,
    ) -> tuple[bytes, dict[str, Any]]:
        """Return the body of a response, and what the log states about the request."""
        jobs: list[Job] = []
        images: list[np.ndarray] = []
        try:
            async with asyncio.TaskGroup() as tasks:
                prepared = [
                    tasks.create_task(self._submit(model, predictor, upload, i, drawing, jobs, account))
                    for i, upload in enumerate(uploads)
                ]
            decode_seconds = max(task.result()[2] for task in prepared)
            images = [image for _, image, _ in (task.result() for task in prepared) if image is not None]
            ordered = [task.result()[0] for task in prepared]
            detections = [await asyncio.wrap_future(job.future) for job in ordered]
        except BaseExceptionGroup as group:
            raise _first(group) from None
        except (ResourceError, MemoryError) as error:
            raise overloaded() from error
        finally:
            for job in jobs:
                if not job.future.done():
                    job.cancel()
        timing = {
            "decode": decode_seconds,
            "queue": max(job.started - job.submitted for job in ordered),
            "predict": max(job.finished - job.started for job in ordered),
        }
        if drawing:
            content = await self._in_pool(drawing_bytes, images[0], detections[0])
        else:
            names = [upload.name for upload in uploads]
            content = await self._in_pool(self._encode, model.name, names, detections, masks, timing)
        self.metrics.stages.labels(model.name, "decode").observe(timing["decode"])
        details = {"model": model.name, "images": len(uploads), "objects": sum(map(len, detections))}
        return content, details | {f"{stage}_ms": _milliseconds(seconds) for stage, seconds in timing.items()}

    async def _submit(
        self,
        model: ServedModel,
        predictor: Predictor,
        upload: Upload,
        position: int,
        drawing: bool,
        jobs: list[Job],
        account: MemoryAccount,
    ) -> tuple[Job, np.ndarray | None, float]:
        """Decode an upload and submit its job; return it, the image if it is drawn, and the time of decoding."""
        with model.batcher.expect() as submit:
            started = time.monotonic()

            def prepare() -> tuple[Job, np.ndarray]:
                white_level = predictor.experiment.input.white_level
                image = decode(upload, position, self.options.max_pixels, white_level)
                model.check_tiles(predictor, (image.shape[0], image.shape[1]))
                return prepare_job(predictor, image), image

            job, image = await self._in_pool(prepare)
            if drawing or job.image is not None:
                account.change(image.nbytes)
            jobs.append(job)
            submit(job)
            return job, image if drawing else None, time.monotonic() - started

    def _encode(
        self,
        model: str,
        names: Sequence[str | None],
        detections: Sequence[Detections],
        masks: MaskFormat,
        timing: dict[str, float],
    ) -> bytes:
        started = time.monotonic()
        entries = [image_entry(found, name, masks) for found, name in zip(detections, names, strict=True)]
        images = json_bytes(entries)
        timing["encode"] = time.monotonic() - started
        self.metrics.stages.labels(model, "encode").observe(timing["encode"])
        milliseconds = json_bytes({stage: _milliseconds(seconds) for stage, seconds in timing.items()})
        return b'{"model":%b,"images":%b,"timing_ms":%b}' % (json_bytes(model), images, milliseconds)

    def _predictor(self, model: ServedModel, query: PredictQuery) -> Predictor:
        limit = query.max_detections
        if limit is not None and limit > self.options.max_objects:
            message = f"max_detections: {limit} is above the limit of {self.options.max_objects}. Give a smaller one."
            raise RequestError(422, "invalid_option", message)
        changes = {"max_detections": limit, "tta_flip": query.tta_flip, "tiles": query.tile}
        return model.with_options(query.score, query.classes, **changes)

    def _serve(self, name: str, predictor: Predictor) -> ServedModel:
        model = ServedModel(name, predictor, self.options, lambda jobs: self.metrics.observe_batch(name, jobs))
        self.metrics.watch(name, lambda: model.admission.count, lambda: model.batcher.waiting)
        return model

    async def _in_pool(self, function: Callable[..., Result], *arguments: Any) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)


async def _until_disconnect(request: Request, work: Any, timeout: float) -> Any:
    """Return the result of a coroutine; cancel it if the client leaves or after `timeout` seconds.

    Raises:
        ClientDisconnect: the client has gone.
        RequestError: 503, the prediction took too long.
    """
    task = asyncio.ensure_future(work)
    left = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, left}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        if left.done():
            raise ClientDisconnect
        message = f"the prediction took longer than {timeout:g} seconds. Try again later, or send less."
        raise RequestError(503, "timeout", message, retry_after=5)
    finally:
        for pending in (task, left):
            pending.cancel()
        await asyncio.gather(task, left, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first exception of a group that is none itself."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)
