"""Partly hidden objects: where the whole object is, by what a frame shows of it."""

from __future__ import annotations

import numpy as np
import pytest

from sais.results.cropped_mask import CroppedMask
from sais.results.detections import Detections
from sais.results.mask_ops import mask_window
from sais.tracking.occlusion import find_hidden
from sais.tracking.tracker import Tracker


def disk(x: int, y: int, radius: int) -> CroppedMask:
    """Return a disk with its center at x y."""
    rows, columns = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return CroppedMask(x - radius, y - radius, rows**2 + columns**2 <= radius**2)


def rectangle(x1: int, y1: int, x2: int, y2: int) -> CroppedMask:
    """Return the mask of a box."""
    return CroppedMask(x1, y1, np.ones((y2 - y1, x2 - x1), bool))


def cut(mask: CroppedMask, x: int) -> CroppedMask:
    """Return the part of a mask to the left of column x."""
    return CroppedMask(mask.x, mask.y, mask.bits[:, : max(0, x - mask.x)])


def dense(mask: CroppedMask, size: int = 900) -> np.ndarray:
    """Return a mask in an image of size x size pixels, whose top left pixel is at -200 -200."""
    canvas = np.zeros((size, size), bool)
    x1, y1, x2, y2 = mask_window(mask)
    canvas[y1 + 200 : y2 + 200, x1 + 200 : x2 + 200] = mask.bits
    return canvas


@pytest.mark.parametrize(("radius", "offset", "tolerance"), [(20, (5, -4), 0), (20, (0, 0), 0), (150, (21, -15), 3)])
def test_the_whole_object_is_found_behind_another(radius: int, offset: tuple[int, int], tolerance: int) -> None:
    """The box of the visible half would put its center a quarter of its width too far to the left."""
    whole, wall = disk(200, 200, radius), rectangle(200, 0, 400, 400)
    expected = whole.shift(*offset)
    found = find_hidden(expected, cut(whole, 200), [wall, disk(600, 600, 5)], (700, 700))
    assert found is not None
    assert found.mask is not None
    np.testing.assert_allclose(found.move, (-offset[0], -offset[1]), atol=tolerance)
    difference = np.count_nonzero(dense(found.mask) ^ dense(whole))
    assert difference <= 2 * radius * tolerance


def test_pixels_outside_of_the_image_are_hidden() -> None:
    whole = disk(4, 100, 20)
    visible = CroppedMask(0, whole.y, whole.bits[:, 16:])
    found = find_hidden(whole, visible, [], (300, 300))
    assert found is not None
    assert found.mask is not None
    assert np.array_equal(dense(found.mask), dense(whole))


def test_nothing_explains_a_part_without_another_object() -> None:
    whole = disk(100, 100, 20)
    found = find_hidden(whole, cut(whole, 100), [], (300, 300))
    assert found is not None
    assert found.mask is None
    empty = find_hidden(whole, CroppedMask(100, 100, np.zeros((3, 3), bool)), [], (300, 300))
    assert empty is not None
    assert (empty.move, empty.mask) == ((0, 0), None)


def test_a_detection_of_the_whole_object_hides_nothing() -> None:
    whole, neighbor = disk(100, 100, 20), rectangle(120, 50, 160, 150)
    assert find_hidden(whole, whole, [neighbor], (300, 300)) is None
    assert find_hidden(whole, disk(100, 100, 23), [neighbor], (300, 300)) is None
    assert find_hidden(whole, disk(100, 100, 19), [], (300, 300)) is None  # smaller, but nothing is in front


def test_a_few_hidden_pixels_move_an_object_but_are_not_remembered() -> None:
    """Borders are not exact: a pixel along the border of a neighbor would be added in frame after frame."""
    whole, wall = disk(100, 100, 20), rectangle(116, 50, 160, 150)
    found = find_hidden(whole.shift(3, 1), cut(whole, 116), [wall], (300, 300))
    assert found is not None
    assert (found.move, found.mask) == ((-3, -1), None)


def test_an_object_that_disappears_slowly_behind_another_is_found_at_the_other_side() -> None:
    """Its visible part shrank by a few percent in each frame, and each part was taken for the whole object."""
    tracker, wall = Tracker(), rectangle(80, 20, 126, 100)
    numbers: set[int] = set()
    for frame in range(110):
        shape = disk(40 + frame, 60, 20)
        bits = dense(shape) & ~dense(wall)
        rows, columns = np.flatnonzero(bits.any(1)), np.flatnonzero(bits.any(0))
        masks = [wall]
        if np.count_nonzero(bits) >= 150:
            crop = bits[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            masks.append(CroppedMask(columns[0] - 200, rows[0] - 200, crop))
        boxes, scores = np.array([mask_window(mask) for mask in masks], float), np.full(len(masks), 0.9)
        tracked = tracker.update(Detections((200, 200), boxes, scores, np.zeros(len(masks), int), ("a",), masks))
        assert tracked.track_ids is not None
        numbers |= set(tracked.track_ids.tolist())
    assert numbers == {1, 2}
