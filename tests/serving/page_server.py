"""A small server of the page with the HTTP API of `sais serve`, whose answers and faults a test chooses."""

from __future__ import annotations

import io
import json
import mimetypes
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
from PIL import Image

from sais.results.cropped_mask import CroppedMask
from sais.results.detections import Detections

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "worker-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
"""Content-Security-Policy of the service."""


@dataclass(frozen=True)
class Request:
    """A request that the server received.

    Args:
        path: path without the query.
        query: parameters of the query.
        headers: headers, names in lower case.
        body: content.
    """

    path: str
    query: dict[str, list[str]] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True)
class Answer:
    """Status, content and further headers of an answer."""

    content: Any
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()


Predict = Callable[[Request], Answer]


def error(status: int, code: str, message: str, *headers: tuple[str, str]) -> Answer:
    """Return an error in the form of the API."""
    return Answer({"error": {"code": code, "message": message}}, status, headers)


def answer_of(detections: Detections) -> dict[str, Any]:
    """Return the answer of /v1/predict for the detections of an image."""
    rles = detections.rle() if detections.cropped_masks else [None] * len(detections)
    objects = [
        {
            "class_id": int(detections.labels[i]),
            "class_name": detections.class_names[detections.labels[i]],
            "score": float(detections.scores[i]),
            "box": detections.boxes[i].tolist(),
            "area": int(detections.area[i]),
            "mask": rles[i],
        }
        for i in range(len(detections))
    ]
    height, width = detections.image_size
    images = [{"name": None, "width": width, "height": height, "objects": objects}]
    return {"model": "shapes", "images": images, "timing_ms": {"decode": 1, "queue": 0, "predict": 12, "encode": 1}}


def from_masks(masks: list[np.ndarray], labels: list[int], scores: list[float], names: tuple[str, ...]) -> Detections:
    """Return detections with masks (H, W) bool and the boxes of their pixels."""
    boxes, cropped = [], []
    for mask in masks:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        x1, y1, x2, y2 = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
        boxes.append([x1, y1, x2, y2])
        cropped.append(CroppedMask(x1, y1, mask[y1:y2, x1:x2]))
    size = masks[0].shape
    return Detections((size[0], size[1]), np.array(boxes), np.array(scores), np.array(labels), names, cropped)


def encode_image(pixels: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    """Return an image file with pixels (H, W, 3) uint8."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


class PageServer:
    """Serves the page on a free port of the loopback interface; a context manager.

    Args:
        predict: Function that answers /v1/predict.
    """

    def __init__(self, predict: Predict) -> None:
        self.predict = predict
        self.models = [
            {"name": "shapes", "classes": ["disc", "bar"], "input_size": None, "default": True, "score": 0.3}
        ]
        self.examples: dict[str, bytes] = {}
        self.api_key = ""
        self.requests: list[Request] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            """Handler of one connection."""

            def do_GET(self) -> None:
                server.handle(self)

            def do_POST(self) -> None:
                server.handle(self)

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def url(self) -> str:
        """Address of the page."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/"

    @property
    def predictions(self) -> list[Request]:
        """The requests of predictions."""
        return [request for request in self.requests if request.path == "/v1/predict"]

    def __enter__(self) -> PageServer:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer a request."""
        parts = urlsplit(handler.path)
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in handler.headers.items()}
        request = Request(unquote(parts.path), parse_qs(parts.query), headers, body)
        self.requests.append(request)
        answer = self._answer(request)
        content, kind = answer.content, "application/json"
        if isinstance(content, bytes):
            name = "index.html" if request.path == "/" else request.path
            kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        else:
            content = json.dumps(content).encode()
        try:
            handler.send_response(answer.status)
            for name, value in (("Content-Security-Policy", POLICY), ("Content-Type", kind), *answer.headers):
                handler.send_header(name, value)
            handler.send_header("Content-Length", str(len(content)))
            handler.end_headers()
            handler.wfile.write(content)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the page has canceled the request

    def _answer(self, request: Request) -> Answer:
        """Return the answer to a request."""
        if request.path == "/" or request.path.startswith("/static/"):
            name = request.path.removeprefix("/static/").strip("/") or "index.html"
            file = resources.files("sais") / "serving" / "static" / name
            return Answer(file.read_bytes()) if file.is_file() else error(404, "not_found", "There is no such file.")
        if self.api_key and request.headers.get("x-api-key") != self.api_key:
            return error(401, "unauthorized", "The API key is missing or wrong. Send it in the header X-API-Key.")
        if request.path == "/v1/models":
            return Answer({"models": self.models})
        if request.path == "/v1/examples":
            examples = [{"name": name, "url": f"/v1/examples/{name}"} for name in self.examples]
            return Answer({"examples": [example | {"thumbnail_url": example["url"]} for example in examples]})
        if request.path.startswith("/v1/examples/"):
            return Answer(self.examples[request.path.removeprefix("/v1/examples/")])
        return self.predict(request)
