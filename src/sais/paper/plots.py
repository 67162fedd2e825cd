"""Plots of a table's runs: AP of each row and seed, losses and AP over the course of training, as SVG text."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sais.paper.comparison import MAIN_METRIC, NOT_RUN, RowSummary, summarize_rows
from sais.paper.tables import ROWS, PaperTable
from sais.reports.charts import INK, MEASURED, PAPER, SERIES_COLORS, loss_limits, render_svg, smooth
from sais.reports.log_entries import read_log
from sais.text import short_name

if TYPE_CHECKING:
    from sais.paper.runs import RunResult

MARKERS = "osD^vP"
"""Markers of the rows in plots over epochs."""
WIDTH = 750
"""Width of a plot in SVG units; a page shows it at up to 1000 pixels."""
LOSS_TERMS = ("total", "classification", "box", "centerness", "mask")

Curve = tuple[str, int, list[tuple[float, float]]]
"""Row, seed, and (x, y) points of a line."""


def plot_ap(table: PaperTable, results: Sequence[RunResult]) -> str:
    """Plot the AP of each row: a dot for each seed, a bar for the mean, the paper's figures on axes of their own.

    Both axes have the same scale, so that a difference has the same width on both.
    """
    summaries = summarize_rows(table, results)
    columns = [f"{kind} {name}" for kind, name in table.columns if name == MAIN_METRIC]
    panels = {column: _rows_of_column(summaries, column) for column in columns}
    panels = {column: rows for column, rows in panels.items() if rows}
    data = ", ".join(dict.fromkeys(short_name(result.data["name"]) for result in results)) or NOT_RUN

    def draw(figure: Any) -> None:
        """Draw two panels for each kind of AP: measured, paper."""
        heights = [len(rows) + 1.1 for rows in panels.values()]
        all_axes = figure.subplots(
            len(panels), 2, squeeze=False, sharey="row", gridspec_kw={"height_ratios": heights, "width_ratios": (3, 2)}
        )
        for (measured, paper), (column, rows) in zip(all_axes, panels.items(), strict=True):
            _draw_measured(measured, rows, column, table)
            _draw_paper(paper, rows, column)
            span = max(_span(measured), _span(paper) * 1.5)
            _set_span(measured, span)
            _set_span(paper, span / 1.5)
            for axes, color, label in ((measured, MEASURED, f"measured ({data})"), (paper, PAPER, "paper (COCO)")):
                axes.set_facecolor(color)
                axes.set_xlabel(f"{column}, {label}")
                axes.tick_params(left=False)
                axes.grid(axis="x")

    height = sum(37 * len(rows) + 68 for rows in panels.values())
    label = f"{table.title}: AP of each row, measured and in the paper"
    return render_svg(f"{table.key}-ap", label, (WIDTH, height), draw, layout="constrained")


def plot_losses(table: PaperTable, results: Sequence[RunResult], logs: Mapping[str, Path]) -> str | None:
    """Plot the smoothed losses over iterations: a panel for each term, a color for each row, a line for each seed.

    Args:
        table: table of the runs.
        results: results of the runs.
        logs: digest of a run, or name of its folder -> its log.jsonl or the folder that contains it.

    Returns:
        An <svg> element; None where no log has a loss.
    """
    curves: dict[str, list[Curve]] = {}
    for result, entries in _read_logs(table, results, logs):
        iterations = [entry for entry in entries if entry["kind"] == "iteration"]
        for term in LOSS_TERMS:
            points = [(e["iteration"], e[term]) for e in iterations if math.isfinite(e.get(term, math.nan))]
            if points:
                curves.setdefault(term, []).append((result.row, result.seed, smooth(points)))
    if not curves:
        return None

    def finish(axes: Any, name: str) -> None:
        axes.set_ylim(loss_limits([points for *_, points in curves[name]]))

    return _plot_panels(f"{table.key}-loss", f"{table.title}: losses in training", table, curves, finish, "iteration")


def plot_ap_over_epochs(table: PaperTable, results: Sequence[RunResult], logs: Mapping[str, Path]) -> str | None:
    """Plot AP over epochs for runs that were evaluated during training.

    Args:
        table: table of the runs.
        results: results of the runs.
        logs: digest of a run, or name of its folder -> its log.jsonl or the folder that contains it.

    Returns:
        An <svg> element; None where no log has an evaluation.
    """
    curves: dict[str, list[Curve]] = {}
    for result, entries in _read_logs(table, results, logs):
        for kind, name in table.columns:
            if name != MAIN_METRIC or table.kinds.get(result.row, kind) != kind:
                continue
            scores = [(e["epoch"] + 1, (e["metrics"].get(kind) or {}).get(name)) for e in entries if "metrics" in e]
            points = [(float(epoch), 100 * value) for epoch, value in scores if value is not None]
            if points:
                curves.setdefault(f"{kind} {name}", []).append((result.row, result.seed, points))
    if not curves:
        return None

    def finish(axes: Any, name: str) -> None:
        axes.set_ylim(bottom=0)
        axes.locator_params(axis="x", integer=True)

    return _plot_panels(f"{table.key}-epochs", f"{table.title}: AP over epochs", table, curves, finish, "epoch")


def _read_logs(
    table: PaperTable, results: Sequence[RunResult], logs: Mapping[str, Path]
) -> list[tuple[RunResult, list[dict[str, Any]]]]:
    """Each run of the table with the entries of its log, in the order of the rows."""
    pairs = []
    for row in table.rows:
        for result in results:
            path = logs.get(result.digest) or logs.get(f"{row}-seed{result.seed}-{result.digest}")
            if result.row == row and path is not None:
                pairs.append((result, read_log(path)))
    return pairs


def _rows_of_column(summaries: Sequence[RowSummary], column: str) -> list[RowSummary]:
    """The rows that are compared by a column."""
    kind = column.split(" ", 1)[0]
    return [summary for summary in summaries if (summary.kind or kind) == kind]


def _draw_measured(axes: Any, rows: Sequence[RowSummary], column: str, table: PaperTable) -> None:
    """Draw the measured values, the first row on top."""
    axes.set_yticks(range(len(rows)), [row.title for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    for position, row in enumerate(rows):
        values, mean = row.values(column), row.mean(column)
        if mean is None:
            text, transform = (NOT_RUN if not row.seeds else "-"), axes.get_yaxis_transform()
            axes.text(0.5, position, text, ha="center", va="center", transform=transform, style="italic")
            continue
        color = SERIES_COLORS[table.rows.index(row.row) % len(SERIES_COLORS)]
        # Each seed has a height of its own, so that equal values do not hide each other.
        heights = [position + 0.09 * (i - (len(values) - 1) / 2) for i in range(len(values))]
        if len(values) > 1:
            axes.plot([min(values), max(values)], [position, position], color=color, linewidth=2, alpha=0.35)
            axes.plot([mean, mean], [position - 0.27, position + 0.27], color=color, linewidth=2.5)
        axes.scatter(values, heights, s=42, color=color, alpha=0.8, linewidths=0, zorder=3)
        axes.annotate(
            f"{mean:.1f}", (max(values), position), (9, 0), textcoords="offset points", va="center", weight="bold"
        )


def _draw_paper(axes: Any, rows: Sequence[RowSummary], column: str) -> None:
    """Draw the paper's figures."""
    axes.tick_params(labelleft=False)
    for position, row in enumerate(rows):
        value = row.paper.get(column)
        if value is None:
            axes.text(0.5, position, "-", ha="center", va="center", transform=axes.get_yaxis_transform())
            continue
        axes.scatter([value], [position], s=52, marker="D", facecolors="none", edgecolors=INK, linewidths=1.4)
        axes.annotate(f"{value:.1f}", (value, position), (9, 0), textcoords="offset points", va="center")


def _span(axes: Any) -> float:
    low, high = axes.dataLim.intervalx
    return max(1.0, 1.45 * (high - low)) if high >= low else 1.0


def _set_span(axes: Any, span: float) -> None:
    """Show `span` of AP around the data, with more room on the right, where the numbers are."""
    low, high = axes.dataLim.intervalx
    if high < low:
        axes.set_xlim(0, span)
        axes.set_xticks([])
    else:
        middle = (low + high) / 2 + 0.05 * span
        axes.set_xlim(middle - span / 2, middle + span / 2)
        axes.locator_params(axis="x", nbins=6)


def _plot_panels(
    name: str,
    label: str,
    table: PaperTable,
    curves: Mapping[str, Sequence[Curve]],
    finish: Callable[[Any, str], None],
    x_label: str,
) -> str:
    """A panel for each of `curves`, finished by `finish(axes, its name)`, and one legend."""
    columns = min(3, len(curves) + 1)
    rows = -(-(len(curves) + 1) // columns)

    def draw(figure: Any) -> None:
        """Draw the panels, and the legend in the first free place."""
        panels = figure.subplots(rows, columns, squeeze=False).flatten()
        handles: dict[str, Any] = {}
        for index, (axes, (title, lines)) in enumerate(zip(panels, curves.items(), strict=False)):
            seeds = max(sum(row == other for other, *_ in lines) for row, *_ in lines)
            for row, _, points in lines:
                number = table.rows.index(row)
                style: dict[str, Any] = {"color": SERIES_COLORS[number % len(SERIES_COLORS)]}
                style["linewidth"] = 1.7 if seeds == 1 else 1.1
                if x_label == "epoch":
                    style |= {"marker": MARKERS[number % len(MARKERS)], "markersize": 4.5}
                (handles[row],) = axes.plot(*zip(*points, strict=True), alpha=0.9, **style)
            axes.set_title(title, loc="left")
            axes.grid(axis="y")
            if index + columns >= len(curves):  # only the legend is below
                axes.set_xlabel(x_label)
            finish(axes, title)
        for axes in panels[len(curves) :]:
            axes.axis("off")
        ordered = [row for row in table.rows if row in handles]
        titles = [ROWS[row].title if row in ROWS else row for row in ordered]
        panels[len(curves)].legend([handles[row] for row in ordered], titles, loc="upper left", borderaxespad=0)

    return render_svg(name, label, (WIDTH, 180 * rows), draw, layout="constrained")
