"""Sources of frames, opened one way: a video file, images in their order, a webcam, a stream, arrays in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from sais.errors import InputError, OutOfMemoryError, SaisError
from sais.io.image_reader import ImageReader
from sais.io.images import as_image
from sais.io.live_video import LiveVideo, is_live, live_name
from sais.io.sources import SourceImage, find_sources, unreadable_kind
from sais.io.video import DEFAULT_RATE, read_video, video_info
from sais.text import without_credentials


@dataclass(frozen=True, eq=False)
class Frame:
    """One frame."""

    index: int
    """Position in its source, from 0; with a stride, positions are left out."""
    seconds: float
    """Time since the start."""
    image: np.ndarray
    """(H, W, 3) uint8 RGB."""
    source: SourceImage | None = None
    """The image file, in a sequence of images."""


@dataclass(frozen=True, eq=False)
class FrameSource:
    """Where frames come from, opened."""

    label: str
    """Path, address without password, or number of the webcam."""
    name: str
    """Name of its results, with a suffix if it is a file."""
    rate: float
    """Frames per second."""
    total: int
    """Number of frames that will be read; 0 if unknown."""
    read: Callable[[], Iterator[Frame]]
    """Function that reads the frames."""
    is_live: bool = False
    """Whether frames come at their time, and are lost unless they are taken then."""
    sound: Path | None = None
    """Video file with the sound."""
    unreadable: Counter[str] = field(default_factory=Counter)
    """What is wrong -> number of unreadable images of a sequence, which are left out."""


def video_source(path: Path, frame_stride: int = 1) -> FrameSource:
    """Open a video file.

    Raises:
        InputError: As for `sais.io.video.read_video`.
    """
    info = video_info(path)

    def read() -> Iterator[Frame]:
        for index, seconds, image in read_video(path, frame_stride):
            yield Frame(index, seconds, image)

    total = -(-info.frames // frame_stride)
    return FrameSource(str(path), path.name, info.rate / frame_stride, total, read, sound=path)


def live_source(
    word: str, frame_stride: int = 1, reconnections: int = 5, note: Callable[[str], None] = lambda line: None
) -> FrameSource:
    """Open a webcam by its number, or the video at an address.

    Raises:
        InputError: As for `LiveVideo`.
    """
    video = LiveVideo(word, reconnections, note)

    def read() -> Iterator[Frame]:
        for index, seconds, image in video.read():
            if index % frame_stride == 0:
                yield Frame(index, seconds, image)

    total = -(-video.frames // frame_stride)
    rate = video.rate / frame_stride
    return FrameSource(without_credentials(video.label), live_name(word), rate, total, read, not video.is_finite)


def sequence_source(
    images: Sequence[SourceImage],
    name: str,
    rate: float = DEFAULT_RATE,
    frame_stride: int = 1,
    reader: ImageReader | None = None,
    skip_unreadable: bool = True,
) -> FrameSource:
    """Take images as the frames of a video, in their order.

    Args:
        images: The images.
        name: Name of the results.
        rate: Frames per second.
        frame_stride: Step between the frames read.
        reader: Reader of single images.
        skip_unreadable: Whether unreadable images are left out and counted in `unreadable`.
    """
    reader, unreadable = reader or ImageReader(), Counter[str]()
    chosen = range(0, len(images), frame_stride)

    def read() -> Iterator[Frame]:
        """Yield the readable images, and close the reader."""
        try:
            for index in chosen:
                try:
                    image = reader.read(images[index])
                except OutOfMemoryError:
                    raise
                except SaisError as error:
                    unreadable[unreadable_kind(error)] += 1
                    if not skip_unreadable or unreadable.total() == len(chosen):
                        raise
                else:
                    yield Frame(index, index / rate, image, images[index])
        finally:
            reader.close()

    return FrameSource(name, name, rate / frame_stride, len(chosen), read, unreadable=unreadable)


def array_source(images: Iterable[Any], rate: float = DEFAULT_RATE, frame_stride: int = 1) -> FrameSource:
    """Take images of any kind that `sais.io.images.as_image` converts as the frames of a video."""

    def read() -> Iterator[Frame]:
        for index, image in enumerate(images):
            if index % frame_stride == 0:
                yield Frame(index, index / rate, as_image(image))

    return FrameSource("frames", "frames", rate / frame_stride, 0, read)


def open_frame_source(source: Any, frame_stride: int = 1, rate: float = DEFAULT_RATE) -> FrameSource:
    """Open a source of frames of any kind.

    Args:
        source: Path of a video, of a folder of images or a glob pattern; number of a webcam; address of a video; or an
            iterable over images.
        frame_stride: Step between the frames read.
        rate: Frames per second of images and arrays.

    Raises:
        InputError: There is no such source, or it is an image.
    """
    if frame_stride < 1 or not rate > 0:
        raise InputError(f"frames: stride {frame_stride}, rate {rate}. Give a step of 1 or more and a rate above 0.")
    if isinstance(source, int) or (isinstance(source, str) and is_live(source) and not Path(source).exists()):
        return live_source(str(source), frame_stride)
    if not isinstance(source, str | Path):
        return array_source(source, rate, frame_stride)
    sources = find_sources([str(source)])
    if sources.videos:
        return video_source(sources.videos[0], frame_stride)
    if len(sources.images) == 1:
        raise InputError(f"{source}: an image. Give a video, a folder of frames, a webcam or a stream.")
    return sequence_source(sources.images, Path(source).name or "frames", rate, frame_stride)


def limited(frames: Iterator[Frame], maximum: int | None) -> Iterator[Frame]:
    """Return an iterator over at most `maximum` frames, all of them for None."""
    return frames if maximum is None else islice(frames, maximum)
