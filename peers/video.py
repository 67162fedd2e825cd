"""`python -m peers tracking`: tracks of a model on a synthetic video."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np

from peers.tracking import TrackQuality, track_quality
from sais.data.synthetic import SyntheticScene
from sais.data.synthetic_video import moving_shapes
from sais.errors import MissingDependencyError
from sais.inference.predictor import Predictor
from sais.ops.numpy_boxes import window_slices
from sais.results.detections import Detections
from sais.results.mask_ops import mask_window
from sais.tracking.follow import TrackerName, track

TRACKERS: tuple[TrackerName, ...] = ("masks", "boxes", "bytetrack", "ocsort", "botsort")
MIN_PIXELS = 30
"""Minimum number of visible pixels of an object that counts."""


def quality(model: Path, frames: int, seed: int, device: str, score: float | None) -> dict[str, TrackQuality]:
    """Return the quality of a model's tracks of ten crossing shapes, by each tracker that is installed.

    Args:
        model: Model of the classes of `sais make-shapes`.
        frames: Number of frames.
        seed: Seed of the video.
        device: Device of the network.
        score: Minimum score; None for that of the model.
    """
    predictor = Predictor(model, device=device, score="auto" if score is None else score)
    scenes = list(moving_shapes(seed, frames))
    found: dict[str, TrackQuality] = {}
    for name in TRACKERS:
        with contextlib.suppress(MissingDependencyError):
            tracked = track(predictor, [scene.image for scene in scenes], name)
            pairs = [_pairs(scene, frame.detections) for scene, frame in zip(scenes, tracked, strict=True)]
            found[name] = track_quality(pairs)
    return found


def _pairs(scene: SyntheticScene, detections: Detections) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the ids of N visible objects and D detections of a frame, and their mask IoU (N, D)."""
    ids = np.flatnonzero(scene.visible.sum((1, 2)) >= MIN_PIXELS)
    iou = np.zeros((len(ids), len(detections)))
    for row, k in enumerate(ids.tolist()):
        bits = scene.visible[k]
        for column, mask in enumerate(detections.cropped_masks):
            shared = int(np.count_nonzero(bits[window_slices(mask_window(mask))] & mask.bits))
            iou[row, column] = shared / max(1, int(bits.sum()) + mask.area - shared)
    assert detections.track_ids is not None
    return ids, detections.track_ids, iou
