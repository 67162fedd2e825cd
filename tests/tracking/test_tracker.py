"""The tracker on a synthetic video with exact identities, and its parts against dense computations."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
import pytest

from peers.noisy_detections import MIN_SCORE, noisy_detections
from peers.tracking import TrackQuality, track_quality
from sais.data.synthetic_video import moving_shapes
from sais.errors import ConfigError, MissingDependencyError
from sais.results.cropped_mask import CroppedMask
from sais.results.detections import Detections
from sais.tracking.association import assign, box_similarity, mask_similarity
from sais.tracking.kalman import BoxFilters
from sais.tracking.library_tracker import LibraryTracker, library_tracker
from sais.tracking.tracker import Tracker

pytest.importorskip("scipy", reason="the extra track")

Frames = list[tuple[Detections, Detections]]


@pytest.fixture(scope="module")
def frames() -> Frames:
    """Return the ground truth and noisy detections of 300 frames with ten crossing shapes."""
    return list(noisy_detections(moving_shapes(1, 300, 10, (144, 216), 1.7, (32, 50)), seed=1))


def quality(frames: Frames, tracker: Tracker | LibraryTracker) -> TrackQuality:
    """Return the quality of a tracker's tracks."""
    pytest.importorskip("trackeval")
    rows = []
    for truth, detections in frames:
        tracked = tracker.update(detections)
        assert truth.track_ids is not None
        assert tracked.track_ids is not None
        rows.append((truth.track_ids, tracked.track_ids, truth.iou(tracked)))
    return track_quality(rows)


def test_ten_crossing_shapes_keep_their_ids(frames: Frames) -> None:
    masks = quality(frames, Tracker(score=MIN_SCORE))
    boxes = quality(frames, Tracker(masks=False, score=MIN_SCORE))
    print(f"masks: {masks}; boxes: {boxes}")
    assert masks.switches <= 2
    assert masks.idf1 > 0.94
    assert masks.hota > 0.75
    assert masks.switches <= boxes.switches


@pytest.mark.parametrize("name", ["bytetrack", "ocsort", "botsort"])
def test_trackers_of_the_library_number_the_objects(name: str, frames: Frames) -> None:
    pytest.importorskip("trackers")
    assert quality(frames[:100], library_tracker(name, MIN_SCORE, 30)).idf1 > 0.7


def one(x: float, y: float, score: float = 0.9, label: int = 0, side: int = 20) -> tuple[float, ...]:
    """Return an object: a square with its top left corner at x y."""
    return x, y, score, label, side


def squares(*objects: tuple[float, ...], masks: bool = True) -> Detections:
    """Return detections of squares (`one`) in an image of 200 x 200 pixels."""
    boxes = [[x, y, x + side, y + side] for x, y, _, _, side in objects]
    bits = [CroppedMask(int(x), int(y), np.ones((int(side), int(side)), bool)) for x, y, _, _, side in objects]
    scores, labels = [row[2] for row in objects], [int(row[3]) for row in objects]
    return Detections(
        (200, 200), np.array(boxes), np.array(scores), np.array(labels), ("a", "b"), bits if masks else []
    )


def ids(tracked: Detections) -> Sequence[int]:
    """Return the track ids of detections as a list."""
    assert tracked.track_ids is not None
    return tracked.track_ids.tolist()


def test_objects_of_the_first_frame_are_tracks_at_once_and_later_ones_when_seen_twice() -> None:
    tracker = Tracker()
    assert ids(tracker.update(squares(one(10, 10)))) == [1]
    assert ids(tracker.update(squares(one(10, 10), one(100, 100)))) == [1]
    assert ids(tracker.update(squares(one(10, 10), one(100, 100)))) == [1, 2]
    assert ids(tracker.update(squares(one(10, 10), one(50, 150)))) == [1]
    assert ids(tracker.update(squares(one(10, 10)))) == [1]  # the object at 50 150 was seen once
    tracker.reset()
    assert ids(tracker.update(squares(one(100, 100)))) == [1]


def test_a_low_score_continues_a_track_and_starts_none() -> None:
    tracker = Tracker(score=[0.5, 0.8])
    assert ids(tracker.update(squares(one(10, 10, 0.9), one(100, 100, 0.7, 1)))) == [1]
    assert ids(tracker.update(squares(one(12, 10, 0.2), one(100, 100, 0.7, 1)))) == [1]
    assert ids(tracker.update(squares(one(14, 10, 0.9), one(100, 100, 0.7, 1)))) == [1]


@pytest.mark.parametrize(("hidden", "expected"), [(10, [1]), (11, [])])
def test_a_hidden_object_is_remembered_for_max_lost_frames(hidden: int, expected: list[int]) -> None:
    tracker = Tracker(max_lost=10)
    for x in range(10, 60, 2):
        tracker.update(squares(one(x, 10)))
    for _ in range(hidden):
        assert ids(tracker.update(squares())) == []
    assert ids(tracker.update(squares(one(60 + 2 * hidden, 10)))) == expected


def test_steps_move_tracks_over_frames_that_were_left_out() -> None:
    for steps, expected in ((10.0, [1]), (1.0, [])):
        tracker = Tracker()
        for x in range(10, 60, 3):
            tracker.update(squares(one(x, 10)))
        assert ids(tracker.update(squares(one(58 + 30, 10)), steps)) == expected


def test_another_class_for_a_frame_does_not_end_a_track() -> None:
    tracker = Tracker()
    labels = [0, 0, 1, 0]
    assert [ids(tracker.update(squares(one(10, 10, 0.9, label)))) for label in labels] == [[1]] * 4
    assert ids(tracker.update(squares(one(10, 10, 0.5, 1), one(12, 10, 0.4, 0)))) == [1]
    assert tracker.update(squares(one(10, 10, 0.5, 1), one(12, 10, 0.4, 0))).labels.tolist()[-1] == 0


@pytest.mark.parametrize(("masks", "expected"), [(True, [1, 2]), (False, [2, 1])])
def test_masks_distinguish_objects_whose_boxes_exchange_their_sizes(masks: bool, expected: list[int]) -> None:
    """A frame and a star with thin rays in it: the box of each becomes that of the other."""
    y, x = np.abs(np.mgrid[-20:20, -20:20] + 0.5)

    def scene(frame: int, star: int) -> Detections:
        frame_bits = (np.maximum(x, y) < frame) & (np.maximum(x, y) > 10)
        star_bits = (np.maximum(x, y) < 8) | ((np.minimum(x, y) < 1) & (np.maximum(x, y) < star))
        boxes = np.array([[70 - side, 70 - side, 70 + side, 70 + side] for side in (frame, star)])
        cropped = [CroppedMask(50, 50, bits) for bits in (frame_bits, star_bits)]
        return Detections((200, 200), boxes, np.array([0.9, 0.8]), np.zeros(2, int), ("a",), cropped)

    tracker = Tracker(masks=masks)
    assert ids(tracker.update(scene(20, 16))) == [1, 2]
    assert ids(tracker.update(scene(17, 19))) == expected


def test_boxes_are_tracked_without_masks() -> None:
    tracker = Tracker()
    for x in range(10, 40, 2):
        assert ids(tracker.update(squares(one(x, 10), masks=False))) == [1]


def test_tracker_refuses_impossible_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for options in ({"min_iou": 0.0}, {"min_iou": 1.5}, {"max_lost": -1}, {"min_frames": 0}):
        with pytest.raises(ConfigError, match="tracker"):
            Tracker(**options)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(MissingDependencyError, match=r"sais-seg\[track\]"):
        Tracker()


def test_box_filters_equal_a_dense_kalman_filter() -> None:
    random = np.random.default_rng(0)
    filters, box = BoxFilters(), np.array([40.0, 50, 70, 90])
    filters.add(np.stack([box, box + 100]))
    state, sides = np.array([55.0, 70, 30, 40, 0, 0, 0, 0]), np.array([30.0, 40, 30, 40])
    covariance = np.diag(np.concatenate([(sides / 10) ** 2, (sides / 16) ** 2]))
    observe = np.eye(4, 8)
    for step in (1.0, 1.0, 3.0, 0.5):
        filters.predict(step, np.ones(2, bool))
        move = np.eye(8) + step * np.eye(8, k=4)
        state = move @ state
        sides = state[[2, 3, 2, 3]]
        noise = step * np.diag(np.concatenate([(sides / 20) ** 2, (sides / 160) ** 2]))
        covariance = move @ covariance @ move.T + noise
        box = box + random.normal(2, 1, 4)
        seen = np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2, box[2] - box[0], box[3] - box[1]])
        gain = covariance @ observe.T @ np.linalg.inv(observe @ covariance @ observe.T + np.diag((sides / 20) ** 2))
        state = state + gain @ (seen - observe @ state)
        covariance = covariance - gain @ observe @ covariance
        filters.update(np.array([0]), box[None])
        np.testing.assert_allclose(np.concatenate([filters.position[0], filters.velocity[0]]), state)


def test_similarity_ignores_the_pixels_of_objects_in_front() -> None:
    whole = CroppedMask(0, 0, np.ones((10, 10), bool))
    front, part = CroppedMask(0, 0, np.ones((10, 6), bool)), CroppedMask(6, 0, np.ones((10, 4), bool))
    np.testing.assert_allclose(mask_similarity([whole], [part]), [[0.4]])
    np.testing.assert_allclose(mask_similarity([whole, front], [front, part]), [[1, 1], [1, 0]])
    assert mask_similarity([], [part]).shape == (0, 1)
    np.testing.assert_allclose(box_similarity(np.array([[0, 0, 10, 10]]), np.array([[5, 0, 15, 10]])), [[1 / 3]])


def test_assign_drops_impossible_pairs_before_it_chooses() -> None:
    """The highest sum, 0.19 + 0.7, contains an impossible pair, without which 0.8 is better."""
    assert assign(np.array([[0.8, 0.19], [0.7, 0.0]]), 0.2) == [(0, 0)]
    assert assign(np.array([[0.5, 0.4], [0.45, 0.1]]), 0.2) == [(0, 1), (1, 0)]
    assert assign(np.zeros((0, 3)), 0.2) == []
