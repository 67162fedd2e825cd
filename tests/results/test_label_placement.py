"""Placement of class names: clear of small objects and of each other, inside the image."""

from __future__ import annotations

import numpy as np

from sais.results.label_placement import MAX_COVERED, place_tags

SIZE = (480, 640)


def covered_fractions(place: tuple[int, int, bool], tag: tuple[int, int], boxes: np.ndarray) -> np.ndarray:
    """Return the fraction of each box (N, 4) that a tag covers."""
    left, top, _ = place
    width = np.clip(np.minimum(boxes[:, 2], left + tag[0]) - np.maximum(boxes[:, 0], left), 0, None)
    height = np.clip(np.minimum(boxes[:, 3], top + tag[1]) - np.maximum(boxes[:, 1], top), 0, None)
    return width * height / ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]))


def test_place_tags_prefers_the_place_above_the_object() -> None:
    boxes = np.array([[100, 100, 160, 140]])
    assert place_tags(boxes, [(60, 14)], SIZE) == [(100, 86, False)]


def test_place_tags_avoids_neighbors_the_border_and_other_tags() -> None:
    random = np.random.default_rng(0)
    corners = random.uniform(0, [600, 440], (30, 2))
    boxes = np.concatenate([corners, corners + random.uniform(8, 40, (30, 2))], 1)
    tags = [(70, 14)] * 30
    places = place_tags(boxes, tags, SIZE)
    shown = [place for place in places if place is not None]
    assert len(shown) >= 20
    for place in shown:
        assert place[0] >= 0
        assert place[1] >= 0
        assert place[0] + 70 <= 640
        assert place[1] + 14 <= 480
        assert covered_fractions(place, (70, 14), boxes).max() <= MAX_COVERED
    rectangles = np.array([[x, y, x + 70, y + 14] for x, y, _ in shown], float)
    for i, (x, y, far) in enumerate(shown):
        others = covered_fractions((x, y, far), (70, 14), np.delete(rectangles, i, 0))
        assert others.max() == 0


def test_place_tags_writes_inside_an_object_that_fills_the_image() -> None:
    (place,) = place_tags(np.array([[-5, -5, 640, 480]]), [(60, 14)], SIZE)
    assert place == (0, 0, False)


def test_place_tags_uses_a_leader_where_the_surroundings_are_taken() -> None:
    small = np.array([[320, 240, 332, 252]])
    ring = [[320 + x, 240 + y, 332 + x, 252 + y] for x in (-14, 0, 14) for y in (-14, 0, 14) if (x, y) != (0, 0)]
    places = place_tags(np.concatenate([small, ring]), [(60, 12)] * 9, SIZE)
    assert places[0] is not None
    assert places[0][2]


def test_place_tags_omits_tags_of_tiny_crowded_objects() -> None:
    y, x = np.divmod(np.arange(1200), 40)
    boxes = np.stack([16 * x, 16 * y, 16 * x + 12, 16 * y + 12], 1)
    assert set(place_tags(boxes, [(70, 14)] * 1200, SIZE)) == {None}
    assert place_tags(np.zeros((0, 4)), [], SIZE) == []
