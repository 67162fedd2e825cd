"""`sais.track`: videos, folders, arrays and cameras; low scores; times of frames that were lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import sais
from sais.errors import InputError
from sais.io.frame_source import open_frame_source
from sais.io.image_writer import write_image
from sais.io.images import read_image
from sais.tracking.follow import FrameSteps, make_tracker, tracking_predictor
from sais.tracking.tracker import Tracker

pytest.importorskip("torch")
pytest.importorskip("scipy", reason="the extra track")


@pytest.fixture(scope="module")
def predictor(trained: Path) -> sais.Predictor:
    """Return a predictor that detects some objects."""
    return sais.Predictor(trained, device="cpu", score=0.05, batch_size=4)


@pytest.fixture(scope="module")
def film(shapes: Path) -> list[np.ndarray]:
    """Return six frames (96, 128, 3) that move to the right."""
    image = read_image(shapes / "images/valid/valid_00000.jpg")
    return [np.roll(image, 2 * i, axis=1) for i in range(6)]


def test_track_gives_the_objects_of_all_kinds_of_sources_the_same_ids(
    predictor: sais.Predictor, film: list[np.ndarray], tmp_path: Path
) -> None:
    pytest.importorskip("av")
    from sais.io.video import VideoWriter

    for i, image in enumerate(film):
        write_image(tmp_path / f"frames/{i}.png", image)
    with VideoWriter(tmp_path / "film.mp4", 25) as writer:
        for image in film:
            writer.write(image)
    results = []
    for source in (film, str(tmp_path / "frames"), tmp_path / "film.mp4"):
        frames = list(sais.track(predictor, source, rate=25))
        assert [frame.index for frame in frames] == list(range(6))
        assert [round(frame.seconds, 2) for frame in frames] == [0, 0.04, 0.08, 0.12, 0.16, 0.2]
        for frame in frames:
            assert frame.detections.image is frame.image
            assert frame.detections.track_ids is not None
        results.append([(frame.detections.track_ids, frame.detections.boxes) for frame in frames])
    arrays, folder, _ = results
    for (ids, boxes), (other_ids, other_boxes) in zip(arrays, folder, strict=True):
        np.testing.assert_array_equal(ids, other_ids)
        np.testing.assert_array_equal(boxes, other_boxes)
    first, last = arrays[0][0], arrays[-1][0]
    assert first is not None
    assert np.isin(first, last).any()


def test_track_with_a_stride_returns_every_nth_frame(predictor: sais.Predictor, film: list[np.ndarray]) -> None:
    frames = list(sais.track(predictor, iter(film), "boxes", frame_stride=2))
    assert [frame.index for frame in frames] == [0, 2, 4]


def test_track_takes_a_tracker_of_your_own(predictor: sais.Predictor, film: list[np.ndarray]) -> None:
    class Numbers:
        """Numbers the detections of each frame."""

        def update(self, detections: sais.Detections, steps: float = 1.0) -> sais.Detections:
            """Return all detections."""
            detections.track_ids = np.arange(len(detections)) + 1
            return detections

    for frame in sais.track(predictor, film[:2], Numbers()):
        assert frame.detections.track_ids is not None
        assert frame.detections.track_ids.tolist() == list(range(1, 1 + len(frame.detections)))


def test_detections_with_low_scores_only_continue_tracks(predictor: sais.Predictor, film: list[np.ndarray]) -> None:
    strict = sais.Predictor(predictor.backend, device="cpu", score=0.2)
    low = tracking_predictor(strict)
    assert low.filter.score == pytest.approx(0.1)
    assert len(low(film[0])) > len(strict(film[0]))
    tracker = make_tracker("masks", strict, 10)
    assert len(tracker.update(low(film[0]))) == len(strict(film[0]))
    every = sais.Predictor(predictor.backend, device="cpu", score=None)
    assert tracking_predictor(every) is every


def test_ending_a_loop_early_closes_the_source(predictor: sais.Predictor, film: list[np.ndarray]) -> None:
    closed = []

    def frames() -> Iterator[np.ndarray]:
        try:
            while True:
                yield film[0]
        finally:
            closed.append(True)

    for frame in sais.track(predictor, frames(), Tracker()):
        assert frame.index == 0
        break
    assert closed


def test_frame_steps_count_lost_frames() -> None:
    steps = FrameSteps(10)
    assert [steps(seconds) for seconds in (0.0, 0.1, 0.2003, 0.5, 0.51, 0.66)] == [
        1, 1, 1, 3, 0.25, pytest.approx(1.5)
    ]  # fmt: skip


def test_sources_that_are_no_videos_are_refused(shapes: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="an image"):
        open_frame_source(shapes / "images/valid/valid_00000.jpg")
    with pytest.raises(InputError, match="no such file"):
        open_frame_source(tmp_path / "missing.mp4")
    with pytest.raises(InputError, match="stride 0"):
        open_frame_source([], 0)
