"""Counting lines and zones: directions, ends of a line, objects that tremble, appear inside or change their class."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from sais.errors import ConfigError
from sais.results.detections import Detections
from sais.tracking import counting
from sais.tracking.counting import Line, PlaceCounter, Zone


def objects(*rows: tuple[int, float, float, int]) -> Detections:
    """Return objects (id, x, y of the center, label) in an image of 400 x 300 pixels."""
    boxes = np.array([[x - 8, y - 8, x + 8, y + 8] for _, x, y, _ in rows])
    labels, ids = np.array([row[3] for row in rows]), np.array([row[0] for row in rows])
    return Detections((300, 400), boxes, np.ones(len(rows)), labels, ("cat", "dog"), track_ids=ids)


def walk(counter: PlaceCounter, number: int, points: list[tuple[float, float]], label: int = 0) -> list[str]:
    """Move an object along points; return the places and directions of its crossings."""
    crossings = [c for x, y in points for c in counter.update(objects((number, x, y, label)))]
    return [f"{c.place} {c.direction}" for c in crossings]


def test_line_counts_each_direction_and_class() -> None:
    counter = PlaceCounter([Line((100, 150), (300, 150), "door")])
    down, up = [(200.0, y) for y in range(100, 200, 9)], [(220.0, y) for y in range(200, 100, -9)]
    assert walk(counter, 1, down) == ["door in"]
    assert walk(counter, 2, up, 1) == ["door out"]
    assert walk(counter, 3, [(40, 100), (40, 200)]) == []  # past its end
    assert walk(counter, 4, [(200, 100), (200, 140), (200, 100)]) == []
    assert walk(counter, 5, [(150, 100), (250, 200), (150, 100)]) == ["door in", "door out"]
    assert counter.counts["door"].into == Counter(cat=2)
    assert counter.counts["door"].out == Counter(dog=1, cat=1)
    assert [(c.track_id, c.class_name) for c in counter.crossings][:2] == [(1, "cat"), (2, "dog")]


def test_direction_of_a_line_follows_from_its_start_and_end() -> None:
    """In is to the right as seen from the start: to the left in the image for a line that runs down."""
    for line, expected in ((Line((200, 50), (200, 250)), "out"), (Line((200, 250), (200, 50)), "in")):
        assert walk(PlaceCounter([line]), 1, [(150, 100), (250, 100)]) == [f"line {expected}"]


def test_object_that_trembles_on_a_line_is_counted_once() -> None:
    counter = PlaceCounter([Line((0, 150), (400, 150))])
    ways = [(200.0, y) for y in (120, 149, 151, 149, 151, 150, 151, 149, 152, 170, 151, 149, 170)]
    assert walk(counter, 1, ways) == ["line in"]


def test_zone_counts_who_enters_leaves_and_is_inside() -> None:
    zone = Zone(((100, 100), (200, 100), (200, 200), (100, 200)), "shop")
    counter = PlaceCounter(zones=[zone])
    counter.update(objects((1, 50, 150, 0), (2, 150, 150, 1)))
    assert counter.counts["shop"].inside == Counter(dog=1)
    counter.update(objects((1, 150, 150, 0), (2, 150, 120, 1)))
    assert counter.counts["shop"].inside == Counter(dog=1, cat=1)
    counter.update(objects((1, 160, 150, 0), (2, 150, 50, 1)))
    count = counter.counts["shop"]
    assert (count.into, count.out, count.inside) == (Counter(cat=1), Counter(dog=1), Counter(cat=1))
    assert count.visitors == Counter(cat=1, dog=1)
    counter.update(objects())
    assert count.inside == Counter()


def test_class_of_a_crossing_is_the_most_frequent_of_its_track() -> None:
    counter = PlaceCounter([Line((0, 150), (400, 150))])
    for y, label in ((100, 0), (110, 0), (120, 0), (200, 1)):
        counter.update(objects((1, 200, y, label)))
    assert counter.counts["line"].into == Counter(cat=1)


def test_zone_distances_equal_those_of_sampled_borders() -> None:
    corners = ((20.0, 30.0), (180.0, 40.0), (90.0, 90.0), (170.0, 160.0), (30.0, 150.0))
    points = np.random.default_rng(0).uniform(0, 200, (200, 2))
    ring = np.array(corners)
    border = np.concatenate([np.linspace(a, b, 2000) for a, b in zip(ring, np.roll(ring, -1, 0), strict=True)])
    expected = np.sqrt(((points[:, None] - border) ** 2).sum(-1)).min(1)
    found = Zone(corners).distances(points)
    np.testing.assert_allclose(np.abs(found), expected, atol=0.1)
    matplotlib = pytest.importorskip("matplotlib.path")
    np.testing.assert_array_equal(found > 0, matplotlib.Path(ring).contains_points(points))


def test_impossible_places_are_refused() -> None:
    with pytest.raises(ConfigError, match="two points are the same"):
        Line((1, 1), (1, 1))
    with pytest.raises(ConfigError, match="2 corners"):
        Zone(((1, 1), (2, 2)))
    with pytest.raises(ConfigError, match="0 or more"):
        Line((-1, 1), (1, 1))
    with pytest.raises(ConfigError, match="same name"):
        PlaceCounter([Line((1, 1), (1, 2), "a")], [Zone(((1, 1), (2, 2), (1, 2)), "a")])


def test_counter_remembers_a_bounded_number_of_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "MAX_OBJECTS", 5)
    counter = PlaceCounter([Line((0, 150), (400, 150))])
    for number in range(1, 101):
        counter.update(objects((1000, 20, 50, 0), (number, 200, 100, 0)))
        counter.update(objects((1000, 20, 50, 0), (number, 200, 200, 0)))
    assert len(counter._objects) == 5
    counter.update(objects((1000, 20, 200, 0)))  # seen all the time, so remembered
    assert counter.counts["line"].into.total() == 101
    many = [(number, 10.0 + number, 100.0, 0) for number in range(9)]
    counter.update(objects(*many))
    assert len(counter.update(objects(*((number, x, 200.0, 0) for number, x, _, _ in many)))) == 9
