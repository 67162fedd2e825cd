"""Suggestions of a model for the labels of a data set: missing labels, labels without an object, wrong classes.

A trained model is run on labeled images, and what it contradicts confidently is ranked for a person to look at. Legend:
D detections and N labels of one image.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from sais.data.annotations import Annotation, DatasetSplit, ImageRecord, object_mask, segmentation_bounds
from sais.data.doctor.findings import Case, Finding, image_reference
from sais.data.doctor.kinds import NEVER_FOUND, OTHER_CLASS, UNLABELED, kind_severity
from sais.errors import InputError, OutOfMemoryError, SaisError
from sais.evaluation.visualize import ground_truth_detections
from sais.inference.predictor import Predictor
from sais.inference.score_thresholds import DEFAULT_SCORE
from sais.ops.numpy_boxes import box_area, box_intersection
from sais.results.detections import Detections
from sais.results.mask_ops import intersection_area
from sais.text import short_name, short_names

LOW_SCORE = 0.05
"""Score from which a detection counts as a sign of an object."""
MAX_COVERED = 0.1
"""Fraction of a detection that labels may cover for it to be without a label."""
MIN_SIGN_IOU = 0.1
"""IoU with any detection from which the model finds a label."""
MIN_CLASS_IOU = 0.7
"""IoU of a detection and a label from which both are the same object."""


@dataclass(frozen=True)
class _Suggestion:
    """A case with its rank, higher first."""

    rank: float
    case: Case


@dataclass
class _Suggestions:
    """The suggestions for a split by kind."""

    unlabeled: list[_Suggestion] = field(default_factory=list)
    never_found: list[_Suggestion] = field(default_factory=list)
    other_class: list[_Suggestion] = field(default_factory=list)


def suggest_labels(
    predictor: Predictor, split: DatasetSplit, progress: Callable[[int], None] = lambda images: None
) -> list[Finding]:
    """Run a model on labeled images and rank what contradicts the labels.

    Args:
        predictor: predictor with the minimum score `LOW_SCORE` or less, or None. Its classes are matched with those of
            the split by name.
        split: labeled split; unreadable images are left out, since the check of the data set reports them.
        progress: function called with the number of images done since its last call.

    Returns:
        Detections without a label and labels detected as another class, highest score first; then labels that the
        model never finds, largest part of the image first. A kind without cases is left out.

    Raises:
        InputError: model and split have no class in common.
    """
    confident = confident_score(predictor)
    label_of = {name: label for label, name in enumerate(split.class_names)}
    labels = np.array([label_of.get(name, -1) for name in predictor.class_names], np.int64)
    if (labels < 0).all():
        raise InputError(
            f"{split.name}: none of its classes ({_names(split.class_names)}) is one of the model "
            f"({_names(predictor.class_names)}). Use a model that was trained on these classes."
        )
    suggestions = _Suggestions()
    for record, detections in _predict(predictor, split.images, progress):
        known = labels[detections.labels] >= 0
        own = _with_classes(detections[known], labels, split)
        _compare(record, own, split, set(labels.tolist()), confident, suggestions)
    scores = f"detections with a score of {confident:.2f} or more, the threshold of the model"
    findings = [
        _finding(UNLABELED, suggestions.unlabeled, scores),
        _finding(OTHER_CLASS, suggestions.other_class, scores),
        _finding(NEVER_FOUND, suggestions.never_found, f"no detection with a score of {LOW_SCORE:g} or more"),
    ]
    return [finding for finding in findings if finding.count]


def confident_score(predictor: Predictor) -> float:
    """Return the score from which a detection is confident: the model's threshold of the best F1, 0.3 without one."""
    return DEFAULT_SCORE if predictor.thresholds is None else float(predictor.thresholds.overall)


def read_labels(record: ImageRecord, split: DatasetSplit, annotations: Iterable[Annotation]) -> Detections:
    """Return annotations of an image as detections with score 1, crowd regions included.

    A mask is complete, also where it exceeds its box.

    Args:
        record: the image.
        split: its split.
        annotations: annotations of `record`; a malformed mask is left out.
    """
    annotations = tuple(annotations)
    whole = tuple(_with_whole_mask(a, record) for a in annotations)
    labels = ground_truth_detections(replace(record, annotations=whole), split)
    labels.boxes = np.array([a.box for a in annotations], np.float32).reshape(-1, 4)
    return labels


def overlap_areas(first: Detections, second: Detections) -> np.ndarray:
    """Return the areas in pixels that the objects of two sets share, (D, N) float64.

    Masks are compared where both objects have one, boxes otherwise.

    Args:
        first: D objects.
        second: N objects on the same image.
    """
    boxes = (first.boxes.astype(np.float64)[:, None], second.boxes.astype(np.float64)[None])
    shared = box_intersection(*boxes)
    if first.cropped_masks and second.cropped_masks:
        for i, k in zip(*np.nonzero(shared), strict=True):
            masks = first.cropped_masks[i], second.cropped_masks[k]
            if masks[0].area and masks[1].area:
                shared[i, k] = intersection_area(*masks)
    return shared


def _with_whole_mask(annotation: Annotation, record: ImageRecord) -> Annotation:
    """Return an annotation as an object whose box contains its mask; without the mask if it is malformed."""
    height, width = record.size
    try:
        object_mask(annotation, record.size)
        bounds = segmentation_bounds(annotation, record.size)
    except InputError:
        return replace(annotation, segmentation=None, crowd=False)
    if bounds is None or not np.isfinite(bounds).all():
        return replace(annotation, crowd=False)
    bounds = np.clip(bounds, 0, (width, height, width, height))
    corners = np.minimum(annotation.box[:2], bounds[:2]), np.maximum(annotation.box[2:], bounds[2:])
    return replace(annotation, box=np.concatenate(corners), crowd=False)


def _predict(
    predictor: Predictor, records: Iterable[ImageRecord], progress: Callable[[int], None]
) -> Iterator[tuple[ImageRecord, Detections]]:
    """Yield the detections of each readable image."""
    waiting: deque[ImageRecord] = deque()

    def images() -> Iterator[np.ndarray]:
        """Yield (H, W, 3) images; those that the check of the data set reports as unreadable are left out."""
        for record in records:
            try:
                image = record.read(white_level=predictor.experiment.input.white_level)
            except OutOfMemoryError:
                raise
            except SaisError:
                progress(1)
                continue
            if image.shape[:2] != tuple(record.size):
                progress(1)
                continue
            waiting.append(record)
            yield image

    for detections in predictor.stream(images()):
        yield waiting.popleft(), detections
        progress(1)


def _with_classes(detections: Detections, labels: np.ndarray, split: DatasetSplit) -> Detections:
    """Return detections with the labels of a split; `labels` (C,) has the label of each class of the model."""
    return Detections(
        detections.image_size,
        detections.boxes,
        detections.scores,
        labels[detections.labels],
        split.class_names,
        detections.cropped_masks,
    )


def _compare(
    record: ImageRecord,
    detections: Detections,
    split: DatasetSplit,
    known: set[int],
    confident: float,
    suggestions: _Suggestions,
) -> None:
    """Add the suggestions for one image; `known` has the labels of the model's classes."""
    labels = read_labels(record, split, record.annotations)
    shared = overlap_areas(detections, labels)
    areas, label_areas = _areas(detections), _areas(labels)
    ious = shared / np.maximum(areas[:, None] + label_areas - shared, 1e-9)
    covered = shared.sum(1) / np.maximum(areas, 1e-9)
    is_confident = detections.scores >= confident
    image, name = image_reference(split, record), record.name
    for i in _without_repeats(detections, np.flatnonzero(is_confident & (covered <= MAX_COVERED))):
        corners = " ".join(f"{edge:.0f}" for edge in detections.boxes[i])
        text = f"{name}: {_describe(detections, i)} at {corners}"
        case = Case(text, image, detections=detections[i])
        suggestions.unlabeled.append(_Suggestion(float(detections.scores[i]), case))
    for k, annotation in enumerate(record.annotations):
        if annotation.crowd:
            continue
        where = f"{name}: annotation {annotation.id}, {short_name(split.class_names[annotation.label])}"
        if annotation.label in known and ious[:, k].max(initial=0.0) < MIN_SIGN_IOU:
            rank = float(label_areas[k]) / max(1, record.size[0] * record.size[1])
            suggestions.never_found.append(_Suggestion(rank, Case(where, image, (annotation.id,))))
            continue
        matches = np.flatnonzero(is_confident & (ious[:, k] >= MIN_CLASS_IOU))
        if len(matches) and detections.labels[matches[0]] != annotation.label:  # scores descend
            text = f"{where}: detected as {_describe(detections, matches[0])}"
            case = Case(text, image, (annotation.id,), detections=detections[matches[0]])
            suggestions.other_class.append(_Suggestion(float(detections.scores[matches[0]]), case))


def _areas(objects: Detections) -> np.ndarray:
    """Return the areas (D,) of masks, of boxes where there is none."""
    boxes = box_area(objects.boxes.astype(np.float64))
    if not objects.cropped_masks:
        return boxes
    return np.array([mask.area or area for mask, area in zip(objects.cropped_masks, boxes, strict=True)], np.float64)


def _without_repeats(detections: Detections, places: np.ndarray) -> list[int]:
    """Return the places (P,) of detections without those that mostly cover one with a higher score."""
    chosen: list[int] = []
    chosen_objects = detections[places]
    shared = overlap_areas(chosen_objects, chosen_objects)
    areas = _areas(chosen_objects)
    for i in range(len(places)):
        if not any(shared[i, k] > 0.5 * min(areas[i], areas[k]) for k in chosen):
            chosen.append(i)
    return [int(places[i]) for i in chosen]


def _names(class_names: Sequence[str]) -> str:
    return ", ".join(short_names(class_names[:5]))


def _describe(detections: Detections, place: int) -> str:
    return f"{short_name(detections.class_names[detections.labels[place]])} {detections.scores[place]:.2f}"


def _finding(kind: str, suggestions: list[_Suggestion], remark: str) -> Finding:
    ranked = sorted(suggestions, key=lambda suggestion: -suggestion.rank)
    return Finding(kind_severity(kind), kind, len(ranked), tuple(suggestion.case for suggestion in ranked), remark)
