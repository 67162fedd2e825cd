"""Images of errors: the part of the image around each, with ground truth and detections outlined."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from sais.evaluation.error_analysis import DUPLICATE, MISSED, ErrorAnalysis, ImageAnalysis
from sais.evaluation.error_cases import ErrorCase
from sais.evaluation.label_suggestions import read_labels
from sais.evaluation.visualize import detections_from_coco
from sais.reports.finding_images import Thumbnail, window_around
from sais.reports.outline_images import PREDICTION, TRUTH, Layer, draw_part, read_images
from sais.results.detections import Detections
from sais.text import short_name

SIDE = 320
"""Longest side of an image, in pixels."""
MAX_PER_IMAGE = 3
"""Maximum number of errors of a kind that are shown of one image, so that one bad image does not fill the page."""
MAX_CHARACTERS = 4_500_000
"""Maximum number of characters of all embedded images of a page; further ones are omitted and counted."""


@dataclass(frozen=True)
class ErrorFigure:
    """An error with its image."""

    image: Thumbnail
    caption: str
    file_name: str


@dataclass
class ErrorFigures:
    """The images of all kinds of errors."""

    by_outcome: dict[int, list[ErrorFigure]] = field(default_factory=dict)
    unreadable: int = 0
    """Number of images that could not be read."""
    omitted: int = 0
    """Number of errors whose images were omitted to keep the page small."""


def choose_worst(cases: Sequence[ErrorCase], count: int) -> list[ErrorCase]:
    """Return the worst errors, at most `MAX_PER_IMAGE` of an image.

    Args:
        cases: errors of one kind, the worst first.
        count: maximum number.
    """
    seen: Counter[int] = Counter()
    chosen: list[ErrorCase] = []
    for case in cases:
        if len(chosen) == count:
            break
        if seen[case.record.id] < MAX_PER_IMAGE:
            seen[case.record.id] += 1
            chosen.append(case)
    return chosen


def draw_errors(analysis: ErrorAnalysis, cases: Mapping[int, Sequence[ErrorCase]], count: int) -> ErrorFigures:
    """Draw the worst errors of each kind.

    Args:
        analysis: error analysis that the errors are from.
        cases: outcome -> its errors, the worst first.
        count: maximum number of images of a kind.
    """
    figures = ErrorFigures({outcome: [] for outcome in cases})
    chosen = [case for outcome in cases for case in choose_worst(cases[outcome], count)]
    by_image: dict[int, list[int]] = {}
    for place, case in enumerate(chosen):
        by_image.setdefault(case.record.id, []).append(place)
    images = {image.record.id: image for image in analysis.images if image.record.id in by_image}
    drawn: dict[int, Thumbnail] = {}

    def count_unreadable() -> None:
        figures.unreadable += 1

    for image_id, pixels in read_images([image.record for image in images.values()], count_unreadable):
        objects = _image_objects(images[image_id], analysis)
        for place in by_image[image_id]:
            drawn[place] = _draw_case(pixels, chosen[place], *objects, analysis)
    budget = MAX_CHARACTERS
    for place, case in enumerate(chosen):
        if place not in drawn:
            continue
        if len(drawn[place].source) > budget:
            figures.omitted += 1
            continue
        budget -= len(drawn[place].source)
        caption = describe_case(case, analysis)
        figures.by_outcome[case.outcome].append(ErrorFigure(drawn[place], caption, case.record.name))
    return figures


def describe_case(case: ErrorCase, analysis: ErrorAnalysis) -> str:
    """Return one line about an error: "deer 0.91, in truth bear, IoU 0.83"."""
    row = case.row(analysis.split)
    truth, detected = (None if row[key] is None else short_name(row[key]) for key in ("class", "detected_as"))
    if case.outcome == MISSED:
        below = "" if case.best_score is None else f", detected below the threshold with {case.best_score:.2f}"
        width, height = round(row["width"]), round(row["height"])
        return f"{truth}, {width} x {height} px{_neighbors(case)}{below}"
    text = f"{detected} {row['score']:.2f}"
    if truth is None:
        return text
    if case.outcome == DUPLICATE:
        return f"{text}, IoU {case.iou:.2f} with a matched {truth}"
    text += f", in truth {truth}" if truth != detected else ""
    return f"{text}, IoU {case.iou:.2f}"


def _neighbors(case: ErrorCase) -> str:
    if not case.neighbors:
        return ""
    return f", {case.neighbors} overlapping neighbor{'s' if case.neighbors > 1 else ''}"


def _image_objects(image: ImageAnalysis, analysis: ErrorAnalysis) -> tuple[Detections, Detections]:
    """Return the ground truth and the detections of an image."""
    record = image.record
    truth = read_labels(record, analysis.split, record.annotations)
    return truth, detections_from_coco(image.results, record.size, analysis.split)


def _draw_case(
    image: np.ndarray, case: ErrorCase, truth: Detections, detections: Detections, analysis: ErrorAnalysis
) -> Thumbnail:
    """Draw an error, with thick outlines, among the other objects and detections of its image."""
    record, split = case.record, analysis.split
    own_truth = truth[
        np.array([case.annotation is not None and a.id == case.annotation.id for a in record.annotations])
    ]
    results = [] if case.result is None else [case.result]
    own_detections = detections_from_coco(results, record.size, split)
    subjects = [part for part in (own_truth, own_detections) if len(part)]
    boxes = np.concatenate([part.boxes for part in subjects])
    around = Detections(record.size, boxes, np.ones(len(boxes)), np.zeros(len(boxes), np.int64), split.class_names)
    layers = [
        Layer(truth, TRUTH, is_subject=False),
        Layer(detections, PREDICTION, is_subject=False),
        Layer(own_truth, TRUTH),
        Layer(own_detections, PREDICTION),
    ]
    alt = f"{short_name(record.name)}: {describe_case(case, analysis)}"
    return draw_part(image, window_around(around, record.size), layers, SIDE, alt)
