"""The page of `sais eval --errors`: what a model gets wrong, with images, by class, size and crowding; calibration.

Next to index.html, errors.json has the numbers and every error, errors.csv every error as a table.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sais.evaluation.calibration import Calibration, calibrations
from sais.evaluation.error_analysis import (
    BACKGROUND,
    CORRECT,
    DUPLICATE,
    FOUND,
    IGNORED,
    MISSED,
    POOR_MASK,
    WRONG_CLASS,
    ErrorAnalysis,
    analyze_errors,
)
from sais.evaluation.error_cases import CSV_COLUMNS, ErrorCase, error_cases
from sais.evaluation.error_groups import ErrorGroups, error_groups
from sais.evaluation.score_thresholds import BEST_F1, OperatingPoint, ThresholdGoal, best_points
from sais.io.atomic import write_text
from sais.reports import error_tables
from sais.reports.data_report import KeyFigure
from sais.reports.error_images import ErrorFigure, draw_errors
from sais.reports.error_sections import confusion_matrix, error_counts
from sais.reports.html import render_page

if TYPE_CHECKING:
    from sais.evaluation.coco_metrics import IouType
    from sais.evaluation.evaluate import Evaluation

PAGE_NAME, JSON_NAME, CSV_NAME = FILE_NAMES = ("index.html", "errors.json", "errors.csv")
MAX_IMAGES = 18
"""Maximum number of images of a kind of errors."""

KIND_TEXTS = {
    MISSED: "The largest objects that no detection of their class overlaps. Is the label right? Are there "
    "such objects to train on?",
    BACKGROUND: "The most confident detections where no object of their class is. An object without a label looks like "
    "this too: see `sais doctor DIR --model MODEL`.",
    WRONG_CLASS: "The most confident detections that match an object of another class.",
    POOR_MASK: "The most confident detections whose IoU with an object of their class is between 0.1 and 0.5.",
    DUPLICATE: "The most confident detections of objects that another detection matches already.",
}
"""Outcome -> explanation of its section."""
TITLES = {
    MISSED: "Missed objects",
    BACKGROUND: "Detections on background",
    WRONG_CLASS: "Confused classes",
    POOR_MASK: "Poor masks",
    DUPLICATE: "Duplicates",
}
"""Outcome -> title of its section; without masks, "Poor boxes"."""


@dataclass(frozen=True)
class ErrorFindings:
    """Everything that the page and the files state about the errors of an evaluation."""

    analysis: ErrorAnalysis
    """Detections from the score threshold on."""
    groups: ErrorGroups
    cases: dict[int, list[ErrorCase]]
    """Outcome -> errors, the worst first."""
    goal: ThresholdGoal
    overall: OperatingPoint | None
    """The best threshold of all classes; None if no detection is correct."""
    thresholds: dict[str, OperatingPoint]
    """Class name -> its best threshold, of classes with enough objects."""
    calibration: Calibration | None
    """Of all detections; None without detections."""
    shown_calibration: Calibration | None
    """Of the detections from the score threshold on."""
    class_calibrations: dict[str, Calibration]


@dataclass(frozen=True)
class ErrorSection:
    """The images of one kind of errors."""

    id: str
    title: str
    intro: str
    count: int
    figures: list[ErrorFigure]


def find_errors(evaluation: Evaluation, goal: ThresholdGoal = BEST_F1) -> ErrorFindings:
    """Analyze the errors of an evaluation with metrics, by masks, or by boxes if there are none.

    Args:
        evaluation: evaluation of a model on images with annotations.
        goal: what the best thresholds are chosen for.
    """
    metrics = evaluation.metrics
    assert metrics is not None
    kind: IouType = "segm" if metrics.mask is not None else "bbox"
    split, results = evaluation.dataset_split, evaluation.results
    analysis = analyze_errors(split, results, kind, evaluation.score)
    all_scores = analyze_errors(split, results, kind, score=0.0)
    overall, thresholds = best_points(all_scores, goal)
    of_all, of_classes = calibrations(all_scores)
    cases = error_cases(analysis, all_scores)
    shown = calibrations(analysis)[0]
    return ErrorFindings(
        analysis, error_groups(analysis, metrics), cases, goal, overall, thresholds, of_all, shown, of_classes
    )


def write_error_report(folder: Path, evaluation: Evaluation, model: str, goal: ThresholdGoal = BEST_F1) -> list[Path]:
    """Write index.html, errors.json and errors.csv, and return their paths.

    Args:
        folder: folder to write to; it is created.
        evaluation: evaluation of a model on images with annotations.
        model: name of the model.
        goal: what the best thresholds are chosen for.

    Raises:
        MissingDependencyError: jinja2 or matplotlib is not installed.
        ResourceError: a file cannot be written.
    """
    findings = find_errors(evaluation, goal)
    page = render_error_report(evaluation, findings, model)
    rows = [case.row(findings.analysis.split) for cases in findings.cases.values() for case in cases]
    texts = page, json.dumps(_to_dict(evaluation, findings, model, rows), indent=1), _to_csv(rows)
    paths = [folder / name for name in FILE_NAMES]
    for path, text in zip(paths, texts, strict=True):
        write_text(path, text)
    return paths


def render_error_report(evaluation: Evaluation, findings: ErrorFindings, model: str) -> str:
    """Render the page as HTML; the arguments are those of `write_error_report`, with the errors that were found."""
    analysis, metrics = findings.analysis, evaluation.metrics
    assert metrics is not None
    figures = draw_errors(analysis, findings.cases, MAX_IMAGES)
    shape = "mask" if analysis.iou_type == "segm" else "box"
    sections = []
    for outcome, intro in KIND_TEXTS.items():
        title = "Poor boxes" if outcome == POOR_MASK and shape == "box" else TITLES[outcome]
        count, images = len(findings.cases[outcome]), figures.by_outcome[outcome]
        if count:
            sections.append(ErrorSection(title.lower().replace(" ", "-"), title, intro, count, images))
    score = f"{analysis.score:.3g}"
    return render_page(
        "error_report.html.jinja",
        ("run_report.css", "data_report.css", "error_report.css"),
        title=model,
        subtitle=f"{analysis.split.name}, {metrics.images} images with {metrics.objects} objects, by {shape}, "
        f"detections with a score of at least {score}",
        key_figures=_key_figures(evaluation, findings),
        counts=error_counts(analysis),
        groups=error_tables.group_tables(findings.groups, shape),
        confusion=confusion_matrix(analysis),
        thresholds=error_tables.threshold_table(findings.overall, findings.thresholds),
        goal=str(findings.goal),
        calibration_charts=error_tables.calibration_charts(findings.calibration, findings.class_calibrations),
        calibration_table=error_tables.calibration_table(findings.calibration, findings.class_calibrations),
        sections=sections,
        unreadable=figures.unreadable,
        omitted=figures.omitted,
        score=score,
    )


def _key_figures(evaluation: Evaluation, findings: ErrorFindings) -> list[KeyFigure]:
    analysis, metrics = findings.analysis, evaluation.metrics
    assert metrics is not None
    scores, kind = metrics.mask or metrics.box, "mask" if metrics.mask is not None else "box"
    objects = sum(len(image.objects) for image in analysis.images)
    detections = sum(len(image.results) - image.count(IGNORED) for image in analysis.images)
    found, correct = analysis.objects(FOUND), analysis.detections(CORRECT)
    shown = findings.shown_calibration
    best = findings.overall
    figures = [
        KeyFigure(f"{kind} AP", "-" if scores is None else error_tables.fraction(scores.AP), "COCO, all scores"),
        KeyFigure("recall", error_tables.fraction(found / objects if objects else None), f"{found} of {objects} found"),
        KeyFigure(
            "precision",
            error_tables.fraction(correct / detections if detections else None),
            f"{correct} of {detections} detections correct",
        ),
    ]
    if best is not None:
        figures.append(KeyFigure("best threshold", f"{best.score:.3g}", f"{findings.goal}; F1 {best.f1:.3f}"))
    if shown is not None:
        detail = f"from score {analysis.score:.3g} on"
        figures.append(KeyFigure("calibration error", error_tables.fraction(shown.expected_error), detail))
    return figures


def _to_dict(
    evaluation: Evaluation, findings: ErrorFindings, model: str, rows: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the content of errors.json; the first entry marks the file as written by sais."""
    analysis, metrics = findings.analysis, evaluation.metrics
    assert metrics is not None
    overall, thresholds = findings.overall, findings.thresholds
    return {
        "written_by": "sais eval",
        "model": model,
        "split": analysis.split.name,
        "iou_type": analysis.iou_type,
        "score": analysis.score,
        "metrics": metrics.to_dict(),
        "groups": findings.groups.to_dict(),
        "confusion": {"classes": list(analysis.split.class_names), "counts": analysis.confusion().tolist()},
        "thresholds": {
            "criterion": str(findings.goal),
            "overall": None if overall is None else vars(overall) | {"f1": overall.f1},
            "per_class": {name: vars(point) | {"f1": point.f1} for name, point in thresholds.items()},
        },
        "calibration": {
            "all": findings.calibration and findings.calibration.to_dict(),
            "above_threshold": findings.shown_calibration and findings.shown_calibration.to_dict(),
            "per_class": {name: item.to_dict() for name, item in findings.class_calibrations.items()},
        },
        "errors": list(rows),
    }


def _to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
