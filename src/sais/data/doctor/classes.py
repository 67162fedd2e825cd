"""Findings about the classes of all splits together: rare ones, and those that a split lacks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from sais.data.doctor import kinds
from sais.data.doctor.report import CheckReport
from sais.data.packed_annotations import object_columns


def check_classes(reports: Sequence[CheckReport]) -> None:
    """Add the rare classes of the training split, and the classes that each split lacks.

    Args:
        reports: A report for each split; the first is that of the training split.
    """
    counts = [_count_objects(report) for report in reports]
    for report, own in zip(reports, counts, strict=True):
        if not own:
            continue  # labels are missing altogether
        for name in report.split.class_names:
            others = [
                f"{other[name]} in {compared.split.name}"
                for compared, other in zip(reports, counts, strict=True)
                if compared is not report and other[name]
            ]
            if not own[name] and others:
                report.add(kinds.MISSING_IN_SPLIT, f"{name}: {', '.join(others)}")
    if reports:
        for name in reports[0].split.class_names:
            if 0 < counts[0][name] < kinds.RARE_OBJECTS:
                count = counts[0][name]
                reports[0].add(kinds.RARE_CLASS, f"{name}: {count} object{'' if count == 1 else 's'}")


def _count_objects(report: CheckReport) -> Counter[str]:
    """Return the number of objects of each class without crowd regions."""
    names = report.split.class_names
    columns = object_columns(report.split.images)
    return Counter(names[label] for label in columns.labels[~columns.crowds].tolist())
