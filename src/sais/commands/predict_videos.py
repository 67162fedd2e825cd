"""Videos of `sais predict`: read, predict, track, draw and write in threads; Ctrl-C finishes the files."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sais.commands.arguments import make_folder
from sais.commands.track_files import TrackFiles
from sais.errors import InputError
from sais.io.progress import Progress, format_number
from sais.io.result_names import drawing_names
from sais.io.sources import SourceImage, Sources
from sais.text import print_text, printable

if TYPE_CHECKING:
    from sais.commands.object_table import ObjectTable
    from sais.commands.predict import PredictArguments
    from sais.commands.predicted_labels import PredictedLabels
    from sais.commands.prediction_file import PredictionFile
    from sais.inference.predictor import Predictor
    from sais.io.frame_source import Frame, FrameSource
    from sais.results.detections import Detections
    from sais.tracking.counting import PlaceCount

    Drawn = tuple[Frame, Detections, dict[str, PlaceCount]]

_WAITING = 8
"""Number of frames that may wait for each thread."""


@dataclass
class VideoSource:
    """A video of a prediction, which is opened when it is its turn."""

    name: str
    """Name of its results, with the suffix of a file."""
    source: Path | str | list[SourceImage]
    """File; number of a webcam or address; images."""

    def open(self, arguments: PredictArguments, predictor: Predictor) -> FrameSource:
        """Open it.

        Raises:
            SaisError: It cannot be opened.
        """
        from sais.io.frame_source import live_source, sequence_source, video_source
        from sais.io.image_reader import ImageReader

        options = arguments.video
        if isinstance(self.source, Path):
            return video_source(self.source, options.frame_stride)
        if isinstance(self.source, str):
            return live_source(
                self.source, options.frame_stride, options.reconnections, lambda line: print_text(f"note: {line}")
            )
        reader = ImageReader(white_level=predictor.experiment.input.white_level)
        return sequence_source(
            self.source, self.name, options.frame_rate, options.frame_stride, reader, arguments.skip_broken
        )


def video_sources(sources: Sources, track: bool) -> list[VideoSource]:
    """Return the videos of the sources; with tracks also the images, those of each folder as one video."""
    from sais.io.live_video import live_name

    videos = [VideoSource(path.name, path) for path in sources.videos]
    videos += [VideoSource(live_name(word), word) for word in sources.streams]
    if track:
        for folder, images in groupby(sources.images, _folder_name):
            videos.append(VideoSource(folder, list(images)))
    return videos


def _folder_name(image: SourceImage) -> str:
    """Return the name of the folder of an image."""
    return image.location.resolve().parent.name or "images" if isinstance(image.location, Path) else "images"


@dataclass
class VideoPredictor:
    """Predicts on videos, one after the other.

    Args:
        arguments: Arguments of the command.
        predictor: The predictor.
        predictions: predictions.json.
        label_files: Labels for correction and training.
        table: objects.csv.
        track_files: The files of tracks; None without tracks.
    """

    arguments: PredictArguments
    predictor: Predictor
    predictions: PredictionFile
    label_files: PredictedLabels
    table: ObjectTable
    track_files: TrackFiles | None = None
    notes: list[str] = field(default_factory=list)
    """Lines for the end of the command: frames per second, dropped frames, sound that is not copied."""

    def run(self, videos: Sequence[VideoSource]) -> None:
        """Predict on videos.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed in a video that ends by itself; its files are complete up to there.
            InputError: A video cannot be read, or only up to some frame; its files are complete up to there.
            SaisError: A file cannot be written.
        """
        for video, name in zip(videos, drawing_names([video.name for video in videos]), strict=True):
            self._predict(video.open(self.arguments, self.predictor), name)

    def _predict(self, source: FrameSource, name: Path) -> None:
        """Predict on a video, whose results have a name without suffix."""
        from sais.io.pipeline import ReadAhead
        from sais.tracking.follow import predict_frames, tracking_predictor

        track_files, maximum = self.track_files, self.arguments.video.max_frames
        predictor = self.predictor if track_files is None else tracking_predictor(self.predictor)
        size = 1 if source.is_live else 2 * _WAITING
        started, count = time.monotonic(), 0
        interrupt: KeyboardInterrupt | InputError | None = None
        frames = ReadAhead(source.read(), size, source.is_live)
        total = min(source.total, maximum or source.total)
        with Progress(source.label, total, "frames") as progress, VideoOutput(self.arguments, source, name) as output:
            follower = None
            if track_files is not None:
                track_files.start_video(source, self.predictions.category_ids)
                follower = Follower(self.arguments, self.predictor, source, track_files)
            try:
                with frames:
                    for frame, found in predict_frames(predictor, _at_most(frames, maximum), source.is_live):
                        detections = found if follower is None else follower.follow(frame, found)
                        self._add(source, name, frame, detections)
                        output.put(frame, detections, follower)
                        count += 1
                        progress.advance()
            except (KeyboardInterrupt, InputError) as error:  # the files contain the frames until then
                if not count:
                    raise
                interrupt = error
            if follower is not None:
                follower.finish(self.predictions.class_names)
        self._finish(source, output, count, time.monotonic() - started, frames.dropped)
        if isinstance(interrupt, InputError) or (interrupt is not None and not source.is_live):
            raise interrupt

    def _add(self, source: FrameSource, name: Path, frame: Frame, detections: Detections) -> None:
        """Add a frame to the files of results, and print its objects."""
        label = source.label if frame.source is None else frame.source.label
        print_text(f"{label} {frame.seconds:.2f} s: {detections.summary()}")
        entry: dict[str, Any] = {"video": source.name, "frame": frame.index, "seconds": round(frame.seconds, 3)}
        if self.track_files is not None:
            entry["video_id"] = self.track_files.num_videos
        stem = f"{name}_frame_{frame.index:06d}"
        file_entry = {"file_name": f"{stem}.jpg"} if frame.source is None else frame.source.entry()
        self.predictions.add(detections, **(file_entry | entry))
        self.label_files.add(frame.image, detections, stem if frame.source is None else frame.source)
        self.table.add(detections, file_entry["file_name"])

    def _finish(self, source: FrameSource, output: VideoOutput, count: int, seconds: float, dropped: int) -> None:
        """Add the written video to the list of drawings, and lines about it to the notes."""
        label = printable(source.label)
        if output.path is not None and output.path.is_file():
            self.predictions.add_drawing(self.arguments.out, output.path)
        self.notes.append(f"{label}: {count} frames in {seconds:.1f} s, {format_number(count / seconds)} frames/s")
        if dropped:
            self.notes.append(f"{label}: {dropped} frames dropped, which came while earlier ones were processed")
        if output.sound_note:
            self.notes.append(f"{label}: {output.sound_note}")
        if source.unreadable:
            kinds = ", ".join(f"{number} {kind}" for kind, number in source.unreadable.most_common())
            self.notes.append(f"{label}: skipped {source.unreadable.total()} unreadable images: {kinds}")
        if not count:
            raise InputError(f"{source.label}: no frames. Use another source.")


def _at_most(frames: Any, maximum: int | None) -> Iterator[Frame]:
    """Yield at most `maximum` frames, all of them for None; the thread that reads them is not waited for any more."""
    for number, frame in enumerate(frames, 1):
        yield frame
        if number == maximum:
            return


class Follower:
    """Gives the objects of one video track ids and counts them at lines and zones."""

    def __init__(
        self, arguments: PredictArguments, predictor: Predictor, source: FrameSource, track_files: TrackFiles
    ) -> None:
        from sais.tracking.counting import PlaceCounter
        from sais.tracking.follow import FrameSteps, make_tracker

        options = arguments.video
        self.counter = PlaceCounter(*options.places())
        self._tracker = make_tracker(options.tracker, predictor, options.max_lost * source.rate)
        self._steps, self._files, self._first_id = FrameSteps(source.rate), track_files, track_files.last_id

    def follow(self, frame: Frame, detections: Detections) -> Detections:
        """Return the objects of a frame that belong to tracks."""
        tracked = self._tracker.update(detections, self._steps(frame.seconds))
        assert tracked.track_ids is not None
        tracked.track_ids = tracked.track_ids + self._first_id  # unique in all videos of the prediction
        tracked.omitted = tracked.omitted if tracked.omitted is not None and tracked.omitted.limit is not None else None
        self._files.add(frame, tracked)
        self._files.add_crossings(self.counter.update(tracked, frame.index, frame.seconds))
        self.counter.crossings.clear()
        return tracked

    def finish(self, class_names: Sequence[str]) -> None:
        """Add the counts of the video to the files."""
        self._files.add_counts(self.counter, class_names)


class VideoOutput:
    """Draws the frames of a video and writes them, each in a thread; use it as a context manager.

    Args:
        arguments: Arguments of the command.
        source: The video.
        name: Name of the file without suffix.
    """

    def __init__(self, arguments: PredictArguments, source: FrameSource, name: Path) -> None:
        self.path = arguments.out / f"{name}.mp4" if arguments.draw else None
        self._arguments, self._source = arguments, source
        self._stack = ExitStack()
        self._writer: Any = None

    def __enter__(self) -> VideoOutput:
        if self.path is not None:
            from sais.io.pipeline import WriteBehind
            from sais.io.video import VideoWriter
            from sais.tracking.drawing import TrackDrawer

            arguments, rate = self._arguments, self._source.rate
            make_folder(arguments.out)
            trail = arguments.video.trail * rate
            drawer = TrackDrawer(*arguments.video.places(), trail, arguments.color_by, arguments.palette)
            self._writer = self._stack.enter_context(VideoWriter(self.path, rate, self._source.sound))
            encode: WriteBehind[Any] = WriteBehind(lambda item: self._writer.write(*item), _WAITING)
            self._stack.enter_context(encode)

            def draw(item: Drawn) -> None:
                frame, detections, counts = item
                encode.put((drawer.draw(frame.image, detections, counts), frame.seconds))

            self._draw = self._stack.enter_context(WriteBehind(draw, _WAITING))
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def put(self, frame: Frame, detections: Detections, follower: Follower | None) -> None:
        """Draw and write a frame."""
        if self.path is not None:
            counts = {} if follower is None else copy.deepcopy(follower.counter.counts)
            self._draw.put((frame, detections, counts))

    @property
    def sound_note(self) -> str:
        """What became of the sound, if it was not copied."""
        return "" if self._writer is None or self._writer.sound is None else str(self._writer.sound.note)
