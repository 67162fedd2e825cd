"""Does the exported file find what torch finds? Measured on pictures, by the rules that a user would use it with."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sais.checkpoint import fill, load
from sais.data.synthetic import scene
from sais.detections import Detections
from sais.model.sais import build_model
from sais.patches import shared_pixels
from sais.predict import Predictor
from sais.runtimes import RuntimePredictor

UNSURE = 1e-3
"""Scores nearer than this to the threshold may fall on either side of it."""

LEAST_SCORE = 0.1
"""Of what is compared: well above the 0.05 of a class probability, at which a rounding makes or unmakes a candidate."""


@dataclass
class Difference:
    """The greatest differences over all pictures."""

    pictures: int = 0
    objects: int = 0
    """Of torch."""
    unmatched: int = 0
    """Found by one and not by the other, those within `UNSURE` of the threshold left out."""
    score: float = 0.0
    box: float = 0.0
    """Picture pixels."""
    mask_iou: float = 1.0
    """The least."""

    def add(self, ours: Detections, theirs: Detections, threshold: float) -> None:
        """Compare what torch (`ours`) and the exported file found in one picture."""
        self.pictures += 1
        self.objects += len(ours)
        taken: set[int] = set()
        for i in range(len(ours)):
            partner = _partner(ours, i, theirs, taken)
            if partner is None:
                self.unmatched += int(ours.scores[i] > threshold + UNSURE)
                continue
            taken.add(partner)
            self.score = max(self.score, float(abs(ours.scores[i] - theirs.scores[partner])))
            self.box = max(self.box, float(np.abs(ours.boxes[i] - theirs.boxes[partner]).max()))
            if ours.patches:
                a, b = ours.patches[i], theirs.patches[partner]
                shared = shared_pixels(a, b)
                union = a.area + b.area - shared
                self.mask_iou = min(self.mask_iou, shared / union if union else 1.0)
        left = [k for k in range(len(theirs)) if k not in taken]
        self.unmatched += int((theirs.scores[left] > threshold + UNSURE).sum())

    def __str__(self) -> str:
        return (
            f"{self.objects} objects on {self.pictures} pictures: {self.unmatched} found by one and not by the other; "
            f"greatest difference of a score {self.score:.1e}, of a box {self.box:.2g} pixels; "
            f"least IoU of two masks {self.mask_iou:.4f}"
        )


def check_export(
    source: Path, path: Path, pictures: Iterable[np.ndarray] | None, score: float = LEAST_SCORE
) -> Difference:
    """Run a checkpoint and what was exported from it on the same pictures.

    Args:
        source: the checkpoint.
        path: what `export_model` made of it, `.onnx` or `.xml`.
        pictures: (H, W, 3) uint8, taken one after the other. None: synthetic scenes, on which a model of something
            else may find nothing.
        score: least score of what is compared.
    """
    theirs = RuntimePredictor(path, score=score)
    checkpoint = load(source)
    model = build_model(checkpoint.experiment.model, len(checkpoint.class_names))
    fill(model, checkpoint.part("model"), source)
    ours = Predictor.of(
        model, theirs.experiment, checkpoint.class_names, checkpoint.category_ids, device="cpu", score=score
    )
    shown = pictures if pictures is not None else [scene(0, "valid", number).picture for number in range(4)]
    difference = Difference()
    for picture in shown:  # one by one: a folder of pictures need not fit into memory
        difference.add(ours(picture), theirs(picture), score)
    return difference


def _partner(ours: Detections, i: int, theirs: Detections, taken: set[int]) -> int | None:
    """The detection of the same class whose box lies nearest, if it lies within a tenth of the box's size."""
    away = np.abs(theirs.boxes - ours.boxes[i]).max(1) + np.abs(theirs.scores - ours.scores[i])
    away[theirs.labels != ours.labels[i]] = np.inf
    away[list(taken)] = np.inf
    if not len(away) or not np.isfinite(away.min()):
        return None
    size = float(np.sqrt(np.prod(ours.boxes[i, 2:] - ours.boxes[i, :2])))
    nearest = int(away.argmin())
    return nearest if away[nearest] <= 1 + 0.1 * size else None
