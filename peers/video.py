"""`python -m peers tracking`: tracks of a model on a synthetic video, and the speed of a video against the network."""

from __future__ import annotations

import contextlib
import io
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from peers.tracking import TrackQuality, track_quality
from sais.data.synthetic import SyntheticScene
from sais.data.synthetic_video import moving_shapes
from sais.errors import MissingDependencyError
from sais.inference.predictor import Predictor
from sais.io.temporary import temporary_folder
from sais.ops.numpy_boxes import window_slices
from sais.results.detections import Detections
from sais.results.mask_ops import mask_window
from sais.tracking.follow import TrackerName, track

TRACKERS: tuple[TrackerName, ...] = ("masks", "boxes", "bytetrack", "ocsort", "botsort")
MIN_PIXELS = 30
"""Minimum number of visible pixels of an object that counts."""
SPEED_SIZE = (720, 1280)
DISTINCT_FRAMES = 30
"""Number of frames of the video for the speed, which is shown forwards and backwards."""


@dataclass(frozen=True)
class VideoSpeed:
    """Frames per second of the same frames."""

    network: float
    """`Predictor.stream` on frames in memory."""
    plain: float
    """`sais predict VIDEO`: decoding, network, drawing, encoding."""
    tracked: float
    """`sais predict VIDEO --track`."""


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


def speed(model: Path, frames: int, options: Sequence[str] = ()) -> VideoSpeed:
    """Measure the frames per second of a 1280x720 video and of the network alone.

    Args:
        model: The model.
        frames: Number of frames.
        options: Words of `sais predict`, such as --device and --batch-size.
    """
    from sais.commands.arguments import parse
    from sais.commands.predict import PredictArguments
    from sais.io.video import VideoWriter

    images = [scene.image for scene in moving_shapes(0, DISTINCT_FRAMES, 10, SPEED_SIZE, 9.0, (150, 240))]
    order = [*range(DISTINCT_FRAMES), *range(DISTINCT_FRAMES - 2, 0, -1)]
    film = [images[order[i % len(order)]] for i in range(frames)]
    arguments = parse(PredictArguments, [str(model), "film.mp4", *options], "sais predict MODEL SOURCE")
    predictor = Predictor(model, arguments.inference)
    list(predictor.stream(film[: 2 * arguments.inference.batch_size]))
    start = time.perf_counter()
    list(predictor.stream(film))
    network = frames / (time.perf_counter() - start)
    with temporary_folder() as folder:
        with VideoWriter(folder / "film.mp4", 30) as writer:
            for image in film:
                writer.write(image)
        rates = [_predict(model, folder, [*options, *words]) for words in ([], ["--track"])]
    return VideoSpeed(network, *rates)


def _predict(model: Path, folder: Path, options: Sequence[str]) -> float:
    """Run `sais predict` on a film and return the frames per second that it prints."""
    from sais.cli import main

    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        status = main(["predict", str(model), str(folder / "film.mp4"), "--out", str(folder / "out"), *options])
    match = re.search(r"(\d+) frames in [\d.]+ s, ([\d.]+) frames/s", text.getvalue())
    if status or match is None:
        raise RuntimeError(f"sais predict failed with status {status}: {text.getvalue()[-500:]}")
    return float(match[2])
