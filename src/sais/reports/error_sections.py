"""The sections of a run's report that need its detections: summary, classes, errors, confusion matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sais.evaluation.coco_metrics import CocoScores, Metrics, format_ap
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
)
from sais.evaluation.evaluate import Evaluation
from sais.evaluation.score_thresholds import best_f1
from sais.reports.html_tables import Table
from sais.text import short_name, short_names

MAX_CLASSES = 24
"""Maximum number of classes that a table or a confusion matrix shows in full."""
MAX_BUDGET_DETECTIONS = 20_000
"""Maximum number of detections for which a report has an error budget, which takes about a second per 1,500."""
MAX_CONFUSED_CLASSES = 16
"""Maximum number of classes of a confusion matrix that cannot show all classes."""

DETECTION_KINDS = (
    (
        CORRECT,
        "correct",
        "IoU of at least 0.5 with an object of its class that no detection with a higher score matches",
    ),
    (WRONG_CLASS, "wrong class", "IoU of at least 0.5 with an object of another class"),
    (POOR_MASK, "poor {shape}", "IoU between 0.1 and 0.5 with an object of its class"),
    (DUPLICATE, "duplicate", "IoU of at least 0.5 with an object that another detection matches"),
    (BACKGROUND, "background", "no object of its class is near"),
)
OBJECT_KINDS = (
    (FOUND, "found", "matched by a correct detection"),
    (WRONG_CLASS, "found as another class", "matched by a detection of another class"),
    (POOR_MASK, "poor {shape}", "a detection of its class overlaps it, but poorly"),
    (MISSED, "missed", "no detection overlaps it"),
)


@dataclass(frozen=True)
class ClassRow:
    """One class."""

    name: str
    ap: float
    """Fraction of 1."""
    numbers: list[str]


@dataclass(frozen=True)
class ClassTablePart:
    """Some rows of a table of classes."""

    title: str
    rows: list[ClassRow]
    folded: bool = False


@dataclass(frozen=True)
class ClassTable:
    """The AP of each class."""

    columns: list[str]
    """Names of the numbers in each row."""
    parts: list[ClassTablePart]
    without_objects: list[str]
    """Names of classes without objects in the evaluated images."""


@dataclass(frozen=True)
class ErrorCount:
    """The number of objects or detections with one outcome."""

    name: str
    count: int
    share: float
    meaning: str


@dataclass(frozen=True)
class ErrorTable:
    """The outcomes of all objects, or of all detections."""

    title: str
    rows: list[ErrorCount]


@dataclass(frozen=True)
class ErrorCounts:
    """The outcomes of all objects and of all detections."""

    tables: tuple[ErrorTable, ErrorTable]
    ignored: int
    """Number of detections in crowds or in objects without a mask."""


@dataclass(frozen=True)
class ConfusionCell:
    """A cell of a confusion matrix."""

    text: str = ""
    css_class: str = ""
    share: float = 0.0
    """Fraction of the row's total."""
    title: str = ""


@dataclass(frozen=True)
class ConfusionRow:
    """A row of a confusion matrix."""

    name: str
    cells: list[ConfusionCell]


@dataclass(frozen=True)
class ConfusionMatrix:
    """A confusion matrix and the pairs of classes that are confused most often."""

    note: str
    columns: list[str]
    rows: list[ConfusionRow]
    pairs: Table | None


def summarize(metrics: Metrics, analysis: ErrorAnalysis, all_scores: ErrorAnalysis) -> list[str]:
    """Write a few sentences about the most notable results.

    Args:
        metrics: metrics of the evaluation.
        analysis: error analysis of the detections at or above the score threshold.
        all_scores: error analysis of all detections.
    """
    scores = metrics.mask or metrics.box
    assert scores is not None
    sentences = []
    known = sorted((value, short_name(name)) for name, value in scores.per_class.items() if not math.isnan(value))
    if len(known) > 1:
        (low, worst), (high, best) = known[0], known[-1]
        sentences.append(f"Best class: {best} (AP {format_ap(high)}). Worst class: {worst} (AP {format_ap(low)}).")
    shape = "mask" if metrics.mask is not None else "box"
    counts = {
        name.format(shape=shape): analysis.detections(kind) for kind, name, _ in DETECTION_KINDS if kind != CORRECT
    }
    counts["missed objects"] = analysis.objects(MISSED)
    errors = [
        f"{count} {name}" for name, count in sorted(counts.items(), key=lambda item: item[1], reverse=True) if count
    ]
    sentences.append(f"Errors at score {analysis.score:.3g}, most frequent first: {', '.join(errors) or 'none'}.")
    pairs = confused_pairs(analysis)
    if pairs:
        count, row, column = pairs[0]
        names, total = short_names(analysis.split.class_names), object_counts(analysis)[row]
        sentences.append(f"Most frequent confusion: {names[row]} detected as {names[column]}, {count} of {total}.")
    optimum = best_f1(all_scores)
    if optimum is not None:
        score, f1 = optimum
        sentences.append(f"F1 is highest ({format_ap(f1)}) at a score threshold of {score:.2f}.")
    return sentences


def class_table(metrics: Metrics, analysis: ErrorAnalysis) -> ClassTable:
    """Tabulate the AP of each class, best first; the middle of a long table is folded."""
    main = metrics.mask or metrics.box
    assert main is not None
    has_both = metrics.mask is not None and metrics.box is not None
    counts = object_counts(analysis)
    at_iou = main.curves.mean(axis=1)  # (2, C) AP50 and AP75; NaN for a class without objects
    rows, without_objects = [], []
    for label, (name, value) in enumerate(main.per_class.items()):
        if math.isnan(value):
            without_objects.append(name)
            continue
        values = [value, at_iou[0, label], at_iou[1, label]]
        if has_both and metrics.box is not None:
            values.append(metrics.box.per_class[name])
        numbers = [format_ap(number) for number in values]
        rows.append(ClassRow(name, value, [str(counts[label]), *numbers]))
    rows.sort(key=lambda row: row.ap, reverse=True)
    kind = "mask" if metrics.mask is not None else "box"
    columns = ["objects", f"{kind} AP", "AP50", "AP75", *(["box AP"] if has_both else [])]
    if len(rows) <= MAX_CLASSES:
        return ClassTable(columns, [ClassTablePart("", rows)] if rows else [], without_objects)
    edge = MAX_CLASSES // 2
    parts = [
        ClassTablePart(f"Best {edge} of {len(rows)}", rows[:edge]),
        ClassTablePart(f"Worst {edge}", rows[-edge:]),
        ClassTablePart(f"The {len(rows) - 2 * edge} in between", rows[edge:-edge], folded=True),
    ]
    return ClassTable(columns, parts, without_objects)


def error_counts(analysis: ErrorAnalysis) -> ErrorCounts:
    """Count the outcomes of all objects and of all detections."""
    shape = "mask" if analysis.iou_type == "segm" else "box"
    objects = [(name, analysis.objects(kind), text) for kind, name, text in OBJECT_KINDS]
    detections = [(name, analysis.detections(kind), text) for kind, name, text in DETECTION_KINDS]
    tables = [_error_table(noun, rows, shape) for noun, rows in (("objects", objects), ("detections", detections))]
    return ErrorCounts((tables[0], tables[1]), analysis.detections(IGNORED))


def confusion_matrix(analysis: ErrorAnalysis) -> ConfusionMatrix:
    """Tabulate objects by their class and by the class of their detection; of many classes only the most confused."""
    matrix, names = analysis.confusion(), short_names(analysis.split.class_names)
    size, note, chosen = len(names), "", list(range(len(names)))
    if size > MAX_CLASSES:
        labels = dict.fromkeys(label for _, *pair in confused_pairs(analysis) for label in pair)
        chosen = sorted(list(labels)[:MAX_CONFUSED_CLASSES])
        if not chosen:
            return ConfusionMatrix(f"No object of the {size} classes was detected as another class.", [], [], None)
        note = f"Only the {len(chosen)} of {size} classes that are confused most often are shown."
    shown = [*chosen, size]
    rows = []
    for row in shown:
        cells = [_confusion_cell(matrix, names, row, column) for column in shown]
        rows.append(ConfusionRow(names[row] if row < size else "no object", cells))
    columns = [names[label] if label < size else "not found" for label in shown]
    return ConfusionMatrix(note, columns, rows, _pairs_table(analysis))


def confused_pairs(analysis: ErrorAnalysis) -> list[tuple[int, int, int]]:
    """List (count, class of the object, class of its detection) of all confusions, most frequent first."""
    matrix = analysis.confusion()[:-1, :-1]
    rows, columns = np.nonzero(matrix * (1 - np.eye(len(matrix), dtype=np.int64)))
    return sorted(((int(matrix[r, c]), int(r), int(c)) for r, c in zip(rows, columns, strict=True)), reverse=True)


def object_counts(analysis: ErrorAnalysis) -> list[int]:
    """Count the objects of each class."""
    counts = [0] * len(analysis.split.class_names)
    for image in analysis.images:
        for annotation in image.objects:
            counts[annotation.label] += 1
    return counts


def error_budget_tables(evaluation: Evaluation, analysis: ErrorAnalysis) -> list[Table]:
    """Tabulate what AP would be if one kind of error, or one part of the detections, were put right."""
    from sais.evaluation.error_budget import error_budget

    split, limit = evaluation.dataset_split, evaluation.max_detections
    tables = error_budget(split, evaluation.results, analysis.iou_type, limit).rows()
    captions = ("AP gained if all errors of a kind were put right", "AP if a part of each detection were true")
    return [Table(rows[0], rows[1:], caption=caption) for rows, caption in zip(tables, captions, strict=True)]


def found_and_correct(scores: CocoScores | None, analysis: ErrorAnalysis) -> tuple[float, float] | None:
    """Return the fraction of the objects that were found and of the detections that are correct; None if no objects."""
    objects = sum(len(image.objects) for image in analysis.images)
    detections = sum(analysis.detections(kind) for kind, _, _ in DETECTION_KINDS)
    if scores is None or not objects:
        return None
    return analysis.objects(FOUND) / objects, analysis.detections(CORRECT) / detections if detections else 0.0


def _error_table(noun: str, counts: Sequence[tuple[str, int, str]], shape: str) -> ErrorTable:
    total = sum(count for _, count, _ in counts)
    rows = [
        ErrorCount(name.format(shape=shape), count, count / (total or 1), meaning) for name, count, meaning in counts
    ]
    return ErrorTable(f"Outcomes of the {total} {noun}", rows)


def _confusion_cell(matrix: np.ndarray, names: Sequence[str], row: int, column: int) -> ConfusionCell:
    size = len(names)
    if row == column == size:
        return ConfusionCell(css_class="edge")
    count, total = int(matrix[row, column]), int(matrix[row].sum())
    css_classes = (("right", row == column), ("none", not count), ("edge", column == size))
    source = names[row] if row < size else "no object"
    outcome = f"detected as {names[column]}" if column < size else "not found"
    return ConfusionCell(
        text=str(count or "·"),
        css_class=" ".join(name for name, applies in css_classes if applies),
        share=count / total if total else 0.0,
        title=f"{source}: {count} of {total} {outcome}",
    )


def _pairs_table(analysis: ErrorAnalysis, count: int = 8) -> Table | None:
    names, objects = short_names(analysis.split.class_names), object_counts(analysis)
    pairs = confused_pairs(analysis)[:count]
    rows = [[names[row], names[column], f"{number} of {objects[row]}"] for number, row, column in pairs]
    return Table(["object", "detected as", "count"], rows, caption="Most frequent confusions") if rows else None
