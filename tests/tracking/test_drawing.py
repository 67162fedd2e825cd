"""Drawings of tracks: ids and trails in the color of a track, lines and zones with their counts."""

from __future__ import annotations

import numpy as np
import pytest

from sais.results.detections import Detections
from sais.results.palette import class_color
from sais.tracking import Line, PlaceCounter, TrackDrawer, Zone


def walker(x: float, number: int = 3) -> Detections:
    """Return one object at x in an image of 120 x 300 pixels."""
    box, names = np.array([[x, 50, x + 20, 70]]), ("cat", "dog")
    return Detections((120, 300), box, np.array([0.9]), np.array([1]), names, track_ids=np.array([number]))


def colored(drawing: np.ndarray, color: tuple[int, int, int], box: tuple[int, int, int, int]) -> int:
    """Return the number of pixels of a color in a box x1 y1 x2 y2."""
    x1, y1, x2, y2 = box
    return int((drawing[y1:y2, x1:x2] == color).all(-1).sum())


@pytest.mark.parametrize(("color_by", "index"), [("class", 1), ("instance", 2)])
def test_trail_has_the_color_of_the_track_and_is_forgotten(color_by: str, index: int) -> None:
    drawer = TrackDrawer(trail=5, color_by=color_by)  # type: ignore[arg-type]
    image = np.zeros((120, 300, 3), np.uint8)
    for x in range(20, 220, 20):
        drawing = drawer.draw(image, walker(float(x)))
    assert (image == 0).all()
    color = class_color(index)
    assert colored(drawing, color, (130, 59, 195, 62)) > 40  # the last frames
    assert colored(drawing, color, (0, 59, 120, 62)) == 0
    assert colored(TrackDrawer(trail=0).draw(image, walker(200.0)), class_color(1), (130, 59, 195, 62)) == 0


def test_line_and_zone_are_drawn_with_their_counts() -> None:
    line, zone = Line((150, 0), (150, 120), "gate"), Zone(((200, 30), (290, 30), (290, 110), (200, 110)), "yard")
    counter, drawer = PlaceCounter([line], [zone]), TrackDrawer([line], [zone], 0)
    image = np.zeros((120, 300, 3), np.uint8)
    before = drawer.draw(image, walker(100.0), counter.counts)
    assert colored(before, (255, 255, 255), (149, 40, 152, 120)) > 60
    assert colored(before, (255, 255, 255), (199, 60, 202, 110)) > 40
    for x in (100.0, 180.0, 240.0):
        counter.update(walker(x))
    after = drawer.draw(image, walker(100.0), counter.counts)
    changed = np.argwhere((before != after).any(-1))
    assert len(changed) > 20  # the digits
    assert (changed[:, 0] < 50).all()


def test_detections_without_tracks_are_drawn_without_trails() -> None:
    detections = walker(100.0)
    detections.track_ids = None
    drawer, image = TrackDrawer(), np.zeros((120, 300, 3), np.uint8)
    for _ in range(2):
        drawing = drawer.draw(image, detections)
    assert drawing.any()


def test_lines_do_not_cross_out_the_label_of_an_object() -> None:
    image, plain = np.zeros((120, 300, 3), np.uint8), TrackDrawer(trail=0)
    line = Line((0, 40), (300, 40), "gate")  # through the label above the box
    expected, found = plain.draw(image, walker(200.0)), TrackDrawer([line], trail=0).draw(image, walker(200.0))
    label = np.s_[36:45, 215:260]
    assert expected[label].any()
    np.testing.assert_allclose(found[label].astype(int), expected[label], atol=32)  # a label is not quite opaque
