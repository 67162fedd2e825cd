"""Tables and charts of the page of errors: groups of objects, thresholds, calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sais.evaluation.calibration import Calibration
from sais.evaluation.coco_metrics import format_ap
from sais.evaluation.error_groups import ErrorGroups, Group
from sais.evaluation.score_thresholds import OperatingPoint
from sais.reports.charts import Chart, Series, format_fraction, line_chart
from sais.reports.html_tables import Table
from sais.text import short_name

MAX_ROWS = 30
"""Number of classes, those with the most objects, that are shown unfolded."""
MAX_CHARTS = 12
"""Maximum number of classes whose reliability is drawn, those with the most detections."""


@dataclass(frozen=True)
class GroupTable:
    """A table of groups, of which some are folded."""

    title: str
    note: str
    table: Table
    folded: Table | None = None


def fraction(value: float | None) -> str:
    """Format a fraction of 1: "0.384"; "-" for None and NaN."""
    return format_ap(value)


def group_tables(groups: ErrorGroups, shape: str) -> list[GroupTable]:
    """Tabulate the outcomes by class, size and crowding.

    Args:
        groups: outcomes.
        shape: "mask" or "box".
    """
    classes = sorted((g for g in groups.classes if g.objects or g.detections), key=lambda group: -group.objects)
    folded = _table("class", classes[MAX_ROWS:], shape) if len(classes) > MAX_ROWS else None
    size_note = "Area below 32 x 32 pixels, from there to 96 x 96, and above. A detection has the size of its own area."
    crowding_note = "A neighbor is an object of any class whose box overlaps that of the object."
    return [
        GroupTable("By class", "", _table("class", classes[:MAX_ROWS], shape), folded),
        GroupTable("By size", size_note, _table("size", groups.sizes, shape)),
        GroupTable("By crowding", crowding_note, _table("object with", groups.crowding, shape)),
    ]


def _table(name: str, groups: Sequence[Group], shape: str) -> Table:
    with_detections = any(group.detections is not None for group in groups)
    columns = [name, "objects", "recall", "mean IoU", "wrong class", f"poor {shape}", "missed"]
    columns += ["detections", "precision", "AP"] if with_detections else []
    rows = []
    for group in groups:
        numbers = [str(group.objects), fraction(group.recall), fraction(group.mean_iou)]
        numbers += [str(count) for count in (group.wrong_class, group.poor, group.missed)]
        if with_detections:
            numbers += [str(group.detections), fraction(group.precision), fraction(group.ap)]
        rows.append([short_name(group.name), *numbers])
    return Table(columns, rows)


def threshold_table(overall: OperatingPoint | None, per_class: Mapping[str, OperatingPoint]) -> Table | None:
    """Tabulate the best thresholds and what they reach; None if no detection is correct."""
    if overall is None:
        return None
    rows = [_threshold_row("all classes", overall)]
    rows += [_threshold_row(short_name(name), point) for name, point in per_class.items()]
    return Table(["class", "score from", "precision", "recall", "F1", "reached"], rows)


def _threshold_row(name: str, point: OperatingPoint) -> list[str]:
    numbers = [f"{point.score:.3g}", *(fraction(value) for value in (point.precision, point.recall, point.f1))]
    return [name, *numbers, "yes" if point.reached else "no"]


def calibration_charts(overall: Calibration | None, per_class: Mapping[str, Calibration]) -> list[Chart]:
    """Draw reliability diagrams: precision over score, of all detections and of the classes with the most."""
    if overall is None:
        return []
    classes = sorted(per_class.items(), key=lambda item: -item[1].detections)[:MAX_CHARTS]
    shown = [("all classes", overall), *((short_name(name), item) for name, item in classes)]
    return [_reliability(number, name, item) for number, (name, item) in enumerate(shown)]


def _reliability(number: int, name: str, item: Calibration) -> Chart:
    points = [(bin.score, bin.precision) for bin in item.bins]
    series = (
        Series("precision", points, 0),
        Series("calibrated", [(0.0, 0.0), (1.0, 1.0)], 1, dashed=True),
    )
    title, limits = f"{name}, error {item.expected_error:.3f}", (0.0, 1.0)
    label = f"precision over score: {name}"
    svg = line_chart(f"reliability-{number}", series, label, "score", format_fraction, limits, limits, markers=True)
    return Chart(title, svg, series)


def calibration_table(overall: Calibration | None, per_class: Mapping[str, Calibration]) -> Table | None:
    """Tabulate the bins of all detections, and the errors of the classes below; None without detections."""
    if overall is None:
        return None
    rows = [
        [f"{bin.low:.1f} to {bin.high:.1f}", str(bin.detections), fraction(bin.score), fraction(bin.precision)]
        for bin in overall.bins
    ]
    return Table(["score", "detections", "mean score", "precision"], rows)
