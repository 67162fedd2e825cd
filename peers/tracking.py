"""Quality of tracks against exact identities: HOTA, IDF1 and identity switches by TrackEval."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from sais.errors import MissingDependencyError


@dataclass(frozen=True)
class TrackQuality:
    """The metrics of one video."""

    hota: float
    """HOTA (Luiten et al., 2020), the mean over IoU thresholds of 0.05 to 0.95."""
    idf1: float
    """F1 of identities (Ristani et al., 2016) at an IoU of 0.5."""
    switches: int
    """Number of frames in which an object gets another track than in the last frame in which it was found."""

    def __str__(self) -> str:
        return f"HOTA {self.hota:.3f}, IDF1 {self.idf1:.3f}, {self.switches} identity switches"


def track_quality(frames: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> TrackQuality:
    """Return the quality of the tracks of a video.

    Args:
        frames: For each frame the ids of the N objects (N,), the track ids of the D detections (D,), and the IoU of
            all pairs (N, D).

    Raises:
        MissingDependencyError: TrackEval is not installed.
    """
    try:
        from trackeval.metrics import CLEAR, HOTA, Identity
    except ImportError:
        raise MissingDependencyError(
            "peers tracking: TrackEval is not installed. Run: pip install trackeval", "trackeval"
        ) from None
    objects, tracks, similarities = zip(*frames, strict=True)
    object_ids, object_indices = np.unique(np.concatenate(objects), return_inverse=True)
    track_ids, track_indices = np.unique(np.concatenate(tracks), return_inverse=True)
    data = {
        "gt_ids": _split(object_indices, objects),
        "tracker_ids": _split(track_indices, tracks),
        "similarity_scores": list(similarities),
        "num_gt_ids": len(object_ids),
        "num_tracker_ids": len(track_ids),
        "num_gt_dets": len(object_indices),
        "num_tracker_dets": len(track_indices),
        "num_timesteps": len(objects),
    }
    options = {"PRINT_CONFIG": False}
    clear, identity = CLEAR(options).eval_sequence(data), Identity(options).eval_sequence(data)
    return TrackQuality(float(HOTA().eval_sequence(data)["HOTA"].mean()), float(identity["IDF1"]), int(clear["IDSW"]))


def _split(values: np.ndarray, frames: tuple[np.ndarray, ...]) -> list[np.ndarray]:
    """Return the values of all frames as an array for each frame."""
    return np.split(values, np.cumsum([len(frame) for frame in frames])[:-1])
