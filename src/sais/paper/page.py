"""The page of `sais reproduce`: one HTML file with its plots inside and links to its images, without scripts.

A page consists of sections, and a section of tables, plots and images on any subject. Columns named "paper: ..." and
"measured: ..." are separated by a heading and a color of their own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING
from urllib.parse import quote

from sais.io.atomic import write_text
from sais.paper import plots
from sais.paper.comparison import (
    MAIN_METRIC,
    PAPER_DATA,
    RULE,
    Comparison,
    compare_rows,
    summarize_rows,
    table_cells,
)
from sais.paper.tables import PaperTable
from sais.paper.wording import describe_conditions, format_difference, format_epochs
from sais.reports.html import render_page
from sais.reports.html_tables import Table

if TYPE_CHECKING:
    from sais.paper.runs import RunResult

AP_CAPTION = (
    "A dot for each seed, an upright bar for the mean; open diamonds are the paper's figures, of another data set. "
    "Both axes have the same scale."
)
LOSSES_CAPTION = "Smoothed losses; a line for each seed. The first steps may be above the plot area."
EPOCHS_CAPTION = "AP over the course of training; a line for each seed."
FIGURES_NOTE = "AP in percent, the mean over the seeds, with the worst and the best seed in parentheses"
TITLE = "SAIS, reproduced"
INTRO = (
    "The tables and figures of “SAIS: Single-stage Anchor-free Instance Segmentation” (Xiang, Tian, Zou, Xu), measured "
    "again. The paper's figures and the measured ones are of different data sets, schedules and machines: only "
    "differences between rows can be compared."
)


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading."""

    title: str
    intro: str
    """First paragraph."""
    tables: tuple[Table, ...] = ()
    plots: tuple[tuple[str, str], ...] = ()
    """(<svg> element, caption); the only HTML that is not escaped."""
    images: tuple[tuple[Path, str], ...] = ()
    """(file, caption); the page links to the file."""
    notes: tuple[tuple[str, str], ...] = ()
    """(name, text) about the measurement and the columns."""
    commands: tuple[str, ...] = ()
    """Commands that made the section."""
    findings: tuple[str, ...] = ()
    """Results, one line each, repeated below the title in the contents."""


def table_section(
    table: PaperTable,
    results: Sequence[RunResult],
    logs: Mapping[str, Path] | None = None,
    commands: Sequence[str] = (),
) -> Section:
    """Make the section of a table of the paper.

    Args:
        table: table of the paper.
        results: results of runs; those of other rows are ignored.
        logs: digest of a run, or name of its folder -> its log.jsonl or folder, for curves; runs without a log have
            no curves.
        commands: commands that made the results.
    """
    results, logs = [result for result in results if result.row in table.rows], logs or {}
    summaries = summarize_rows(table, results)
    comparisons = compare_rows(table, summaries)
    conditions = describe_conditions(results) if results else {}
    tables = [Table(*table_cells(table, summaries), headings=_headings(results, conditions))]
    if comparisons:
        tables.append(_comparison_table(comparisons))
    drawn = (
        (plots.plot_ap(table, results), AP_CAPTION),
        (plots.plot_losses(table, results, logs), LOSSES_CAPTION),
        (plots.plot_ap_over_epochs(table, results, logs), EPOCHS_CAPTION),
    )
    notes = [("paper", f"{PAPER_DATA}, as printed in the paper"), *conditions.items(), ("figures", FIGURES_NOTE)]
    main = [comparison for comparison in comparisons if comparison.column.endswith(f" {MAIN_METRIC}")]
    return Section(
        title=table.title,
        intro=f"The paper's claim: {table.claim}",
        tables=tuple(tables),
        plots=tuple((svg, caption) for svg, caption in drawn if svg),
        notes=(*notes, *([("verdict", RULE)] if comparisons else [])),
        commands=tuple(commands),
        findings=tuple(f"{c.title} against {c.baseline}: {c.column} {c.verdict()}" for c in main),
    )


def write_page(out: Path, sections: Sequence[Section], title: str = TITLE, intro: str = INTRO) -> Path:
    """Write index.html atomically and return its path.

    Args:
        out: folder of the page; links to images are relative to it.
        sections: sections in their order.
        title: title of the page.
        intro: paragraph below the title.

    Raises:
        MissingDependencyError: jinja2 is not installed.
    """
    views = []
    for section, identifier in zip(sections, _ids(sections), strict=True):
        images = [(quote(Path(os.path.relpath(path, out)).as_posix()), caption) for path, caption in section.images]
        commands = [command for command in section.commands if command]
        views.append(vars(section) | {"id": identifier, "images": images, "commands": commands})
    path = out / "index.html"
    write_text(path, render_page("paper.html.jinja", title=title, intro=intro, sections=views))
    return path


def _headings(results: Sequence[RunResult], conditions: Mapping[str, str]) -> dict[str, str]:
    """The headings above the columns of a table; the second line names the source of the figures."""
    if not results:
        return {"paper": f"paper\n{PAPER_DATA}", "measured": "measured\nnothing yet"}
    names = ", ".join(dict.fromkeys(str(result.data["name"]) for result in results))
    seeds = f"seed{'s' if ',' in conditions['seeds'] else ''} {conditions['seeds']}"
    parts = (names, format_epochs(results), seeds, conditions["machine"])
    return {"paper": f"paper\n{PAPER_DATA}", "measured": "measured\n" + " · ".join(parts)}


def _comparison_table(comparisons: Sequence[Comparison]) -> Table:
    columns = ["row", "baseline", "metric", "paper: difference", "measured: difference of means"]
    columns += ["measured: spread of seeds", "measured: seed by seed", "measured: verdict"]
    rows = []
    for comparison in comparisons:
        paper, means = (
            format_difference(value) if value is not None else "-"
            for value in (comparison.paper, comparison.difference)
        )
        spread = f"{comparison.spread:.1f}" if comparison.spread is not None else "-"
        verdict = comparison.verdict().rpartition(": ")[2]
        names = [comparison.title, comparison.baseline, comparison.column]
        rows.append([*names, paper, means, spread, _format_pairs(comparison), verdict])
    return Table(columns, rows, caption="Differences that the claim is about")


def _format_pairs(comparison: Comparison) -> str:
    values = list(comparison.paired.values())
    if not values:
        return "-"
    spread = f"seed {next(iter(comparison.paired))}"
    if len(values) > 1:
        spread = f"{format_difference(min(values))} to {format_difference(max(values))}"
    return f"{format_difference(fmean(values))} ({spread})"


def _ids(sections: Sequence[Section]) -> list[str]:
    """A unique id for each section, made of its title."""
    ids: list[str] = []
    for section in sections:
        slug = re.sub(r"[^a-z0-9]+", "-", section.title.lower()).strip("-") or "section"
        ids.append(slug if slug not in ids else f"{slug}-{len(ids) + 1}")
    return ids
