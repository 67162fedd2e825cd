"""Webcams and network streams, read with PyAV (extra `video`): RTSP, RTMP, SRT, and HTTP with HLS or a video file.

A connection that breaks is opened again, a limited number of times in a row. Passwords in an address are not printed.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from sais import input_limits
from sais.errors import InputError, ResourceError
from sais.io.video import VIDEO_SUFFIXES, frame_pixels, frame_rate, import_av, metadata_options
from sais.text import without_credentials

STREAM_SCHEMES = ("rtsp://", "rtsps://", "rtmp://", "rtmps://", "srt://", "udp://", "tcp://")
"""Starts of addresses that are always videos."""
STREAM_SUFFIXES = (*VIDEO_SUFFIXES, ".m3u8", ".mjpg", ".mjpeg")
"""Suffixes by which an http or https address is a video."""
TIMEOUT = 10.0
"""Seconds without data after which a connection counts as broken."""
_WEBCAMS = {
    "linux": ("v4l2", "/dev/video{}", {}),
    "darwin": ("avfoundation", "{}", {"framerate": "30"}),
    "win32": ("vfwcap", "{}", {}),
}
"""Platform -> FFmpeg's input device, name of a webcam by its number, options."""
_PROTOCOLS = "rtsp,rtsps,rtp,srtp,rtmp,rtmps,rtmpt,srt,udp,tcp,tls,http,https,httpproxy,crypto,hls"
"""Protocols that an address may lead to: not to files of this machine."""


def is_live(word: str) -> bool:
    """Return whether a source is the number of a webcam or the address of a video."""
    lower = word.lower()
    if lower.startswith(("http://", "https://")):
        try:
            return urlsplit(lower).path.endswith(STREAM_SUFFIXES)
        except ValueError:
            return False
    return lower.startswith(STREAM_SCHEMES) or (word.isascii() and word.isdecimal() and len(word) < 4)


def live_name(word: str) -> str:
    """Return a file name for a webcam ("webcam_0") or the video at an address: the last part of its path, or host."""
    if word.isdecimal():
        return f"webcam_{word}"
    parts = urlsplit(word)
    name = PurePosixPath(parts.path).stem or parts.hostname
    return re.sub(r"[^\w.-]+", "_", name or "stream").strip("._") or "stream"


class LiveVideo:
    """The frames of a webcam or of a video at an address.

    Args:
        source: Number of a webcam, or address.
        reconnections: Number of times in a row that a broken connection is opened again.
        note: Function that is called with a line when a connection breaks or the stream ends.
        wait: Function that waits for a number of seconds, which double with each attempt from 1 to 16.
        clock: Function that returns the time in seconds, of which the times of a camera's frames are taken.

    Raises:
        MissingDependencyError: PyAV is not installed.
        InputError: The first connection fails, or it has no video.
        ResourceError: The frames are too large.
    """

    def __init__(
        self,
        source: str,
        reconnections: int = 5,
        note: Callable[[str], None] = lambda line: None,
        wait: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.source, self.label = source, f"webcam {source}" if source.isdecimal() else without_credentials(source)
        self.reconnections, self._note, self._wait, self._clock = reconnections, note, wait, clock
        self._av = import_av()
        try:
            self._container: Any = self._open()
        except (self._av.error.FFmpegError, OSError) as error:
            remedy = "Check its number and whether another program uses it" if source.isdecimal() else "Check it"
            raise InputError(f"{self.label}: cannot be opened ({_reason(error)}). {remedy}.") from None
        self.is_finite = not source.isdecimal() and (self._container.duration or 0) > 0
        """Whether it is a video file at an address, which waits for its reader, and not a camera."""
        self.rate = frame_rate(self._container.streams.video[0])
        """Frames per second."""
        self.frames = round(self._container.duration / 1e6 * self.rate) if self.is_finite else 0
        """Number of frames; 0 if unknown."""

    def read(self) -> Iterator[tuple[int, float, np.ndarray]]:
        """Yield index, seconds since the start and pixels (H, W, 3) uint8 RGB of each frame, until the stream ends.

        Raises:
            InputError: A video file at an address breaks off.
        """
        index, attempts, start = 0, 0, self._clock()
        while True:
            try:
                for seconds, image in self._frames(start):
                    yield index, seconds, image
                    index, attempts = index + 1, 0
                reason = "the stream ended"
                if self.is_finite:
                    return
            except (self._av.error.FFmpegError, OSError) as error:
                reason = _reason(error)
                if self.is_finite:
                    raise InputError(f"{self.label}: breaks off after frame {index - 1} ({reason}). Retry.") from None
            while not self._reopen(attempts := attempts + 1, reason):
                if attempts >= self.reconnections:
                    self._note(f"{self.label}: {reason}; gave up after {self.reconnections} reconnections")
                    return

    def _reopen(self, attempt: int, reason: str) -> bool:
        """Try to connect again; return whether it worked."""
        if attempt > self.reconnections:
            return False
        self._note(f"{self.label}: {reason}; reconnection {attempt} of {self.reconnections}")
        self._wait(min(2.0 ** (attempt - 1), 16.0))
        try:
            self._container = self._open()
        except (self._av.error.FFmpegError, OSError):
            return False
        return True

    def _frames(self, start: float) -> Iterator[tuple[float, np.ndarray]]:
        """Yield the time and pixels of each frame of the open connection, and close it."""
        with self._container as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO" if self.is_finite else "SLICE"  # threads of frames delay a camera
            stream.codec_context.options = {"max_pixels": str(input_limits.MAX_FRAME_PIXELS)}
            first: float | None = None
            for frame in container.decode(stream):
                if self.is_finite and frame.time is not None:
                    first = frame.time if first is None else first
                    yield frame.time - first, frame_pixels(frame)
                else:
                    yield self._clock() - start, frame_pixels(frame)

    def _open(self) -> Any:
        options: dict[str, str]
        if self.source.isdecimal():
            device, name, options = _WEBCAMS.get(sys.platform, _WEBCAMS["linux"])
            container = self._av.open(name.format(self.source), format=device, options=options, timeout=TIMEOUT)
        else:
            options = {"protocol_whitelist": _PROTOCOLS, "rtsp_transport": "tcp"}
            container = self._av.open(self.source, options=options, timeout=TIMEOUT, **metadata_options(self._av))
        if not container.streams.video or container.streams.video[0].codec_context is None:
            container.close()
            raise InputError(f"{self.label}: no video that can be decoded. Use another address.")
        stream = container.streams.video[0]
        if (stream.width or 0) * (stream.height or 0) > input_limits.MAX_FRAME_PIXELS:
            container.close()
            raise ResourceError(
                f"{self.label}: frames of {stream.width} x {stream.height}, above the limit of "
                f"{input_limits.MAX_FRAME_PIXELS} pixels. Use a smaller stream."
            )
        return container


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or type(error).__name__)
