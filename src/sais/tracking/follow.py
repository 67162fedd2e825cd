"""Detections with track ids for every frame of a video: `sais.track`.

A thread decodes the next frames while the network computes; on a GPU, the next batch also starts before the result of
a batch is taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from sais.io.frame_source import Frame, FrameSource, open_frame_source
from sais.io.pipeline import ReadAhead
from sais.results.detections import Detections

if TYPE_CHECKING:
    from sais.inference.predictor import Predictor

READ_AHEAD = 16
"""Number of decoded frames that may wait for the network."""
MAX_LOST_SECONDS = 1.0
"""Default time for which a track without detections is remembered."""
TrackerName = Literal["masks", "boxes", "bytetrack", "ocsort", "botsort"]


class AnyTracker(Protocol):
    """What is needed of a tracker: `Tracker`, `LibraryTracker` and your own."""

    def update(self, detections: Detections, steps: float = 1.0) -> Detections:
        """Return the detections of the next frame that belong to a track, with `track_ids`."""


@dataclass(frozen=True, eq=False)
class TrackedFrame:
    """A frame of a video and its objects."""

    index: int
    """Position of the frame in its source, from 0."""
    seconds: float
    """Time since the start."""
    image: np.ndarray
    """(H, W, 3) uint8 RGB."""
    detections: Detections
    """The objects that belong to tracks, with `track_ids`."""


def track(
    predictor: Predictor,
    source: Any,
    tracker: AnyTracker | TrackerName = "masks",
    frame_stride: int = 1,
    rate: float = 25.0,
    max_lost: float = MAX_LOST_SECONDS,
) -> Iterator[TrackedFrame]:
    """Follow the objects of a video.

        for frame in sais.track(predictor, "street.mp4"):
            print(frame.seconds, frame.detections.track_ids)

    Args:
        predictor: The predictor. Detections below its minimum score continue tracks, but start none.
        source: Path of a video, of a folder of frames or a glob pattern; number of a webcam; address of a stream; or an
            iterable over images (H, W, 3) uint8 RGB.
        tracker: "masks" or "boxes": `Tracker` with the IoU of masks or boxes; "bytetrack", "ocsort" or "botsort" of the
            package `trackers`; or a tracker.
        frame_stride: Step between the frames that are predicted.
        rate: Frames per second of a folder or an iterable.
        max_lost: Seconds for which a track without detections is remembered.

    Yields:
        Each frame with its tracked objects.

    Raises:
        InputError: The source cannot be opened or read.
        MissingDependencyError: scipy, PyAV or the package `trackers` is not installed.
    """
    frames = open_frame_source(source, frame_stride, rate)
    if isinstance(tracker, str):
        tracker = make_tracker(tracker, predictor, max_lost * frames.rate)
    return _tracked(frames, tracking_predictor(predictor), tracker)


def _tracked(source: FrameSource, predictor: Predictor, tracker: AnyTracker) -> Iterator[TrackedFrame]:
    steps = FrameSteps(source.rate)
    with ReadAhead(source.read(), 1 if source.is_live else READ_AHEAD, source.is_live) as frames:
        for frame, detections in predict_frames(predictor, frames, source.is_live):
            tracked = tracker.update(detections, steps(frame.seconds))
            tracked.image = frame.image
            yield TrackedFrame(frame.index, frame.seconds, frame.image, tracked)


def make_tracker(name: TrackerName, predictor: Predictor, max_lost: float) -> AnyTracker:
    """Create a tracker for the detections of a predictor.

    Args:
        name: As for `track`.
        predictor: The predictor, whose minimum scores a detection needs to start a track.
        max_lost: Number of frames that a track without detections is remembered.

    Raises:
        MissingDependencyError: scipy or the package `trackers` is not installed.
    """
    from sais.tracking.library_tracker import library_tracker
    from sais.tracking.tracker import Tracker

    minimum = predictor.filter.minimum
    if name in ("masks", "boxes"):
        scores = None if minimum is None else minimum.tolist()
        return Tracker(masks=name == "masks", score=scores, max_lost=max_lost)
    return library_tracker(name, predictor.filter.score, max_lost)


def tracking_predictor(predictor: Predictor) -> Predictor:
    """Return a predictor that also returns detections down to half of the minimum score, which continue tracks."""
    if predictor.filter.minimum is None:
        return predictor
    from sais.inference.predictor import Predictor

    options = replace(predictor.options, score=predictor.filter.score / 2, class_scores=())
    return Predictor(predictor.backend, options)


def predict_frames(
    predictor: Predictor, frames: Iterable[Frame], is_live: bool = False
) -> Iterator[tuple[Frame, Detections]]:
    """Yield each frame with its detections.

    Args:
        predictor: The predictor.
        frames: The frames.
        is_live: Whether each frame is predicted when it comes, instead of in batches.
    """
    from sais.inference.streaming import finish_in_order, start_batch

    size, iterator = 1 if is_live else predictor.options.read_batch_size, iter(frames)

    def batches() -> Iterator[list[Frame]]:
        while batch := list(islice(iterator, size)):
            yield batch

    started = ((batch, start_batch(predictor, [frame.image for frame in batch])) for batch in batches())
    for batch, results in finish_in_order(started, predictor.computes_ahead and predictor.options.single_pass):
        yield from zip(batch, results, strict=True)


class FrameSteps:
    """Number of frames between two times, at the rate of a source: more than 1 where frames were lost.

    Args:
        rate: Frames per second.
    """

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._last: float | None = None

    def __call__(self, seconds: float) -> float:
        """Return the number of frames since the last call, at least 0.25; 1 for the first."""
        steps = 1.0 if self._last is None else (seconds - self._last) * self._rate
        self._last = seconds
        # Times are often rounded to milliseconds, or frames arrive in pairs.
        return max(0.25, float(round(steps)) if abs(steps - round(steps)) < 0.1 else steps)
