"""Detections to the body of a response: JSON with masks as RLE, polygons or PNG, or the drawn image."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from PIL import Image
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from sais.ops.rle import encode_cropped
from sais.results.cropped_mask import CroppedMask
from sais.results.detections import Detections
from sais.results.draw import draw
from sais.text import printable

MaskFormat = Literal["rle", "polygons", "png", "none"]
SLICE_BYTES = 2**16
"""Size of the parts in which a response is handed to the connection, which buffers them without a limit."""


class HeldResponse(Response):
    """A response that is sent as fast as the client reads it, so that what it holds is known.

    Args:
        content: body.
        media_type: its type.
        release: function that is called when all but the last part has left, or the client has gone.
        timeout: time in seconds in which the client must read it.
    """

    def __init__(self, content: bytes, media_type: str, release: Callable[[], None], timeout: float) -> None:
        super().__init__(content, media_type=media_type)
        self._release = release
        self._timeout = timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response."""
        body, start = self.body, {"status": self.status_code, "headers": self.raw_headers}
        try:
            async with asyncio.timeout(self._timeout):
                await send({"type": "http.response.start", **start})
                for i in range(0, max(1, len(body)), SLICE_BYTES):
                    more = i + SLICE_BYTES < len(body)
                    part = bytes(body[i : i + SLICE_BYTES])
                    await send({"type": "http.response.body", "body": part, "more_body": more})
        except TimeoutError:
            raise ClientDisconnect from None
        finally:
            self._release()


def image_entry(detections: Detections, name: str | None, masks: MaskFormat) -> dict[str, Any]:
    """Return the entry of an image in a response; see `sais.serving.schemas.ImageResult`.

    Args:
        detections: D detections.
        name: name of the uploaded file, if any.
        masks: format of the masks.
    """
    height, width = detections.image_size
    areas = detections.area
    rows = zip(detections.boxes.tolist(), detections.scores.tolist(), detections.labels.tolist(), strict=True)
    objects: list[dict[str, Any]] = []
    for i, (box, score, label) in enumerate(rows):
        mask = detections.cropped_masks[i] if detections.cropped_masks and masks != "none" else None
        objects.append(
            {
                "class_id": label,
                "class_name": detections.class_names[label],
                "score": round(score, 6),
                "box": [round(edge, 3) for edge in box],
                "area": round(float(areas[i])),
                "mask": None if mask is None else encode_mask(mask, detections.image_size, masks),
            }
        )
    return {
        "name": None if name is None else printable(name),
        "width": width,
        "height": height,
        "objects": objects,
    }


def encode_mask(mask: CroppedMask, image_size: tuple[int, int], masks: MaskFormat) -> dict[str, Any]:
    """Return a mask of an image of `image_size` (H, W): its COCO RLE, its rings, or a PNG of the pixels in a box."""
    if masks == "rle":
        return encode_cropped(mask.bits, mask.x, mask.y, image_size)
    if masks == "polygons":
        from sais.ops.contours import contours

        return {"polygons": [(ring + np.array([mask.x, mask.y])).tolist() for ring in contours(mask.bits)]}
    height, width = mask.shape
    png = png_bytes(Image.fromarray(mask.bits.astype(np.uint8) * 255).convert("1")) if height and width else b""
    return {"png": base64.b64encode(png).decode(), "box": [mask.x, mask.y, mask.x + width, mask.y + height]}


def json_bytes(content: Any) -> bytes:
    """Return JSON without spaces."""
    return json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8", "replace")


def drawing_bytes(image: np.ndarray, detections: Detections) -> bytes:
    """Return a PNG of an image (H, W, 3) with its detections drawn."""
    return png_bytes(Image.fromarray(draw(image, detections, 0)))


def png_bytes(image: Image.Image) -> bytes:
    """Return an image (H, W) or (H, W, 3) as a PNG file, compressed fast."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
