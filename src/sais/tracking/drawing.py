"""Drawings of the frames of a video: objects with their track ids, trails, counting lines and zones with counts."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from sais.io.pixels import to_array
from sais.results.detections import Detections
from sais.results.draw import ColorBy, draw_on
from sais.results.fonts import default_font, font_for
from sais.results.palette import Color, PaletteName, class_color
from sais.text import printable
from sais.tracking.counting import Line, PlaceCount, Zone

_PLACE_COLOR: Color = (255, 255, 255)
_SHADOW: Color = (16, 18, 22)
_MAX_TRAIL_POINTS = 1000


class TrackDrawer:
    """Draws the frames of a video in their order.

    Args:
        lines: Counting lines.
        zones: Counting zones.
        trail: Number of frames over which the way of each object is drawn; 0 for no trails.
        color_by: "class", or "instance": each track has the next color.
        palette: Colors.
    """

    def __init__(
        self,
        lines: Sequence[Line] = (),
        zones: Sequence[Zone] = (),
        trail: float = 30,
        color_by: ColorBy = "class",
        palette: PaletteName = "default",
    ) -> None:
        self._lines, self._zones, self._trail = tuple(lines), tuple(zones), trail
        self._color_by, self._palette = color_by, palette
        self._trails: dict[int, deque[tuple[int, float, float]]] = {}
        self._frame = 0

    def draw(
        self, image: np.ndarray, detections: Detections, counts: dict[str, PlaceCount] | None = None
    ) -> np.ndarray:
        """Draw a frame.

        Args:
            image: (H, W, 3) uint8 RGB.
            detections: D objects of the frame; without track ids, there are no trails.
            counts: Name of a line or zone -> its counts.

        Returns:
            (H, W, 3) uint8 RGB.
        """
        self._frame += 1
        canvas = Image.fromarray(image)  # a copy, which is the only one
        if self._trail > 0 and detections.track_ids is not None:
            self._add_centers(detections)
            self._draw_trails(canvas, self._colors(detections))
        self._draw_places(canvas)
        draw_on(canvas, detections, 0, color_by=self._color_by, palette=self._palette)
        self._draw_counts(canvas, counts or {})
        return to_array(canvas)

    def _colors(self, detections: Detections) -> dict[int, Color]:
        """Return the color of each track in a frame."""
        if detections.track_ids is None:
            return {}
        ids = detections.track_ids.tolist()
        if self._color_by == "class":
            return {k: class_color(label, self._palette) for k, label in zip(ids, detections.labels, strict=True)}
        return {k: class_color(k - 1, self._palette) for k in ids}

    def _add_centers(self, detections: Detections) -> None:
        """Add the objects of a frame to the trails, and forget those that are over."""
        assert detections.track_ids is not None
        for number, (x1, y1, x2, y2) in zip(detections.track_ids.tolist(), detections.boxes.tolist(), strict=True):
            trail = self._trails.setdefault(number, deque(maxlen=_MAX_TRAIL_POINTS))
            trail.append((self._frame, (x1 + x2) / 2, (y1 + y2) / 2))
        for number, trail in list(self._trails.items()):
            while trail and trail[0][0] <= self._frame - self._trail:
                trail.popleft()
            if not trail:
                del self._trails[number]

    def _draw_trails(self, canvas: Image.Image, colors: dict[int, Color]) -> None:
        """Draw the trails of the objects in a frame, wider towards their end."""
        pen, width = ImageDraw.Draw(canvas), max(2.0, float(np.sqrt(canvas.width * canvas.height)) / 180)
        for number, color in colors.items():
            points = list(self._trails.get(number, ()))
            for (_, x, y), (frame, to_x, to_y) in pairwise(points):
                part = 1 - (self._frame - frame) / self._trail
                pen.line((x, y, to_x, to_y), fill=color, width=max(1, round(width * part)))

    def _draw_places(self, canvas: Image.Image) -> None:
        """Draw lines with an arrow to the side of in, and zones: below the objects, whose labels stay legible."""
        pen, scale = ImageDraw.Draw(canvas), float(np.sqrt(canvas.width * canvas.height))
        width, size = max(2, round(scale / 320)), _text_size(canvas)
        for zone in self._zones:
            points = [*map(tuple, zone.points.tolist()), tuple(zone.points[0].tolist())]
            _draw_path(pen, points, width)
        for line in self._lines:
            start, end = line.points
            _draw_path(pen, [line.start, line.end], width)
            middle, way = (start + end) / 2, end - start
            arrow = middle + np.array([-way[1], way[0]]) / np.linalg.norm(way) * 1.5 * size
            _draw_path(pen, [tuple(middle.tolist()), tuple(arrow.tolist())], width)
            radius = 2 * width
            pen.ellipse((*(arrow - radius).tolist(), *(arrow + radius).tolist()), fill=_PLACE_COLOR, outline=_SHADOW)

    def _draw_counts(self, canvas: Image.Image, counts: dict[str, PlaceCount]) -> None:
        """Write the counts of lines and zones, above all else."""
        pen, size = ImageDraw.Draw(canvas), _text_size(canvas)
        for zone in self._zones:
            _draw_text(pen, zone.corners[0], _zone_text(zone, counts), size, canvas.size)
        for line in self._lines:
            _draw_text(pen, line.start, _line_text(line, counts), size, canvas.size)


def _text_size(canvas: Image.Image) -> int:
    """Return the font size of counts in pixels."""
    return max(11, round(float(np.sqrt(canvas.width * canvas.height)) / 46))


def _draw_path(pen: ImageDraw.ImageDraw, points: Sequence[Any], width: int) -> None:
    """Draw a white line with a dark border, which is visible on every image."""
    pen.line(points, fill=_SHADOW, width=width + 2, joint="curve")
    pen.line(points, fill=_PLACE_COLOR, width=width, joint="curve")


def _draw_text(
    pen: ImageDraw.ImageDraw, center: tuple[float, float], text: str, size: int, image_size: tuple[int, int]
) -> None:
    """Write a text on a dark background around a point, inside of an image (width, height)."""
    text = printable(text, 60)
    font = font_for(text, size) or default_font(size)
    width, height = font.getlength(text) + size, 1.5 * size
    left = min(max(0.0, center[0] - width / 2), max(0.0, image_size[0] - width))
    top = min(max(0.0, center[1] - height / 2), max(0.0, image_size[1] - height))
    pen.rounded_rectangle((left, top, left + width, top + height), size // 4, fill=_SHADOW)
    pen.text((left + width / 2, top + height / 2), text, fill=_PLACE_COLOR, font=font, anchor="mm")


def _line_text(line: Line, counts: dict[str, PlaceCount]) -> str:
    count = counts.get(line.name, PlaceCount())
    return f"{line.name}  in {count.into.total()}  out {count.out.total()}"


def _zone_text(zone: Zone, counts: dict[str, PlaceCount]) -> str:
    count = counts.get(zone.name, PlaceCount())
    return f"{zone.name}  {count.inside.total()} inside  in {count.into.total()}  out {count.out.total()}"
