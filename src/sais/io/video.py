"""Video reading and writing with PyAV (extra `video`)."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from sais import input_limits
from sais.errors import InputError, MissingDependencyError, ResourceError
from sais.io.atomic import replace_file
from sais.io.temporary import temporary_folder

if TYPE_CHECKING:
    from sais.io.sound import SoundCopy

VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv", ".ts")
"""Suffixes of video files, compared without regard to case."""
DEFAULT_RATE = 25.0
"""Frames per second of a video that states none."""
_CLOCK = 90_000
"""Ticks per second of the times of frames written, as usual for video."""
_MIN_RATE = 0.001
"""Frames per second of the slowest video written."""
_OPEN_OPTIONS = {
    "protocol_whitelist": "file",
    "format_whitelist": "mov,mp4,matroska,webm,avi,mpeg,mpegts,mpegvideo,m4v,h264,hevc,asf,flv,ogg,ivf,obu,vc1,mjpeg",
}
"""Containers of videos only: a playlist named .mp4 would make FFmpeg read other files and addresses."""


def is_video(path: str | Path) -> bool:
    """Return whether a path has the suffix of a video."""
    return Path(path).suffix.lower() in VIDEO_SUFFIXES


@dataclass(frozen=True)
class VideoInfo:
    """The metadata of a video."""

    rate: float
    """Frames per second; 25 if the file does not state it, or states an impossible one."""
    frames: int
    """Number of frames, stated in the file or computed from its duration and rate; 0 if unknown."""


def video_info(path: str | Path) -> VideoInfo:
    """Read the frame rate and length of a video without decoding it.

    Raises:
        MissingDependencyError: PyAV is not installed.
        InputError: The file is missing, corrupt or has no video stream.
    """
    with open_video(path) as container:
        stream = container.streams.video[0]
        rate = frame_rate(stream)
        frames = max(0, int(stream.frames or 0))
        if not frames and (container.duration or 0) > 0:
            frames = round(container.duration / 1e6 * rate)
        return VideoInfo(rate, frames)


def read_video(path: str | Path, frame_stride: int = 1) -> Iterator[tuple[int, float, np.ndarray]]:
    """Decode the frames of a video, one at a time.

    Args:
        path: The video file.
        frame_stride: Step between the frames returned; N returns every N-th frame, starting with the first.

    Yields:
        The frame's index in the video, its time in seconds, and the frame (H, W, 3) uint8 RGB, rotated as recorded in
        the file.

    Raises:
        MissingDependencyError: PyAV is not installed.
        InputError: The file is missing, has no frames, or is truncated (its index lists frames beyond its end); the
            frames before the defect are yielded first. Formats that may end anywhere, as .ts and .mkv, are read to
            their end.
        ValueError: `frame_stride` is below 1.
    """
    if frame_stride < 1:
        raise ValueError(f"frame_stride {frame_stride}: must be at least 1")
    return _decode_frames(open_video(path), Path(path), frame_stride)


def _decode_frames(container: Any, path: Path, frame_stride: int) -> Iterator[tuple[int, float, np.ndarray]]:
    import av

    index = -1
    with container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        stream.codec_context.options = {"max_pixels": str(input_limits.MAX_FRAME_PIXELS)}  # the size may change
        rate = frame_rate(stream)
        try:
            for index, frame in enumerate(container.decode(stream)):
                if index % frame_stride == 0:
                    seconds = float(frame.time) if frame.time is not None else index / rate
                    yield index, seconds, frame_pixels(frame)
        except av.error.FFmpegError as error:
            raise InputError(
                f"{path}: decoding fails after frame {index} ({error.strerror}). Copy or convert the video again."
            ) from None
        listed = _frames_beyond_end(stream, path)
    if index < 0:
        raise InputError(f"{path}: no readable frames. Convert the video again.")
    if listed:
        raise InputError(f"{path}: truncated after frame {index} of {listed - 1}. Copy the video again.")


def _frames_beyond_end(stream: Any, path: Path) -> int:
    """Return the number of frames that the index of a video lists if one is beyond the end of the file, else 0.

    FFmpeg ends such a video without an error. An older PyAV cannot read the index.
    """
    entries = list(getattr(stream, "index_entries", ()))
    end = max((entry.pos + entry.size for entry in entries), default=0)
    return max(len(entries), stream.frames) if end > path.stat().st_size else 0


def frame_pixels(frame: Any) -> np.ndarray:
    """Return a decoded frame, rotated as its file states: (H, W, 3) uint8 RGB."""
    image = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(image, round(getattr(frame, "rotation", 0) / 90) % 4))


def import_av() -> Any:
    """Return PyAV.

    Raises:
        MissingDependencyError: It is not installed.
    """
    try:
        import av
    except ImportError:
        raise MissingDependencyError(
            'video: PyAV is not installed. Run: pip install "sais-seg[video]"', package="av", extra="video"
        ) from None
    return av


def metadata_options(av: Any) -> dict[str, str]:
    """Return the arguments of `av.open` with which titles may have any encoding; PyAV 19 needs and knows none."""
    return {"metadata_errors": "ignore"} if int(av.__version__.partition(".")[0]) < 19 else {}


def open_video(path: str | Path) -> Any:
    """Open a video file with PyAV, as a container only, and check the size of its frames.

    Raises:
        MissingDependencyError: PyAV is not installed.
        InputError: The file is missing, corrupt or has no video stream.
        ResourceError: Its frames are too large.
    """
    av = import_av()
    if not Path(path).is_file():
        raise InputError(f"{path}: no such video. Check the path.")
    try:
        container = av.open(str(path), options=_OPEN_OPTIONS, **metadata_options(av))
    except (av.error.FFmpegError, OSError) as error:
        raise InputError(f"{path}: not a readable video ({error.strerror}). Convert it again.") from None
    if not container.streams.video:
        container.close()
        raise InputError(f"{path}: no video stream. Use a video file.")
    if container.streams.video[0].codec_context is None:
        container.close()
        raise InputError(f"{path}: compressed in an unknown way. Convert it.")
    width, height = (int(getattr(container.streams.video[0], side, 0) or 0) for side in ("width", "height"))
    if width * height > input_limits.MAX_FRAME_PIXELS:
        container.close()
        limit = input_limits.MAX_FRAME_PIXELS
        raise ResourceError(f"{path}: frames of {width} x {height}, above the limit of {limit} pixels. Scale it down.")
    return container


def frame_rate(stream: Any) -> float:
    """Return the frames per second of a stream; the default if the file states none that is possible."""
    for rate in (stream.average_rate, stream.guessed_rate):
        if rate and 0 < rate <= input_limits.MAX_FRAME_RATE:
            return float(rate)
    return DEFAULT_RATE


class VideoWriter:
    """A context manager that writes an H.264 mp4 file atomically.

    The file appears at the end of the block; if the block raises, no file remains. All frames have the size of the
    first, to which others are resized; odd sizes are made even, as the format requires, by repeating the last row or
    column.
    """

    def __init__(self, path: str | Path, rate: float = 25.0, sound: Path | None = None) -> None:
        """Open a writer.

        Args:
            path: File to write; missing folders are created.
            rate: Frames per second.
            sound: Video whose sound is copied; the frames must then be written with their times in it.

        Raises:
            MissingDependencyError: PyAV is not installed.
            ResourceError: The file cannot be written.
        """
        self.path = Path(path)
        self.frames = 0
        self.sound: SoundCopy | None = None
        """The copy of the sound, from the first frame on."""
        self._sound_file = sound
        self._first_seconds: float | None = None
        self._ticks = -1
        rate = min(max(rate, _MIN_RATE), input_limits.MAX_FRAME_RATE)
        self._rate = Fraction(rate).limit_denominator(1001)
        self._size: tuple[int, int] | None = None
        self._stream: Any = None
        self._av = import_av()
        self._folder = contextlib.ExitStack()  # removes the temporary folder
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            folder = self._folder.enter_context(temporary_folder(self.path.parent, f".{self.path.name}"))
            self._temporary = folder / "video.mp4"
            options = {"movflags": "faststart"}
            self._container = self._av.open(str(self._temporary), "w", format="mp4", options=options)
        except OSError as error:
            self._folder.close()
            raise ResourceError(f"{path}: cannot be written ({error.strerror}). Use another folder.") from None

    def write(self, image: np.ndarray, seconds: float | None = None) -> None:
        """Append a frame; one of another size than the first, as in concatenated videos, is resized.

        Args:
            image: (H, W, 3) uint8 RGB.
            seconds: Time of the frame in its source; None for one at a distance of 1 / `rate` from the last.

        Raises:
            ResourceError: The frame cannot be encoded or written.
        """
        try:
            self._write(image, seconds)
        except (self._av.error.FFmpegError, OSError) as error:  # a full disk, or a size beyond the encoder's limits
            height, width = image.shape[:2]
            reason = f"{error.strerror or error}; frame {self.frames}, {width} x {height} pixels"
            raise ResourceError(f"{self.path}: cannot be written ({reason}). Use another folder or size.") from None

    def _write(self, image: np.ndarray, seconds: float | None) -> None:
        height, width = image.shape[:2]
        if self._stream is None:
            self._size, self._first_seconds = (height, width), seconds
            self._stream = self._add_stream(height + height % 2, width + width % 2)
            if (file := self._sound_file) is not None:
                from sais.io.sound import SoundCopy

                self.sound = SoundCopy(lambda: open_video(file), self._container, seconds or 0.0)
        if self._size is not None and (height, width) != self._size:
            height, width = self._size
            image = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
        if height % 2 or width % 2:
            image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        if seconds is None or self._first_seconds is None:
            frame.pts, frame.time_base = self.frames, 1 / self._rate
        else:
            frame.pts = max(self._ticks + 1, round(_CLOCK * (seconds - self._first_seconds)))
            frame.time_base, self._ticks = Fraction(1, _CLOCK), frame.pts
        self._container.mux(self._stream.encode(frame))
        self.frames += 1
        if self.sound is not None:
            self.sound.copy_until(self._seconds)

    @property
    def _seconds(self) -> float:
        """Seconds from the start of the video to the end of its last frame."""
        last = (self.frames - 1) / self._rate if self._first_seconds is None else Fraction(self._ticks, _CLOCK)
        return float(last + 1 / self._rate)

    def _add_stream(self, height: int, width: int) -> Any:
        # PyAV's wheels contain x264; a system's ffmpeg may not, but always has MPEG-4.
        codec = next(name for name in ("libx264", "h264", "mpeg4") if self._has_encoder(name))
        # A third less processor time than veryfast with crf 20, for files of up to 1.4 times the size: on a CPU, the
        # encoder takes its time from the network.
        options = {"crf": "22", "preset": "superfast"} if codec == "libx264" else {}
        stream = self._container.add_stream(codec, rate=self._rate, options=options)
        if self._first_seconds is not None:
            stream.codec_context.time_base = Fraction(1, _CLOCK)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        return stream

    def _has_encoder(self, name: str) -> bool:
        try:
            return bool(self._av.codec.Codec(name, "w"))
        except Exception:  # the class of this error differs between versions of PyAV
            return False

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and self._stream is not None:
                self._container.mux(self._stream.encode(None))
                if self.sound is not None:
                    self.sound.finish(self._seconds)
            self._container.close()
            if kind is None and self.frames:
                os.chmod(self._temporary, 0o644)
                replace_file(self._temporary, self.path)
        except OSError as failure:
            raise ResourceError(
                f"{self.path}: cannot be written ({failure.strerror}). Free disk space or use another folder."
            ) from None
        finally:
            with contextlib.suppress(Exception):
                self._container.close()  # Windows removes no open file
            self._folder.close()
