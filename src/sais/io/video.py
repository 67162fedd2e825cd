"""Reading and writing video through PyAV (extra `video`)."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from sais.errors import SaisError

VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ts")
"""Files taken as videos."""


def is_video(path: str | Path) -> bool:
    """Whether a path has the suffix of a video."""
    return Path(path).suffix.lower() in VIDEO_SUFFIXES


@dataclass(frozen=True)
class VideoInfo:
    """What a video says of itself."""

    rate: float
    """Images per second; 25 where the file does not say."""
    frames: int
    """How many images, as the file says or as its length and rate suggest; 0 where unknown."""


def video_info(path: str | Path) -> VideoInfo:
    """The rate and length of a video, without reading its images.

    Raises:
        SaisError: PyAV is not installed, or the file is missing, broken or holds no images.
    """
    container = _open(path)
    with container:
        stream = container.streams.video[0]
        rate = float(stream.average_rate or stream.guessed_rate or 25)
        frames = int(stream.frames or 0)
        if not frames and container.duration:
            frames = round(container.duration / 1e6 * rate)
        return VideoInfo(rate, frames)


def read_video(path: str | Path, every: int = 1) -> Iterator[tuple[int, float, np.ndarray]]:
    """The images of a video, one after the other.

    Args:
        path: the file.
        every: take each so many-th image, the first included.

    Yields:
        index of the image in the video, its time in seconds, and the image (H, W, 3) uint8 RGB, turned as the
        recording device noted.

    Raises:
        SaisError: PyAV is not installed; or the file is missing, holds no images or breaks off, in which case the
            images before the break have been given.
        ValueError: every is below 1.
    """
    if every < 1:
        raise ValueError(f"every must be at least 1, got {every}")
    container = _open(path)
    return _frames(container, Path(path), every)


def _frames(container: Any, path: Path, every: int) -> Iterator[tuple[int, float, np.ndarray]]:
    import av

    index = -1
    with container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        rate = float(stream.average_rate or 25)
        try:
            for index, frame in enumerate(container.decode(stream)):
                if index % every == 0:
                    image = frame.to_ndarray(format="rgb24")
                    turns = round(getattr(frame, "rotation", 0) / 90) % 4
                    seconds = float(frame.time) if frame.time is not None else index / rate
                    yield index, seconds, np.ascontiguousarray(np.rot90(image, turns))
        except av.error.FFmpegError as error:
            raise SaisError(
                f"{path}: breaks off after image {index} ({error.strerror}); copy or convert the video again"
            ) from None
    if index < 0:
        raise SaisError(f"{path}: holds no images that can be read; convert the video again")


def _av() -> Any:
    try:
        import av
    except ImportError:
        raise SaisError('videos need PyAV: pip install "sais-seg[video]"') from None
    return av


def _open(path: str | Path) -> Any:
    av = _av()
    if not Path(path).is_file():
        raise SaisError(f"{path}: no such video; check the path")
    try:
        container = av.open(str(path))
    except (av.error.FFmpegError, OSError) as error:
        raise SaisError(f"{path}: not a video that can be read ({error.strerror}); convert it again") from None
    if not container.streams.video:
        container.close()
        raise SaisError(f"{path}: holds no images, only other streams; give a video")
    return container


class VideoWriter:
    """Writes an H.264 mp4 that any browser plays, whole or not at all.

    A context manager: the file appears when the block ends well, and nothing stays of it when the block fails. The
    size is that of the first image; odd sizes are made even, as the format demands, by repeating the last row or
    column.
    """

    def __init__(self, path: str | Path, rate: float = 25.0) -> None:
        """Open a writer.

        Args:
            path: of the file to write; missing folders are made.
            rate: images per second.

        Raises:
            SaisError: PyAV is not installed, or the file cannot be written.
        """
        self.path = Path(path)
        self.frames = 0
        self._rate = Fraction(rate).limit_denominator(1001)
        self._size: tuple[int, int] | None = None
        self._stream: Any = None
        self._av = _av()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle, self._temporary = tempfile.mkstemp(
                prefix=f".{self.path.stem}.", suffix=".mp4", dir=self.path.parent
            )
            os.close(handle)
            self._container = self._av.open(self._temporary, "w", format="mp4", options={"movflags": "faststart"})
        except OSError as error:
            raise SaisError(f"{path}: cannot be written: {error.strerror}") from None

    def write(self, image: np.ndarray) -> None:
        """Append an image (H, W, 3) uint8 RGB.

        Raises:
            ValueError: it is not of the first image's size.
        """
        height, width = image.shape[:2]
        if self._stream is None:
            self._size = (height, width)
            self._stream = self._new_stream(height + height % 2, width + width % 2)
        if (height, width) != self._size:
            raise ValueError(f"an image of {(height, width)} in a video of {self._size}")
        even = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
        frame.pts = self.frames
        frame.time_base = 1 / self._rate
        self._container.mux(self._stream.encode(frame))
        self.frames += 1

    def _new_stream(self, height: int, width: int) -> Any:
        # PyAV's own wheels have x264; a system's ffmpeg may not, and MPEG-4 is everywhere.
        codec = next(name for name in ("libx264", "h264", "mpeg4") if self._can_write(name))
        options = {"crf": "20", "preset": "veryfast"} if codec == "libx264" else {}
        stream = self._container.add_stream(codec, rate=self._rate, options=options)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        return stream

    def _can_write(self, name: str) -> bool:
        try:
            return bool(self._av.codec.Codec(name, "w"))
        except Exception:  # PyAV has changed the class of this error more than once
            return False

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and self._stream is not None:
                self._container.mux(self._stream.encode(None))
            self._container.close()
            if kind is None and self.frames:
                os.chmod(self._temporary, 0o644)
                os.replace(self._temporary, self.path)
        except OSError as failure:
            raise SaisError(f"{self.path}: cannot be written: {failure.strerror}") from None
        finally:
            if os.path.exists(self._temporary):
                os.unlink(self._temporary)
