"""Images for schemathesis, which tests a running service against its OpenAPI document; install it apart from sais.

    sais serve cats.onnx --port 8000
    SCHEMATHESIS_HOOKS=peers.serving.schemathesis_hooks st run http://127.0.0.1:8000/openapi.json --max-examples 200

Without them, bodies of random bytes, which an OpenAPI document cannot exclude, would count as valid images.
"""

from __future__ import annotations

import io

import schemathesis
from hypothesis import strategies
from PIL import Image


def encode(size: tuple[int, int], kind: str, color: str) -> bytes:
    """Return an image file of one color."""
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, kind)
    return buffer.getvalue()


SIDES = strategies.integers(1, 200)
IMAGES = strategies.builds(
    encode,
    strategies.tuples(SIDES, SIDES),
    strategies.sampled_from(("PNG", "JPEG", "WEBP")),
    strategies.sampled_from(("red", "white", "black")),
)

schemathesis.openapi.media_type("image/*", IMAGES)
schemathesis.openapi.media_type("application/octet-stream", IMAGES)
schemathesis.openapi.format("binary", IMAGES)
