"""Counting lines and zones: how many objects of each class cross a line, and enter, leave and occupy a zone.

An object is where the center of its box is. Near a line or the border of a zone its side does not change, so that an
object that trembles there is not counted again and again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal

import numpy as np

from sais.errors import ConfigError
from sais.results.detections import Detections

MARGIN = 0.004
"""Distance from a line or a border within which the side of an object does not change, as a fraction of the image's
diagonal: 6 pixels in an image of 1280 x 720."""
MAX_OBJECTS = 10_000
"""Number of tracks, those seen last, that a counter remembers."""
Direction = Literal["in", "out"]


@dataclass(frozen=True)
class Line:
    """A line that objects cross: in to the right of its direction, as seen from its start, and out to the left.

    Raises:
        ConfigError: The two points are the same, or a coordinate is negative.
    """

    start: tuple[float, float]
    """x y in pixels."""
    end: tuple[float, float]
    """x y in pixels."""
    name: str = "line"
    """Name in results."""

    def __post_init__(self) -> None:
        _check_points(self.name, (self.start, self.end))
        if self.start == self.end:
            raise ConfigError(f"line {self.name}: its two points are the same. Give two points, x1,y1,x2,y2.")

    @property
    def points(self) -> np.ndarray:
        """(2, 2) x y of start and end."""
        return np.array([self.start, self.end], np.float64)

    def distances(self, centers: np.ndarray) -> np.ndarray:
        """Return the distances (N,) of points (N, 2) from the straight line; positive on its right, the side of in."""
        return _distances(self.points, centers)

    def is_between_ends(self, before: np.ndarray, after: np.ndarray) -> bool:
        """Return whether the way from one point (2,) to another meets the straight line between its two ends."""
        return bool(np.prod(_distances(np.stack([before, after]), self.points)) <= 0)


@dataclass(frozen=True)
class Zone:
    """A polygon that objects enter and leave.

    Raises:
        ConfigError: There are fewer than three points, or a coordinate is negative.
    """

    corners: tuple[tuple[float, float], ...]
    """x y of each corner in pixels."""
    name: str = "zone"
    """Name in results."""

    def __post_init__(self) -> None:
        _check_points(self.name, self.corners)
        if len(self.corners) < 3:
            raise ConfigError(f"zone {self.name}: {len(self.corners)} corners. Give three or more, each as x,y.")

    @property
    def points(self) -> np.ndarray:
        """(P, 2) x y of the corners."""
        return np.array(self.corners, np.float64)

    def distances(self, centers: np.ndarray) -> np.ndarray:
        """Return the distances (N,) of points (N, 2) from the border; positive inside."""
        first = self.points
        second = np.roll(first, -1, 0)
        edge, to_center = second - first, centers[:, None] - first
        along = (to_center * edge).sum(-1) / np.maximum((edge**2).sum(-1), 1e-12)
        nearest = first + np.clip(along, 0, 1)[..., None] * edge
        distance = np.linalg.norm(centers[:, None] - nearest, axis=-1).min(1)
        # A ray to the right crosses the border an odd number of times from inside.
        y, spans = centers[:, None, 1], (first[:, 1] <= centers[:, None, 1]) != (second[:, 1] <= centers[:, None, 1])
        height = np.where(edge[:, 1] == 0, 1, edge[:, 1])
        at = first[:, 0] + (y - first[:, 1]) / height * edge[:, 0]
        inside = (spans & (at > centers[:, None, 0])).sum(1) % 2 == 1
        return np.where(inside, distance, -distance)


def _distances(line: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return the distances (N,) of points (N, 2) from the line through two points (2, 2); positive on its right."""
    (x, y), (to_x, to_y) = line[0], line[1] - line[0]
    return (to_x * (points[:, 1] - y) - to_y * (points[:, 0] - x)) / max(float(np.hypot(to_x, to_y)), 1e-12)


def _check_points(name: str, points: Sequence[tuple[float, float]]) -> None:
    values = np.asarray(points, np.float64)
    if not (np.isfinite(values) & (values >= 0)).all():
        raise ConfigError(f"{name}: coordinates {values.ravel().tolist()}. Give pixels of the image, 0 or more.")


@dataclass(frozen=True)
class Crossing:
    """One object that crosses a line, or enters or leaves a zone."""

    place: str
    """Name of the line or zone."""
    direction: Direction
    track_id: int
    class_name: str
    frame: int
    """Position of the frame in its source."""
    seconds: float


@dataclass
class PlaceCount:
    """The counts of one line or zone."""

    into: Counter[str] = field(default_factory=Counter)
    """Class -> number of objects that crossed the line in its direction, or entered the zone."""
    out: Counter[str] = field(default_factory=Counter)
    """Class -> number of objects that crossed the line the other way, or left the zone."""
    inside: Counter[str] = field(default_factory=Counter)
    """Zones: class -> number of objects in the last frame."""
    visitors: Counter[str] = field(default_factory=Counter)
    """Zones: class -> number of objects that were inside at any time, also those that appeared there."""


@dataclass
class _State:
    """What is known of a track at a place."""

    center: np.ndarray
    """(2,) where it was last clearly at a side."""
    is_positive: bool
    has_visited: bool = False


@dataclass
class _Object:
    """What is known of a track."""

    labels: Counter[str] = field(default_factory=Counter)
    """Class -> number of frames with it."""
    states: dict[str, _State] = field(default_factory=dict)
    """Name of a place -> state at the place."""


class PlaceCounter:
    """Counts the tracks of a video at lines and zones.

    Args:
        lines: The lines.
        zones: The zones.

    Raises:
        ConfigError: Two places have the same name.
    """

    def __init__(self, lines: Sequence[Line] = (), zones: Sequence[Zone] = ()) -> None:
        self.lines, self.zones = tuple(lines), tuple(zones)
        self._places: list[Line | Zone] = [*lines, *zones]
        self.counts = {place.name: PlaceCount() for place in self._places}
        """Name of the place -> its counts."""
        if len(self.counts) < len(self._places):
            names = [place.name for place in self._places]
            raise ConfigError(f"lines and zones: {', '.join(names)}: two have the same name. Name them differently.")
        self.crossings: list[Crossing] = []
        """All crossings so far. Clear it from time to time where a camera runs for days."""
        self._objects: dict[int, _Object] = {}  # in the order in which they were last seen

    def update(self, detections: Detections, frame: int = 0, seconds: float = 0.0) -> list[Crossing]:
        """Count the objects of the next frame; return those that crossed.

        Args:
            detections: D detections with track ids.
            frame: Position of the frame in its source.
            seconds: Time of the frame.
        """
        if not self.counts or detections.track_ids is None:
            return []
        boxes, ids = detections.boxes.astype(np.float64), detections.track_ids.tolist()
        centers = (boxes[:, :2] + boxes[:, 2:]) / 2
        for number, label in zip(ids, detections.labels.tolist(), strict=True):
            known = self._objects[number] = self._objects.pop(number) if number in self._objects else _Object()
            known.labels[detections.class_names[label]] += 1
        for number in list(islice(self._objects, max(0, len(self._objects) - max(MAX_OBJECTS, len(ids))))):
            del self._objects[number]
        margin = MARGIN * float(np.hypot(*detections.image_size))
        new: list[Crossing] = []
        for place in self._places:
            count, distances = self.counts[place.name], place.distances(centers)
            if isinstance(place, Zone):
                count.inside = Counter()
            for i, number in enumerate(ids):
                known = self._objects[number]
                direction = _direction(place, known, centers[i], float(distances[i]), margin)
                name = known.labels.most_common(1)[0][0]
                if direction is not None:
                    (count.into if direction == "in" else count.out)[name] += 1
                    new.append(Crossing(place.name, direction, number, name, frame, seconds))
                state = known.states.get(place.name)
                if isinstance(place, Zone) and state is not None and state.is_positive:
                    count.inside[name] += 1
                    count.visitors[name] += not state.has_visited
                    state.has_visited = True
        self.crossings += new
        return new


def _direction(
    place: Line | Zone, known: _Object, center: np.ndarray, distance: float, margin: float
) -> Direction | None:
    """Return in which direction an object crosses a place in this frame; None if it does not."""
    positive, state = distance > 0, known.states.get(place.name)
    if abs(distance) < margin:
        return None
    if state is None:
        known.states[place.name] = _State(center, positive)
        return None
    before, was_positive = state.center, state.is_positive
    state.center, state.is_positive = center, positive
    if positive == was_positive or (isinstance(place, Line) and not place.is_between_ends(before, center)):
        return None
    return "in" if positive else "out"
