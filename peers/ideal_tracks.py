"""Tracks of ideal detections: how often the association alone loses an object, without a network.

The detections are those of the ground truth, exact or with noise. Their score of `MIN_SCORE` starts a track.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from peers.noisy_detections import MIN_SCORE, noisy_detections
from peers.tracking import TrackQuality, track_quality
from sais.data.synthetic_video import moving_shapes
from sais.results.detections import Detections
from sais.tracking.tracker import Tracker

MAX_SWITCHES = 2
"""Goal: maximum number of identity switches of a video."""
Quality = dict[tuple[str, str], list[TrackQuality]]


def ideal_quality(seeds: Sequence[int], frames: int) -> Quality:
    """Return the quality of tracks of ten crossing shapes: (detections, tracker) -> quality of each video.

    Args:
        seeds: Seeds of the videos and of the noise.
        frames: Number of frames of each video.
    """
    found: Quality = {}
    for seed in seeds:
        noisy = list(noisy_detections(moving_shapes(seed, frames), seed))
        for name, pairs in (("exact", [(truth, truth) for truth, _ in noisy]), ("noisy", noisy)):
            for masks in (True, False):
                tracker = Tracker(masks=masks, score=MIN_SCORE)
                key = name, "masks" if masks else "boxes"
                found.setdefault(key, []).append(track_quality(_tracked(pairs, tracker)))
    return found


def _tracked(
    pairs: Sequence[tuple[Detections, Detections]], tracker: Tracker
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield for each frame the ids of the objects and of the tracks, and their mask IoU."""
    for truth, detections in pairs:
        tracked = tracker.update(detections)
        assert truth.track_ids is not None
        assert tracked.track_ids is not None
        yield truth.track_ids, tracked.track_ids, truth.iou(tracked)


def quality_rows(found: Quality) -> list[list[str]]:
    """Return a row of a table for each kind of detections and tracker; see `HEADER`."""
    rows = []
    for (detections, tracker), videos in found.items():
        switches = [video.switches for video in videos]
        good = sum(count <= MAX_SWITCHES for count in switches)
        idf1, hota = [video.idf1 for video in videos], [video.hota for video in videos]
        rows.append(
            [
                *(detections, tracker, str(sum(switches)), str(max(switches)), f"{good} of {len(videos)}"),
                *(f"{np.mean(idf1):.3f}", f"{min(idf1):.3f}", f"{np.mean(hota):.3f}", f"{min(hota):.3f}"),
            ]
        )
    return rows


HEADER = (
    *("detections", "tracker", "switches", "maximum", f"videos with at most {MAX_SWITCHES}"),
    *("IDF1", "minimum", "HOTA", "minimum"),
)
"""Names of the columns of `quality_rows`: sums and means of all videos."""
