"""A small model without a network, and servers around it: its objects depend on the pixels of each image."""

from __future__ import annotations

import asyncio
import contextlib
import io
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import uvicorn
from PIL import Image

from sais.config import Experiment, InputConfig, PostprocessConfig
from sais.inference.predictor import Predictor
from sais.serving.access_log import AccessLog
from sais.serving.app import create_app
from sais.serving.options import ServingOptions
from sais.serving.server import address_of, open_socket, server_config
from sais.structures import Instances

CLASSES = ("dark", "bright")
START_SECONDS = 30


class PixelBackend:
    """A backend that detects the dark and the bright half of the pixels of each image.

    Args:
        gate: event that `run` waits for; None for no wait.
    """

    class_names = CLASSES
    category_ids = (1, 2)
    mask_stride = 4
    fixed_canvas = None

    def __init__(self, gate: threading.Event | None = None) -> None:
        self.experiment = Experiment(name="pixels", input=InputConfig(size=(64, 96)))
        self.gate = gate
        self.entered = threading.Semaphore(0)
        self.batches: list[int] = []
        self.failure: Callable[[np.ndarray], Exception | None] = lambda canvases: None

    def run(
        self,
        canvases: Any,
        content_sizes: Sequence[tuple[float, float]],
        settings: PostprocessConfig | None = None,
        labels: Sequence[int] | None = None,
    ) -> Instances:
        """Return two objects for each canvas (B, 3, height, width)."""
        self.batches.append(len(canvases))
        self.entered.release()
        if self.gate is not None:
            assert self.gate.wait(START_SECONDS)
        error = self.failure(canvases)
        if error is not None:
            raise error
        height, width = canvases.shape[2:]
        gray = canvases.astype(np.float32).mean(1)[:, 2::4, 2::4]
        level = gray.mean((1, 2), keepdims=True)
        count = len(canvases)
        scores = np.stack([0.5 + level.ravel() / 1000, np.full(count, 0.4)], 1)
        boxes = np.tile(np.float32([[0, 0, width, height], [4, 4, width - 4, height - 4]]), (count, 1, 1))
        coefficients = np.tile(np.float32([[-1.0], [1.0]]), (count, 1, 1))
        prototypes = (gray - level)[:, None]
        return Instances(boxes, np.float32(scores), np.tile([[0, 1]], (count, 1)), coefficients, prototypes)


def pixel_predictor(gate: threading.Event | None = None, score: float = 0.1, **options: Any) -> Predictor:
    """Return a predictor with a `PixelBackend`."""
    return Predictor(PixelBackend(gate), score=score, **options)


def make_app() -> Any:
    """Return an application with one model, for processes of their own."""
    return create_app({"pixels": pixel_predictor()}, log=AccessLog(sys.stderr), ready_first=True)


def noise(seed: int, size: tuple[int, int] = (48, 80)) -> np.ndarray:
    """Return an image (H, W, 3) of large blocks of noise."""
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(blocks).resize((size[1], size[0]), Image.Resampling.NEAREST))


def encoded(image: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    """Return the bytes of a file of an image (H, W, 3)."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **options)
    return buffer.getvalue()


@dataclass
class Running:
    """A server in a thread of the test.

    Args:
        url: its address.
        client: a client with this address.
        predictors: the models.
        log: text of the access log.
    """

    url: str
    client: httpx.Client
    predictors: dict[str, Predictor]
    log: io.StringIO = field(default_factory=io.StringIO)

    @property
    def backend(self) -> Any:
        """The backend of the first model."""
        return next(iter(self.predictors.values())).backend

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        url = httpx.URL(self.url)
        return url.host, int(url.port or 0)

    def post(self, content: bytes, accept: str = "application/json", **query: Any) -> httpx.Response:
        """Send an image."""
        headers = {"Content-Type": "image/png", "Accept": accept}
        return self.client.post("/v1/predict", content=content, headers=headers, params=query)


@contextlib.contextmanager
def serving(
    predictors: dict[str, Predictor] | None = None, api_keys: Sequence[str] = (), ready: bool = True, **options: Any
) -> Iterator[Running]:
    """Serve predictors from a thread on a free port until the block ends."""
    predictors = {"pixels": pixel_predictor()} if predictors is None else predictors
    log = io.StringIO()
    settings = ServingOptions(**options)
    app = create_app(predictors, settings, api_keys, AccessLog(log))
    with open_socket("127.0.0.1", 0) as opened:
        opened.listen(128)  # clients wait until the server accepts
        server = uvicorn.Server(server_config(lambda: app, settings))
        thread = threading.Thread(target=asyncio.run, args=(server.serve([opened]),))
        thread.start()
        try:
            with httpx.Client(base_url=address_of(opened), timeout=START_SECONDS) as client:
                if ready:
                    service = app.state.service
                    assert client.get("/healthz").status_code == 200
                    assert all(model.batcher.ready.wait(START_SECONDS) for model in service.models.values())
                    log.seek(0)
                    log.truncate()
                yield Running(address_of(opened), client, predictors, log)
        finally:
            server.should_exit = True
            thread.join(60)
            assert not thread.is_alive()


def write_images(folder: Path, count: int) -> list[Path]:
    """Write images of noise as PNG files and return their paths."""
    paths = [folder / f"{i}.png" for i in range(count)]
    for i, path in enumerate(paths):
        path.write_bytes(encoded(noise(i)))
    return paths
