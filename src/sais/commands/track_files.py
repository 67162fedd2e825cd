"""The files of `sais predict --track`: tracks.json (COCO with videos and tracks), tracks.csv and counts.csv."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sais.commands.prediction_file import WRITER, PredictionFile
from sais.io.atomic import write_text
from sais.io.growing_files import JsonEntries, RowFile, write_json
from sais.io.outputs import check_outputs, starts_with, written_by
from sais.results.measurements import csv_lines, csv_text

if TYPE_CHECKING:
    from sais.io.frame_source import Frame, FrameSource
    from sais.results.detections import Detections
    from sais.tracking.counting import Crossing, PlaceCounter

TRACKS_JSON, TRACKS_CSV, COUNTS_CSV = "tracks.json", "tracks.csv", "counts.csv"
TRACK_COLUMNS = ("video", "frame", "seconds", "track", "class", "score", "x", "y", "width", "height", "area")
COUNT_COLUMNS = ("video", "place", "kind", "class", "in", "out", "inside", "visitors")
MAX_TRACKS = 10_000
"""Number of tracks, those seen last, that are in memory."""


@dataclass
class _Track:
    """One track of a video."""

    video_id: int
    first_frame: int
    first_seconds: float
    last_frame: int = 0
    last_seconds: float = 0.0
    frames: int = 0
    scores: Counter[int] = field(default_factory=Counter)
    """Label -> thousandths of the sum of the scores with it."""


class TrackFiles:
    """Writes the tracks of videos: tracks.csv frame by frame, the other files at the end.

    Args:
        out: Output folder of the prediction.
        places: Whether there are lines or zones.
    """

    def __init__(self, out: Path, places: bool) -> None:
        self._out, self._has_places = out, places
        self._category_ids: Sequence[Any] = ()
        self._videos: list[dict[str, Any]] = []
        self._tracks: dict[int, _Track] = {}  # in the order in which they were last seen
        self._last_id = 0
        self._rows = RowFile(out / TRACKS_CSV, _csv_lines([TRACK_COLUMNS]))
        self._counts: list[Sequence[Any]] = []
        self._finished, self._crossings = JsonEntries(out), JsonEntries(out)

    def check(self, inputs: Iterable[Path], overwrite: bool) -> None:
        """Check that the files may be written. Creates nothing.

        Args:
            inputs: Files that are read.
            overwrite: Whether files of others are replaced.

        Raises:
            InputError: A file would replace one that is read or one of others.
        """
        inputs = list(inputs)
        check_outputs([self._out / TRACKS_JSON], inputs, overwrite, self._out, written_by(WRITER))
        tables = {TRACKS_CSV: TRACK_COLUMNS} | ({COUNTS_CSV: COUNT_COLUMNS} if self._has_places else {})
        for name, columns in tables.items():
            check_outputs([self._out / name], inputs, overwrite, self._out, starts_with(_csv_lines([columns])))

    @property
    def last_id(self) -> int:
        """The highest track id so far; those of the next video follow."""
        return self._last_id

    @property
    def num_videos(self) -> int:
        """Number of videos, which is the id of the last."""
        return len(self._videos)

    def start_video(self, source: FrameSource, category_ids: Sequence[Any]) -> int:
        """Add a video and return its id; `category_ids` are those of the classes."""
        self._category_ids = category_ids
        number = len(self._videos) + 1
        self._videos.append({"id": number, "name": source.name, "fps": source.rate})
        return number

    def add(self, frame: Frame, detections: Detections) -> None:
        """Add the objects of a frame of the last video, with track ids."""
        video = self._videos[-1]
        video.setdefault("height", detections.image_size[0])
        video.setdefault("width", detections.image_size[1])
        video["length"] = video.get("length", 0) + 1
        assert detections.track_ids is not None
        rows, areas = [], detections.area.tolist()  # counts the pixels of all masks
        for i, number in enumerate(detections.track_ids.tolist()):
            label, score = int(detections.labels[i]), float(detections.scores[i])
            track = self._tracks.pop(number, None) or _Track(video["id"], frame.index, frame.seconds)
            self._tracks[number] = track
            track.last_frame, track.last_seconds, track.frames = frame.index, frame.seconds, track.frames + 1
            track.scores[label] += round(1000 * score)
            x1, y1, x2, y2 = detections.boxes[i].tolist()
            box = (x1, y1, x2 - x1, y2 - y1)
            name = csv_text(detections.class_names[label])
            values = (f"{score:.4f}", *(f"{value:.2f}" for value in box), f"{areas[i]:.0f}")
            rows.append((csv_text(video["name"]), frame.index, f"{frame.seconds:.3f}", number, name, *values))
            self._last_id = max(self._last_id, number)
        self._rows.append(_csv_lines(rows))
        self._finish_tracks(max(MAX_TRACKS, len(rows)))

    def add_crossings(self, crossings: Sequence[Crossing]) -> None:
        """Add objects of the last video that crossed a line, or entered or left a zone."""
        video_id = self._videos[-1]["id"] if self._videos else 0
        self._crossings.extend([{"video_id": video_id} | asdict(crossing) for crossing in crossings])

    def _finish_tracks(self, remaining: int = 0) -> None:
        """Move tracks from the memory to the entries of tracks.json, but for those seen last."""
        numbers = sorted(islice(self._tracks, max(0, len(self._tracks) - remaining)))
        entries = []
        for number in numbers:
            track = self._tracks.pop(number)
            entry = {key: value for key, value in vars(track).items() if key != "scores"}
            label = track.scores.most_common(1)[0][0]
            entries.append({"id": number, "category_id": self._category_ids[label]} | entry)
        self._finished.extend(entries)

    def add_counts(self, counter: PlaceCounter, class_names: Sequence[str]) -> None:
        """Add the counts of the last video at lines and zones."""
        video = self._videos[-1]
        for place, count in counter.counts.items():
            kind = "line" if place in [line.name for line in counter.lines] else "zone"
            columns = (count.into, count.out, count.inside, count.visitors)
            rows = [[(c.total() if name is None else c[name]) for c in columns] for name in (None, *class_names)]
            for name, row in zip(("all", *map(csv_text, class_names)), rows, strict=True):
                if name == "all" or any(row):
                    shown = row if kind == "zone" else [*row[:2], "", ""]
                    self._counts.append((csv_text(video["name"]), csv_text(place), kind, name, *shown))

    def write(self, predictions: PredictionFile, complete: bool = True) -> list[str]:
        """Write the files, list them in predictions.json, and return a line about them."""
        names, category_ids = predictions.class_names, predictions.category_ids
        self._finish_tracks()
        categories = [{"id": i, "name": name} for i, name in zip(category_ids, names, strict=True) if i is not None]
        content = {
            "info": {"written_by": WRITER, "complete": complete},
            "videos": self._videos,
            "images": predictions.images,
            "categories": categories,
            "tracks": self._finished,
            "annotations": predictions.annotations,
            "crossings": self._crossings,
        }
        self._rows.close()
        write_json(self._out / TRACKS_JSON, content)
        if self._has_places:
            write_text(self._out / COUNTS_CSV, _csv_lines([COUNT_COLUMNS, *self._counts]))
        for name in (TRACKS_JSON, TRACKS_CSV, *([COUNTS_CSV] if self._has_places else [])):
            predictions.add_drawing(self._out, self._out / name)
        return [f"{len(self._finished)} tracks in {self._out / TRACKS_JSON}", *self._count_lines()]

    def _count_lines(self) -> list[str]:
        """Return a line for each line or zone of each video."""
        return [
            f"{video}, {place}: {into} in, {out} out" + (f", {inside} inside at the end" if kind == "zone" else "")
            for video, place, kind, name, into, out, inside, _ in self._counts
            if name == "all"
        ]


def _csv_lines(rows: Iterable[Sequence[Any]]) -> str:
    """Return rows as CSV text."""
    return csv_lines([[str(value) for value in row] for row in rows])
