"""Parity of an exported file with PyTorch: the same images through both, the differences of their detections."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sais.data.synthetic import make_scene
from sais.inference.options import InferenceOptions
from sais.inference.predictor import Predictor
from sais.inference.trained_model import load_model
from sais.results.detections import Detections
from sais.results.mask_ops import intersection_area

SCORE_TOLERANCE = 1e-3
"""Detections whose score is this close to the threshold may be on either side of it."""

MIN_COMPARED_SCORE = 0.1
"""Minimum score of compared detections: well above the class threshold of 0.05, where rounding decides."""


@dataclass
class ParityReport:
    """The largest differences over all images."""

    images: int = 0
    objects: int = 0
    """Number of detections of PyTorch."""
    unmatched: int = 0
    """Number of detections of only one of both, except those within `SCORE_TOLERANCE` of the threshold."""
    max_score_difference: float = 0.0
    max_box_difference: float = 0.0
    """Image pixels."""
    min_mask_iou: float = 1.0

    def add(self, expected: Detections, actual: Detections, threshold: float) -> None:
        """Compare the detections of one image.

        Args:
            expected: detections of PyTorch.
            actual: detections of the exported file.
            threshold: minimum score of both.
        """
        self.images += 1
        self.objects += len(expected)
        matched: set[int] = set()
        for i in range(len(expected)):
            partner = _find_partner(expected, i, actual, matched)
            if partner is None:
                self.unmatched += int(expected.scores[i] > threshold + SCORE_TOLERANCE)
                continue
            matched.add(partner)
            score_difference = float(abs(expected.scores[i] - actual.scores[partner]))
            box_difference = float(np.abs(expected.boxes[i] - actual.boxes[partner]).max())
            self.max_score_difference = max(self.max_score_difference, score_difference)
            self.max_box_difference = max(self.max_box_difference, box_difference)
            if expected.cropped_masks:
                first, second = expected.cropped_masks[i], actual.cropped_masks[partner]
                shared = intersection_area(first, second)
                union = first.area + second.area - shared
                self.min_mask_iou = min(self.min_mask_iou, shared / union if union else 1.0)
        unmatched = [k for k in range(len(actual)) if k not in matched]
        self.unmatched += int((actual.scores[unmatched] > threshold + SCORE_TOLERANCE).sum())

    def __str__(self) -> str:
        return (
            f"{self.objects} objects on {self.images} images, {self.unmatched} unmatched; "
            f"maximum difference of scores {self.max_score_difference:.1e}, of boxes "
            f"{self.max_box_difference:.2g} pixels; minimum mask IoU {self.min_mask_iou:.4f}"
        )


def check_parity(
    source: Path, path: Path, images: Iterable[np.ndarray] | None, options: InferenceOptions | None = None
) -> ParityReport:
    """Run a trained model and the file exported from it on the same images.

    Args:
        source: path of the checkpoint or run folder.
        path: path of the exported `.onnx` or `.xml`.
        images: images (H, W, 3) uint8, read one at a time. None: synthetic scenes, in which a model of other objects
            may detect nothing.
        options: inference options of both; None: on the CPU, detections with a score of at least `MIN_COMPARED_SCORE`.
    """
    options = options or InferenceOptions(score=MIN_COMPARED_SCORE, device="cpu")
    exported = Predictor(path, options)
    trained = Predictor(replace(load_model(source), experiment=exported.experiment), options)
    if images is None:
        images = [make_scene(0, "valid", number).image for number in range(4)]
    report = ParityReport()
    for image in images:  # one at a time: a folder of images need not fit into memory
        report.add(trained(image), exported(image), exported.filter.score)
    return report


def _find_partner(expected: Detections, i: int, actual: Detections, matched: set[int]) -> int | None:
    """Return the closest detection of the same class, if its box is within a tenth of the box's size; else None."""
    distance = np.abs(actual.boxes - expected.boxes[i]).max(1) + np.abs(actual.scores - expected.scores[i])
    distance[actual.labels != expected.labels[i]] = np.inf
    distance[list(matched)] = np.inf
    if not len(distance) or not np.isfinite(distance.min()):
        return None
    size = float(np.sqrt(np.prod(expected.boxes[i, 2:] - expected.boxes[i, :2])))
    closest = int(distance.argmin())
    return closest if distance[closest] <= 1 + 0.1 * size else None
