"""Detections of the objects of a synthetic video as a fair detector would find them: shifted, dropped, with a score."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from sais.data.synthetic import SyntheticScene
from sais.data.synthetic_outlines import CLASS_NAMES
from sais.results.cropped_mask import CroppedMask
from sais.results.detections import Detections

MIN_PIXELS = 30
"""Minimum number of visible pixels of an object that counts."""
MIN_SCORE = 0.45
"""Score below which detections only continue tracks."""


def crop(bits: np.ndarray) -> CroppedMask:
    """Return the crop of a mask (H, W) with at least one pixel."""
    rows, columns = np.flatnonzero(bits.any(1)), np.flatnonzero(bits.any(0))
    return CroppedMask(columns[0], rows[0], bits[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])


def noisy_detections(
    scenes: Iterator[SyntheticScene], seed: int, drop: float = 0.05
) -> Iterator[tuple[Detections, Detections]]:
    """Yield the ground truth of each frame, with the identities as track ids, and detections of it.

    Args:
        scenes: Frames of `moving_shapes`.
        seed: Seed of the noise.
        drop: Fraction of the objects that are not detected, in addition to those hidden by more than 85 %.
    """
    random = np.random.default_rng(seed)
    for scene in scenes:
        size = scene.image.shape[:2]
        rows: list[tuple[CroppedMask, float, int, int]] = []
        found: list[tuple[CroppedMask, float, int, int]] = []
        for k, bits in enumerate(scene.visible):
            pixels, label = int(bits.sum()), int(scene.labels[k])
            if pixels < MIN_PIXELS:
                continue
            mask, part = crop(bits), pixels / int(scene.unoccluded[k].sum())
            rows.append((mask, 1.0, label, k))
            if part < 0.15 or random.random() < drop:
                continue
            x, y = np.rint(random.normal(0, 1.0, 2)).astype(int)
            x = int(np.clip(x, -mask.x, size[1] - mask.x - mask.shape[1]))
            y = int(np.clip(y, -mask.y, size[0] - mask.y - mask.shape[0]))
            score = float(np.clip(0.35 + 0.5 * part + random.normal(0, 0.08), 0.05, 1))
            found.append((mask.shift(x, y), score, label if random.random() > 0.03 else (label + 1) % 5, k))
        if random.random() < 0.2:  # a false detection
            x, y = int(random.integers(0, size[1] - 20)), int(random.integers(0, size[0] - 20))
            found.append((CroppedMask(x, y, np.ones((20, 20), bool)), 0.5, 0, -1))
        truth = _detections(size, rows)
        truth.track_ids = np.array([k for *_, k in rows])
        detections = _detections(size, found)
        yield truth, detections[np.argsort(-detections.scores, kind="stable")]


def _detections(size: tuple[int, int], rows: list[tuple[CroppedMask, float, int, int]]) -> Detections:
    masks = [mask for mask, *_ in rows]
    boxes = [[m.x, m.y, m.x + m.shape[1], m.y + m.shape[0]] for m in masks]
    scores, labels = [score for _, score, _, _ in rows], [label for _, _, label, _ in rows]
    return Detections(size, np.array(boxes), np.array(scores), np.array(labels), CLASS_NAMES, masks)
