"""Settings and limits of the service."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from sais.errors import ConfigError

RANGES = {
    "max_batch": (1, 1024),
    "max_delay_ms": (0, 10_000),
    "queue": (1, 100_000),
    "decoders": (0, 256),
    "max_upload_mb": (0.001, 10_000),
    "max_megapixels": (0.0001, 1000),
    "max_images": (1, 10_000),
    "max_tiles": (1, 100_000),
    "max_objects": (1, 100_000),
    "memory_mb": (1, 10_000_000),
    "timeout": (0.05, 3600),
    "max_connections": (1, 1_000_000),
}
"""Setting -> minimum and maximum."""


@dataclass(frozen=True)
class ServingOptions:
    """How the service batches requests, and what it refuses.

    Raises:
        ConfigError: a value out of range.
    """

    max_batch: int = 8
    """Maximum number of images in one forward pass; images of different requests are predicted together."""
    max_delay_ms: float = 5.0
    """Maximum time in milliseconds for which an image waits for others that are being decoded, to be predicted with
    them; an image never waits if no other is on its way."""
    queue: int = 64
    """Maximum number of images of a model that are accepted and not yet answered; more are refused with 503."""
    decoders: int = 0
    """Threads that decode images and encode answers. 0: one for each core, at most 8."""
    max_upload_mb: float = 50.0
    """Maximum size of a request in megabytes (1,000,000 bytes)."""
    max_megapixels: float = 64.0
    """Maximum size of an image in megapixels; larger ones are refused before they are decoded."""
    max_images: int = 16
    """Maximum number of images in a request."""
    max_tiles: int = 256
    """Maximum number of tiles of an image."""
    max_objects: int = 1000
    """Maximum number of detections per image that a request may ask for."""
    memory_mb: float = 2000.0
    """Maximum size in megabytes of all uploads and decoded images that wait; more are refused with 503."""
    timeout: float = 30.0
    """Maximum time in seconds of an upload, and again of its prediction."""
    max_connections: int = 900
    """Maximum number of open connections; further requests are refused with 503."""
    cors: tuple[str, ...] = ()
    """Origins of pages elsewhere that may call the service, such as https://example.com, or *; by default none."""
    allowed_hosts: tuple[str, ...] = ()
    """Host names that requests may address, such as sais.example.com, *.example.com, or * for any, against DNS
    rebinding; IP addresses always may. Default: localhost where only this machine is served, else any."""
    examples: Path | None = None
    """Folder of example images that the page offers; everyone who reaches the service can see them."""

    def __post_init__(self) -> None:
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(f"{name}: {value} is not between {low:g} and {high:g}. Give a number in this range.")
        for name in self.allowed_hosts:
            if not re.fullmatch(r"\*|(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?", name):
                raise ConfigError(f"allowed_hosts: {name!r} is not a host name. Give one such as sais.example.com.")
        for origin in self.cors:
            if origin != "*" and not origin.startswith(("http://", "https://")):
                raise ConfigError(f"cors: {origin!r} is not an origin. Give one such as https://example.com, or *.")

    @property
    def max_bytes(self) -> int:
        """Maximum number of bytes in the body of a request."""
        return int(self.max_upload_mb * 1e6)

    @property
    def max_pixels(self) -> int:
        """Maximum number of pixels of an image."""
        return int(self.max_megapixels * 1e6)
