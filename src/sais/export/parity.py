"""Does the exported file find what torch finds? Measured on images, by the rules that a user would use it with."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sais.data.synthetic import make_scene
from sais.inference.predictor import Predictor
from sais.inference.trained_model import load_model
from sais.results.detections import Detections
from sais.results.mask_ops import intersection_area

UNSURE = 1e-3
"""Scores nearer than this to the threshold may fall on either side of it."""

LEAST_SCORE = 0.1
"""Of what is compared: well above the 0.05 of a class probability, at which a rounding makes or unmakes a candidate."""


@dataclass
class ParityReport:
    """The greatest differences over all images."""

    images: int = 0
    objects: int = 0
    """Of torch."""
    unmatched: int = 0
    """Found by one and not by the other, those within `UNSURE` of the threshold left out."""
    score: float = 0.0
    box: float = 0.0
    """Image pixels."""
    mask_iou: float = 1.0
    """The least."""

    def add(self, ours: Detections, theirs: Detections, threshold: float) -> None:
        """Compare what torch (`ours`) and the exported file found in one image."""
        self.images += 1
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
            if ours.cropped_masks:
                a, b = ours.cropped_masks[i], theirs.cropped_masks[partner]
                shared = intersection_area(a, b)
                union = a.area + b.area - shared
                self.mask_iou = min(self.mask_iou, shared / union if union else 1.0)
        left = [k for k in range(len(theirs)) if k not in taken]
        self.unmatched += int((theirs.scores[left] > threshold + UNSURE).sum())

    def __str__(self) -> str:
        return (
            f"{self.objects} objects on {self.images} images: {self.unmatched} found by one and not by the other; "
            f"greatest difference of a score {self.score:.1e}, of a box {self.box:.2g} pixels; "
            f"least IoU of two masks {self.mask_iou:.4f}"
        )


def check_parity(
    source: Path, path: Path, images: Iterable[np.ndarray] | None, score: float = LEAST_SCORE
) -> ParityReport:
    """Run a checkpoint and what was exported from it on the same images.

    Args:
        source: the checkpoint.
        path: what `export_model` made of it, `.onnx` or `.xml`.
        images: (H, W, 3) uint8, taken one after the other. None: synthetic scenes, on which a model of something
            else may find nothing.
        score: least score of what is compared.
    """
    theirs = Predictor(path, device="cpu", score=score)
    ours = Predictor(replace(load_model(source), experiment=theirs.experiment), device="cpu", score=score)
    shown = images if images is not None else [make_scene(0, "valid", number).image for number in range(4)]
    difference = ParityReport()
    for image in shown:  # one by one: a folder of images need not fit into memory
        difference.add(ours(image), theirs(image), score)
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
