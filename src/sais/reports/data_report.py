"""The report of `sais doctor` on a data set: one HTML file with its findings as images, its statistics and the recipe.

The page needs no network. Its size is bounded: thumbnails are omitted and counted above `MAX_CHARACTERS`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sais.data.doctor.findings import SEVERITIES, Case, Finding, Severity
from sais.data.doctor.remedies import explain
from sais.data.doctor.report import CheckReport
from sais.data.doctor.statistics import measure_split
from sais.data.formats.unsplit import whole_sets
from sais.data.packed_annotations import object_columns
from sais.io.atomic import write_text
from sais.recipes import recipe
from sais.recipes.recommendation import FIRST_RECIPE, Recommendation
from sais.reports import data_tables
from sais.reports.finding_images import Thumbnail, choose_cases, draw_cases
from sais.reports.html import render_page
from sais.reports.html_tables import Table
from sais.text import MAX_NAME, printable, short_name

MAX_IMAGES: dict[Severity, int] = {"ERROR": 10, "WARNING": 10, "NOTE": 5}
"""Severity -> maximum number of cases of a finding that are shown as images."""
MAX_LISTED = 40
"""Maximum number of cases of a finding that are listed."""
MAX_CHARACTERS = 4_000_000
"""Maximum number of characters of all thumbnails."""
MAX_TEXT = 3 * MAX_NAME
"""Maximum number of characters of a case."""


@dataclass(frozen=True)
class KeyFigure:
    """A number at the top of the page."""

    name: str
    value: str
    detail: str


@dataclass(frozen=True)
class CaseFigure:
    """A case with its images."""

    thumbnails: tuple[Thumbnail, ...]
    caption: str


@dataclass
class FindingSection:
    """A kind of finding, of all splits together."""

    id: str
    severity: Severity
    kind: str
    counts: dict[str, int] = field(default_factory=dict)
    """Number of cases in each split."""
    remarks: list[str] = field(default_factory=list)
    cases: list[Case] = field(default_factory=list)
    figures: list[CaseFigure] = field(default_factory=list)
    reason: str = ""
    remedy: str = ""
    is_repaired: bool = False
    """Whether a repaired copy of the data set lacks it."""

    @property
    def is_common(self) -> bool:
        """Whether all splits have the same finding, such as a class without objects, and not cases of their own."""
        return len(self.counts) > 1 and not self.cases and len(self.remarks) == 1

    @property
    def count(self) -> int:
        """Number of cases in all splits."""
        return max(self.counts.values()) if self.is_common else sum(self.counts.values())

    @property
    def splits(self) -> str:
        """The number of cases in each split: "3 in train, 1 in valid"."""
        names = [short_name(name) for name in self.counts]
        if self.is_common:
            return ", ".join(names)
        return ", ".join(f"{count} in {name}" for count, name in zip(self.counts.values(), names, strict=True))

    @property
    def texts(self) -> list[str]:
        """The first cases, one line each."""
        return [printable(case.text, MAX_TEXT) for case in self.cases[:MAX_LISTED]]

    @property
    def is_shown(self) -> bool:
        """Whether every case is shown as an image, with its text below."""
        return len(self.figures) == self.count

    @property
    def unlisted(self) -> int:
        """Number of cases that are not listed."""
        return max(0, self.count - len(self.texts)) if self.cases else 0


@dataclass(frozen=True)
class DataStatistics:
    """What the page shows of the contents of a data set."""

    splits: Table
    classes: data_tables.ClassTable
    histograms: tuple[data_tables.Histogram, ...]
    positions: data_tables.PositionMap


def write_data_report(
    reports: Sequence[CheckReport],
    path: Path,
    title: str,
    recommendation: Recommendation | None = None,
    errors: Mapping[str, Sequence[str]] | None = None,
) -> Path:
    """Write the report of a data set as one HTML file and return its path.

    Args:
        reports: a report for each split that could be read.
        path: file to write.
        title: name of the data set.
        recommendation: how to train on it.
        errors: errors of whole splits by name.

    Raises:
        MissingDependencyError: jinja2 is not installed.
        ResourceError: the file cannot be written.
    """
    write_text(path, render_data_report(reports, title, recommendation, errors))
    return path


def render_data_report(
    reports: Sequence[CheckReport],
    title: str,
    recommendation: Recommendation | None = None,
    errors: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """Render the report as HTML; the arguments are those of `write_data_report`."""
    findings = merge_findings(reports)
    omitted = _add_images(findings, reports)
    problems = [
        printable(f"{short_name(name)}: {error}", MAX_TEXT) for name, lines in (errors or {}).items() for error in lines
    ]
    input_size = recipe(FIRST_RECIPE).input.size if recommendation is None else recommendation.size
    return render_page(
        "data_report.html.jinja",
        ("run_report.css", "data_report.css"),
        title=title or "data set",
        subtitle=_subtitle(reports),
        problems=problems[:MAX_LISTED],
        unlisted_problems=max(0, len(problems) - MAX_LISTED),
        key_figures=_key_figures(reports, findings, len(problems)),
        findings=findings,
        omitted=omitted,
        statistics=_statistics(_distinct(reports), input_size) if reports else None,
        recommendation=recommendation,
    )


def merge_findings(reports: Sequence[CheckReport]) -> list[FindingSection]:
    """Return the findings of all splits by kind, errors first."""
    sections: dict[tuple[Severity, str], FindingSection] = {}
    for report in reports:
        for finding in report.all_findings():
            _add_finding(sections, finding, report.split.name)
    ordered = sorted(sections.values(), key=lambda section: SEVERITIES.index(section.severity))
    for number, section in enumerate(ordered, 1):
        section.id = f"finding-{number}"
    return ordered


def _add_finding(sections: dict[tuple[Severity, str], FindingSection], finding: Finding, split: str) -> None:
    section = sections.get((finding.severity, finding.kind))
    if section is None:
        explanation = explain(finding.kind, finding.severity)
        section = FindingSection("", finding.severity, finding.kind)
        section.reason, section.remedy = explanation.reason, explanation.remedy
        section.is_repaired = explanation.repaired
        sections[finding.severity, finding.kind] = section
    section.counts[split] = section.counts.get(split, 0) + finding.count
    section.cases += finding.cases
    if finding.remark and finding.remark not in section.remarks:
        section.remarks.append(finding.remark)


def _add_images(sections: Sequence[FindingSection], reports: Sequence[CheckReport]) -> int:
    """Add the images of the findings, and return the number of cases whose images were omitted."""
    chosen = [
        (section, section.cases[position])
        for section in sections
        for position in choose_cases(section.cases, MAX_IMAGES[section.severity])
    ]
    splits = {report.split.name: report.split for report in reports}
    budget, omitted = MAX_CHARACTERS, 0
    thumbnails = draw_cases([case for _, case in chosen], splits)
    for (section, case), images in zip(chosen, thumbnails, strict=True):
        size = sum(len(image.source) for image in images)
        if size > budget:
            omitted += 1
        elif images:
            budget -= size
            section.figures.append(CaseFigure(tuple(images), printable(case.text, MAX_TEXT)))
    return omitted


def _distinct(reports: Sequence[CheckReport]) -> list[CheckReport]:
    """Return the reports without those of splits that contain all images of another one."""
    whole = whole_sets([report.split for report in reports])
    return [report for report in reports if report.split.name not in whole] or list(reports)


def _subtitle(reports: Sequence[CheckReport]) -> str:
    formats = dict.fromkeys(report.split.origin.partition(",")[0] for report in reports)
    names = ", ".join(short_name(report.split.name) for report in reports)
    return " · ".join(filter(None, [", ".join(filter(None, formats)), names]))


def _key_figures(reports: Sequence[CheckReport], findings: Sequence[FindingSection], problems: int) -> list[KeyFigure]:
    splits = [report.split for report in _distinct(reports)]
    objects = sum(int((~object_columns(split.images).crowds).sum()) for split in splits)
    names = {name for split in splits for name in split.class_names}
    counts = {severity: sum(s.severity == severity for s in findings) for severity in SEVERITIES}
    images = sum(len(split.images) for split in splits)
    per_image = f"{objects / images:.1f} per image" if images else ""
    return [
        KeyFigure("images", str(images), f"{len(splits)} split{'s' if len(splits) != 1 else ''}"),
        KeyFigure("objects", str(objects), per_image),
        KeyFigure("classes", str(len(names)), ""),
        KeyFigure("errors", str(counts["ERROR"] + problems), "stop training or make it wrong"),
        KeyFigure("warnings", str(counts["WARNING"]), "probably cost accuracy"),
        KeyFigure("notes", str(counts["NOTE"]), "for information"),
    ]


def _statistics(reports: Sequence[CheckReport], input_size: tuple[int, int]) -> DataStatistics:
    splits = [report.split for report in reports]
    measured = [measure_split(split, input_size) for split in splits]
    sides, input_sides, centers, aspects, counts, sizes = (
        np.concatenate([getattr(values, name) for values in measured])
        for name in ("sides", "input_sides", "centers", "aspect_ratios", "objects_per_image", "image_sizes")
    )
    height, width = input_size
    size_note = "Square root of the area of each object."
    input_note = "What is left when an image is resized to the recommended input. Below 8 px, little is learned."
    return DataStatistics(
        data_tables.split_table(splits),
        data_tables.class_table(splits),
        (
            data_tables.size_histogram("Object size in the image", sides, size_note),
            data_tables.size_histogram(f"Object size in the input of {width} x {height}", input_sides, input_note),
            data_tables.count_histogram(counts),
            data_tables.aspect_histogram(aspects),
            data_tables.image_size_histogram(sizes),
        ),
        data_tables.position_map(centers),
    )
