"""Outcomes of objects and detections by class, by object size and by crowding, at the score threshold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sais.data.annotations import Annotation
from sais.evaluation.coco_metrics import Metrics
from sais.evaluation.error_analysis import (
    CORRECT,
    FOUND,
    IGNORED,
    MISSED,
    POOR_MASK,
    WRONG_CLASS,
    ErrorAnalysis,
    ImageAnalysis,
)
from sais.evaluation.error_cases import count_neighbors

SIZES = {"small": 32.0**2, "medium": 96.0**2, "large": float("inf")}
"""COCO's name of an object size -> area in pixels below which an object has it."""
CROWDING = {"no neighbor": 1, "1 neighbor": 2, "2 or 3 neighbors": 4, "4 or more": 10**9}
"""Name of a group -> number of neighbors below which an object belongs to it."""


@dataclass
class Group:
    """The objects of a group, and the detections of the same class or size."""

    name: str
    objects: int = 0
    found: int = 0
    wrong_class: int = 0
    poor: int = 0
    missed: int = 0
    mean_iou: float | None = None
    """Mean IoU of the correct detections of its objects; None without one."""
    detections: int | None = None
    """None where detections have no such property: they have no neighbors."""
    correct: int = 0
    """Number of correct detections."""
    ap: float | None = None
    """COCO AP; None where it is not measured."""
    ious: list[float] = field(default_factory=list, repr=False)

    @property
    def recall(self) -> float | None:
        """Fraction of the objects that are found; None without objects."""
        return self.found / self.objects if self.objects else None

    @property
    def precision(self) -> float | None:
        """Fraction of the detections that are correct; None without detections."""
        return self.correct / self.detections if self.detections else None

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as a dictionary for JSON."""
        numbers = {key: value for key, value in vars(self).items() if key != "ious"}
        return numbers | {"recall": self.recall, "precision": self.precision}


@dataclass(frozen=True)
class ErrorGroups:
    """The outcomes by class, by size and by crowding."""

    classes: list[Group]
    sizes: list[Group]
    crowding: list[Group]

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers as a dictionary for JSON."""
        return {name: [group.to_dict() for group in groups] for name, groups in vars(self).items()}


def error_groups(analysis: ErrorAnalysis, metrics: Metrics) -> ErrorGroups:
    """Count the outcomes of each group.

    Args:
        analysis: error analysis of the detections from the score threshold on.
        metrics: metrics of the same evaluation, for the AP of classes and sizes.
    """
    split, scores = analysis.split, metrics.mask or metrics.box
    per_class = {} if scores is None else dict(zip(split.class_names, scores.per_class.values(), strict=True))
    per_size = {} if scores is None else dict(zip(SIZES, (scores.APs, scores.APm, scores.APl), strict=True))
    labels = {category_id: label for label, category_id in enumerate(split.category_ids)}
    classes = _count(
        analysis,
        split.class_names,
        lambda image: [annotation.label for annotation in image.objects],
        lambda image: [labels[result["category_id"]] for result in image.results],
    )
    sizes = _count(
        analysis,
        tuple(SIZES),
        lambda image: [object_size(annotation) for annotation in image.objects],
        lambda image: _sizes([_result_area(result, analysis) for result in image.results]),
    )
    limits = np.array(list(CROWDING.values()))
    crowding = _count(
        analysis,
        tuple(CROWDING),
        lambda image: np.searchsorted(limits, count_neighbors(image.objects), side="right").tolist(),
        None,
    )
    for groups, values in ((classes, per_class), (sizes, per_size)):
        for group in groups:
            value = values.get(group.name)
            group.ap = None if value is None or np.isnan(value) else value
    return ErrorGroups(classes, sizes, crowding)


def object_size(annotation: Annotation) -> int:
    """Return the position in `SIZES` of an object's size."""
    return _sizes([annotation.area])[0]


def _sizes(areas: Sequence[float]) -> list[int]:
    limits = np.array(list(SIZES.values())[:-1])
    return np.searchsorted(limits, np.asarray(areas, np.float64), side="right").tolist()


def _result_area(result: dict[str, Any], analysis: ErrorAnalysis) -> float:
    """Return the area of a detection in pixels: of its mask if masks are compared, else of its box."""
    if analysis.iou_type == "segm":
        from faster_coco_eval.core import mask

        return float(mask.area(result["segmentation"]))
    return float(result["bbox"][2] * result["bbox"][3])


def _count(
    analysis: ErrorAnalysis,
    names: Sequence[str],
    of_objects: Callable[[ImageAnalysis], Sequence[int]],
    of_detections: Callable[[ImageAnalysis], Sequence[int]] | None,
) -> list[Group]:
    """Count outcomes; the functions return the number of the group of each object, and of each detection."""
    groups = [Group(name, detections=None if of_detections is None else 0) for name in names]
    fields = {FOUND: "found", WRONG_CLASS: "wrong_class", POOR_MASK: "poor", MISSED: "missed"}
    for image in analysis.images:
        numbers = list(of_objects(image))
        for number, outcome in zip(numbers, image.match.objects.tolist(), strict=True):
            groups[number].objects += 1
            setattr(groups[number], fields[outcome], getattr(groups[number], fields[outcome]) + 1)
        for d in np.flatnonzero(image.match.detections == CORRECT):
            groups[numbers[image.match.matched_objects[d]]].ious.append(float(image.ious[d]))
        if of_detections is not None:
            for number, outcome in zip(of_detections(image), image.match.detections.tolist(), strict=True):
                if outcome != IGNORED:
                    groups[number].detections = (groups[number].detections or 0) + 1
                    groups[number].correct += outcome == CORRECT
    for group in groups:
        group.mean_iou = float(np.mean(group.ious)) if group.ious else None
    return groups
