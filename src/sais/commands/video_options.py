"""Options of `sais predict` for videos, webcams and streams: tracks, counting lines and zones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from sais.commands.options import Count, Maximum, Minimum
from sais.errors import ConfigError

if TYPE_CHECKING:
    from sais.tracking.counting import Line, Zone

Words = Annotated[tuple[tuple[str, ...], ...], tyro.conf.UseAppendAction]
"""The words of an option that may be repeated, for each time."""
Seconds = Annotated[float, Minimum(0), Maximum(3600)]


@dataclass(frozen=True)
class VideoOptions:
    """Options for videos."""

    frame_stride: Count = 1
    """Video: process every N-th frame."""
    max_frames: Count | None = None
    """Video: stop after this number of processed frames. None: at its end, of a webcam or stream with Ctrl-C."""
    reconnections: Annotated[int, Minimum(0), Maximum(10**6)] = 5
    """Stream: number of times in a row that a broken connection is opened again."""
    track: bool = False
    """Give each object an id that stays, in videos and in images as frames of a video. Writes tracks.json and
    tracks.csv. Needs the extra track."""
    tracker: Literal["masks", "boxes", "bytetrack", "ocsort", "botsort"] = "masks"
    """Assignment by the IoU of masks or boxes, or a tracker of the package trackers."""
    max_lost: Seconds = 1.0
    """Seconds for which a track without detections is remembered."""
    trail: Seconds = 1.0
    """Seconds of an object's way that are drawn behind it; 0 for none."""
    line: Words = ()
    """Counting line x1,y1,x2,y2 or name=x1,y1,x2,y2 in pixels; in is to its right. May be repeated. Writes
    counts.csv."""
    zone: Words = ()
    """Counting zone x,y x,y x,y ... or name=x,y x,y ... in pixels. May be repeated."""
    frame_rate: Annotated[float, Minimum(0.001), Maximum(1000)] = 25.0
    """Frames per second of images that are tracked."""

    def places(self) -> tuple[list[Line], list[Zone]]:
        """Return the counting lines and zones.

        Raises:
            ConfigError: One is malformed, two have the same name, or an option has no effect without --track.
        """
        from sais.tracking.counting import Line, PlaceCounter, Zone

        if not self.track and (self.line or self.zone):
            raise ConfigError("sais predict: --line and --zone have no effect without --track. Add it.")
        words = [word for group in self.line for word in group]
        lines = []
        for number, word in enumerate(words, 1):
            name, numbers = _split(word, f"line {number}" if len(words) > 1 else "line")
            x1, y1, x2, y2 = _numbers(numbers, 4, f"--line {word}", "x1,y1,x2,y2")
            lines.append(Line((x1, y1), (x2, y2), name))
        zones = []
        for number, group in enumerate(self.zone, 1):
            name, first = _split(group[0] if group else "", f"zone {number}" if len(self.zone) > 1 else "zone")
            points = [_numbers(word, 2, f"--zone {' '.join(group)}", "x,y x,y x,y") for word in (first, *group[1:])]
            zones.append(Zone(tuple((x, y) for x, y in points), name))
        PlaceCounter(lines, zones)
        return lines, zones


def _split(word: str, default: str) -> tuple[str, str]:
    """Return the name and the numbers of "name=1,2"."""
    name, equals, numbers = word.rpartition("=")
    return (name, numbers) if equals and name else (default, numbers)


def _numbers(text: str, count: int, where: str, form: str) -> Sequence[float]:
    """Return `count` numbers that commas separate."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) != count:
        raise ConfigError(f"sais predict: {where:.200}: {text!r:.50} is not {count} numbers. Give {form} in pixels.")
    return values
