"""Trackers of the package `trackers` (Roboflow, Apache-2.0), which compare boxes: ByteTrack, OC-SORT, BoT-SORT, ...

The package brings OpenCV, supervision and Matplotlib, and hands the boxes alone to its association. That of masks is
`sais.tracking.tracker`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sais.errors import MissingDependencyError
from sais.results.detections import Detections

LIBRARY_TRACKERS = {"bytetrack": "ByteTrackTracker", "ocsort": "OCSORTTracker", "botsort": "BoTSORTTracker"}
"""Name -> class of the package `trackers`."""


class LibraryTracker:
    """A tracker of the package `trackers` with the methods of `sais.tracking.tracker.Tracker`.

        tracker = LibraryTracker(trackers.OCSORTTracker(high_conf_det_threshold=0.4))

    Args:
        tracker: Object with `update(supervision.Detections)`, which sets `tracker_id`, and `reset()`.
    """

    def __init__(self, tracker: Any) -> None:
        self._tracker = tracker

    def reset(self) -> None:
        """Forget all tracks, for another video; ids start at 1 again."""
        self._tracker.reset()

    def update(self, detections: Detections, steps: float = 1.0) -> Detections:
        """Follow the tracks into the next frame; see `Tracker.update`. Each call counts as one frame.

        Args:
            detections: D detections of the frame.
            steps: Number of frames since the last call; has no effect here.
        """
        import supervision

        boxes = supervision.Detections(
            xyxy=detections.boxes,
            confidence=detections.scores,
            class_id=detections.labels,
            data={"index": np.arange(len(detections))},
        )
        found = self._tracker.update(boxes)
        if found.tracker_id is None or not len(found):
            indices, numbers = np.zeros(0, np.int64), np.zeros(0, np.int64)
        else:
            has_track = found.tracker_id >= 0
            indices, numbers = found.data["index"][has_track], found.tracker_id[has_track]
        order = np.argsort(indices)  # the package changes the order
        tracked = detections[indices[order]]
        tracked.track_ids, tracked.omitted = numbers[order] + 1, detections.omitted
        return tracked


def library_tracker(name: str, score: float, max_lost: float) -> LibraryTracker:
    """Create a tracker of the package.

    Args:
        name: Key of `LIBRARY_TRACKERS`.
        score: Minimum score of a detection that starts a track.
        max_lost: Number of frames that a track without detections is remembered.

    Raises:
        MissingDependencyError: The package is not installed.
    """
    try:
        import trackers
    except ImportError:
        raise MissingDependencyError(
            f"tracker {name}: the package trackers is not installed. Run: pip install trackers", "trackers"
        ) from None
    # A rate of 30 makes its buffer, which it states for that rate, a number of frames.
    options: dict[str, Any] = {"lost_track_buffer": round(max_lost), "high_conf_det_threshold": score}
    if name != "ocsort":
        options["track_activation_threshold"] = score
    if name == "botsort":
        options["enable_cmc"] = False  # needs the image
    return LibraryTracker(getattr(trackers, LIBRARY_TRACKERS[name])(frame_rate=30.0, **options))
