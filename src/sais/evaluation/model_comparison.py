"""What one model finds and another does not, image by image, at the score threshold of each. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sais.data.annotations import ImageRecord
from sais.evaluation.error_analysis import CORRECT, FOUND, IGNORED, ErrorAnalysis, ImageAnalysis


@dataclass(frozen=True)
class ImageDifference:
    """The results of two models on one image."""

    first: ImageAnalysis
    second: ImageAnalysis

    @property
    def record(self) -> ImageRecord:
        """The image."""
        return self.first.record

    @property
    def found_by_first(self) -> np.ndarray:
        """(N,) bool, objects that only the first model finds."""
        found: np.ndarray = (self.first.match.objects == FOUND) & (self.second.match.objects != FOUND)
        return found

    @property
    def found_by_second(self) -> np.ndarray:
        """(N,) bool, objects that only the second model finds."""
        found: np.ndarray = (self.second.match.objects == FOUND) & (self.first.match.objects != FOUND)
        return found

    @property
    def false_detections(self) -> tuple[int, int]:
        """Number of detections of each model that are not correct."""
        return _false_detections(self.first), _false_detections(self.second)

    @property
    def balance(self) -> int:
        """How many errors the second model has less: objects that only it finds, less false detections."""
        first, second = self.false_detections
        return int(self.found_by_second.sum()) - int(self.found_by_first.sum()) + first - second

    @property
    def quality(self) -> float:
        """Difference of the qualities (`ImageAnalysis.quality`), the second minus the first."""
        return (self.second.quality or 0.0) - (self.first.quality or 0.0)

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as a dictionary for JSON."""
        objects = self.first.objects
        return {
            "image_id": self.record.id,
            "file_name": self.record.name,
            "objects": len(objects),
            "found_only_by_first": [objects[n].id for n in np.flatnonzero(self.found_by_first)],
            "found_only_by_second": [objects[n].id for n in np.flatnonzero(self.found_by_second)],
            "false_detections": list(self.false_detections),
            "quality": [self.first.quality, self.second.quality],
        }


@dataclass(frozen=True)
class ObjectCounts:
    """How many objects both models, one of them, or none finds."""

    both: int
    only_first: int
    only_second: int
    neither: int


def image_differences(first: ErrorAnalysis, second: ErrorAnalysis) -> list[ImageDifference]:
    """Return the images on which two models differ, those where the second is better first.

    Images are ordered by the number of errors that the second model has less than the first, then by the difference of
    their qualities.

    Args:
        first: error analysis of the first model.
        second: error analysis of the second model on the same images.
    """
    pairs = [ImageDifference(*images) for images in zip(first.images, second.images, strict=True)]
    differing = [
        pair
        for pair in pairs
        if pair.found_by_first.any() or pair.found_by_second.any() or len(set(pair.false_detections)) > 1
    ]
    return sorted(differing, key=lambda pair: (-pair.balance, -pair.quality, pair.record.id))


def count_objects(first: ErrorAnalysis, second: ErrorAnalysis) -> ObjectCounts:
    """Count the objects by the models that find them; the arguments are those of `image_differences`."""
    pairs = [
        (a.match.objects == FOUND, b.match.objects == FOUND) for a, b in zip(first.images, second.images, strict=True)
    ]
    return ObjectCounts(
        _sum([a & b for a, b in pairs]),
        _sum([a & ~b for a, b in pairs]),
        _sum([~a & b for a, b in pairs]),
        _sum([~a & ~b for a, b in pairs]),
    )


def _sum(masks: Sequence[np.ndarray]) -> int:
    return int(sum(int(mask.sum()) for mask in masks))


def _false_detections(image: ImageAnalysis) -> int:
    return len(image.results) - image.count(CORRECT) - image.count(IGNORED)
