"""Plots of a table's runs as SVG text: AP of each row and seed, losses and AP over the course of training.

The text of an SVG stays text, and its colors are CSS variables with a value to fall back on (`--ink`, `--series-1`
..), so that a page may restyle both, for instance for a dark screen. The same data gives the same SVG, byte
by byte. Needs matplotlib (the extra `reproduce`), imported when the first plot is drawn.
"""

from __future__ import annotations

import html
import io
import math
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sais.paper.comparison import MAIN, NOT_RUN, RowSummary, rows_of
from sais.paper.tables import ROWS, PaperTable
from sais.reports.run_record import read_log

if TYPE_CHECKING:
    from sais.paper.runs import RunResult

COLORS = ("#0072b2", "#d55e00", "#009e73", "#a5528c", "#8c6d00", "#3a9bd4")
"""Of the rows, told apart also by those who do not see all colors (after Okabe and Ito); `--series-1` and so on."""
MARKERS = "osD^vP"
SHADES = {"ink": "#1b2126", "grid": "#c3c9ce", "paper": "#f6f0e2", "measured": "#e9f2f8"}
"""Text and axes, grid, and the grounds of the two kinds of figures; `--ink` and so on."""
WIDTH = 10.4
"""Inches, for a page of 1000 pixels."""
POINTS = 160
"""Most points of a curve; each is the mean of the iterations around it."""
TERMS = ("total", "classification", "box", "centerness", "mask")

Curve = tuple[str, int, list[float], list[float]]
"""Row, seed, x and y of a line."""


def ap_per_row(table: PaperTable, results: Sequence[RunResult]) -> str:
    """AP of each row: a dot for each seed, a bar for their mean; the paper's figures on axes of their own.

    Both axes are equally long in AP, so that a difference is as wide here as there.
    """
    lines = rows_of(table, results)
    groups = {column: _judged(lines, column) for column in _main_columns(table)}
    groups = {column: mine for column, mine in groups.items() if mine}
    data = ", ".join(dict.fromkeys(str(result.data["name"]) for result in results)) or NOT_RUN

    def paint(figure: Any) -> None:
        """Two panels for each kind of AP: measured, paper."""
        heights = [len(mine) + 1.1 for mine in groups.values()]
        panels = figure.subplots(
            len(groups), 2, squeeze=False, sharey="row", gridspec_kw={"height_ratios": heights, "width_ratios": (3, 2)}
        )
        for (ours, paper), (column, mine) in zip(panels, groups.items(), strict=True):
            _dots(ours, mine, column, table)
            _diamonds(paper, mine, column)
            span = max(_span(ours), _span(paper) * 1.5)
            _widen(ours, span)
            _widen(paper, span / 1.5)
            for axes, name, label in ((ours, "measured", f"measured ({data})"), (paper, "paper", "paper (COCO)")):
                axes.set_facecolor(SHADES[name])
                axes.set_xlabel(f"{column}, {label}")
                axes.tick_params(left=False)
                axes.grid(axis="x")

    height = sum(0.52 * len(mine) + 0.95 for mine in groups.values())
    return _svg(f"{table.key}-ap", f"{table.title}: AP of each row, measured and in the paper", height, paint)


def loss_curves(table: PaperTable, results: Sequence[RunResult], logs: Mapping[str, Path]) -> str | None:
    """The losses over iterations, smoothed: a panel for each term, a color for each row, a thin line for each seed.

    Args:
        logs: digest of a run (or name of its folder) -> its log.jsonl, or the folder it lies in.

    Returns:
        None where no log has a loss.
    """
    curves: dict[str, list[Curve]] = {}
    for result, entries in _logs(table, results, logs):
        mine = [entry for entry in entries if entry["kind"] == "iteration"]
        for term in TERMS:
            points = [(e["iteration"], e[term]) for e in mine if math.isfinite(e.get(term, math.nan))]
            if points:
                curves.setdefault(term, []).append((result.row, result.seed, *_smoothed(points)))
    if not curves:
        return None

    def paint(panel: Any, name: str) -> None:
        # The first steps are so much higher that they would flatten all the rest.
        settled = [y for _, _, xs, ys in curves[name] for x, y in zip(xs, ys, strict=True) if x >= 0.1 * xs[-1]]
        low, high = min(settled), max(settled)
        panel.set_ylim(max(0.0, low - 0.08 * (high - low)), high + 0.12 * (high - low) + 1e-6)

    return _panels(f"{table.key}-loss", f"{table.title}: losses in training", table, curves, paint, "iteration")


def evaluation_curves(table: PaperTable, results: Sequence[RunResult], logs: Mapping[str, Path]) -> str | None:
    """AP over epochs, where runs were evaluated on the way (`--evaluate-every`).

    Args:
        logs: as in `loss_curves`.

    Returns:
        None where no log has an evaluation.
    """
    curves: dict[str, list[Curve]] = {}
    for result, entries in _logs(table, results, logs):
        for column in _main_columns(table):
            kind, name = column.split(" ", 1)
            if table.kinds.get(result.row, kind) != kind:
                continue
            found = [(e["epoch"] + 1, (e["metrics"].get(kind) or {}).get(name)) for e in entries if "metrics" in e]
            points = [(float(epoch), 100 * value) for epoch, value in found if value is not None]
            if points:
                xs, ys = zip(*points, strict=True)
                curves.setdefault(column, []).append((result.row, result.seed, list(xs), list(ys)))
    if not curves:
        return None

    def paint(panel: Any, name: str) -> None:
        panel.set_ylim(bottom=0)
        panel.locator_params(axis="x", integer=True)

    return _panels(f"{table.key}-epochs", f"{table.title}: AP over epochs", table, curves, paint, "epoch")


def _logs(
    table: PaperTable, results: Sequence[RunResult], logs: Mapping[str, Path]
) -> list[tuple[RunResult, list[dict[str, Any]]]]:
    """Each run of the table with its log, row by row."""
    found = []
    for row in table.rows:
        for result in results:
            path = logs.get(result.digest) or logs.get(f"{row}-seed{result.seed}-{result.digest}")
            if result.row == row and path is not None:
                found.append((result, read_log(path)))
    return found


def _main_columns(table: PaperTable) -> list[str]:
    return [f"{kind} {name}" for kind, name in table.columns if name == MAIN]


def _judged(lines: Sequence[RowSummary], column: str) -> list[RowSummary]:
    """The lines that a column is about."""
    kind = column.split(" ", 1)[0]
    return [line for line in lines if (line.kind or kind) == kind]


def _dots(axes: Any, lines: Sequence[RowSummary], column: str, table: PaperTable) -> None:
    """What was measured; the first line on top."""
    axes.set_yticks(range(len(lines)), [line.title for line in lines])
    axes.set_ylim(len(lines) - 0.4, -0.6)
    for place, line in enumerate(lines):
        values, mean = line.values(column), line.mean(column)
        if mean is None:
            said = NOT_RUN if not line.seeds else "-"
            axes.text(0.5, place, said, ha="center", va="center", transform=axes.get_yaxis_transform(), style="italic")
            continue
        color = COLORS[table.rows.index(line.row) % len(COLORS)]
        # A lane for each seed, so that equal values do not hide each other.
        lanes = [place + 0.09 * (i - (len(values) - 1) / 2) for i in range(len(values))]
        if len(values) > 1:
            axes.plot([min(values), max(values)], [place, place], color=color, linewidth=2, alpha=0.35)
            axes.plot([mean, mean], [place - 0.27, place + 0.27], color=color, linewidth=2.5)
        axes.scatter(values, lanes, s=42, color=color, alpha=0.8, linewidths=0, zorder=3)
        axes.annotate(
            f"{mean:.1f}", (max(values), place), (9, 0), textcoords="offset points", va="center", weight="bold"
        )


def _diamonds(axes: Any, lines: Sequence[RowSummary], column: str) -> None:
    """The paper's figures."""
    axes.tick_params(labelleft=False)
    for place, line in enumerate(lines):
        value = line.paper.get(column)
        if value is not None:
            axes.scatter(
                [value], [place], s=52, marker="D", facecolors="none", edgecolors=SHADES["ink"], linewidths=1.4
            )
            axes.annotate(f"{value:.1f}", (value, place), (9, 0), textcoords="offset points", va="center")
        else:
            axes.text(0.5, place, "-", ha="center", va="center", transform=axes.get_yaxis_transform())


def _span(axes: Any) -> float:
    low, high = axes.dataLim.intervalx
    return max(1.0, 1.45 * (high - low)) if high >= low else 1.0


def _widen(axes: Any, span: float) -> None:
    """Show `span` of AP around what there is, a little more on the right where the numbers stand."""
    low, high = axes.dataLim.intervalx
    if high < low:
        axes.set_xlim(0, span)
        axes.set_xticks([])
    else:
        middle = (low + high) / 2 + 0.05 * span
        axes.set_xlim(middle - span / 2, middle + span / 2)
        axes.locator_params(axis="x", nbins=6)


def _panels(
    name: str,
    title: str,
    table: PaperTable,
    curves: Mapping[str, Sequence[Curve]],
    paint: Callable[[Any, str], None],
    along: str,
) -> str:
    """A panel for each of `curves`, finished by `paint(axes, its name)`, and one legend for all; `along` is the x."""
    columns = min(3, len(curves) + 1)
    rows = -(-(len(curves) + 1) // columns)

    def draw(figure: Any) -> None:
        """The panels, and the legend where one is left free."""
        panels = figure.subplots(rows, columns, squeeze=False).flatten()
        handles: dict[str, Any] = {}
        for place, (panel, (what, lines)) in enumerate(zip(panels, curves.items(), strict=False)):
            seeds = max(sum(row == other for other, *_ in lines) for row, *_ in lines)
            for row, _, xs, ys in lines:
                number = table.rows.index(row)
                style = {"color": COLORS[number % len(COLORS)], "linewidth": 1.7 if seeds == 1 else 1.1}
                if along == "epoch":
                    style |= {"marker": MARKERS[number % len(MARKERS)], "markersize": 4.5}
                (handles[row],) = panel.plot(xs, ys, alpha=0.9, **style)
            panel.set_title(what, loc="left")
            panel.grid(axis="y")
            if place + columns >= len(curves):  # nothing but the legend below
                panel.set_xlabel(along)
            paint(panel, what)
        for panel in panels[len(curves) :]:
            panel.axis("off")
        ordered = [row for row in table.rows if row in handles]
        labels = [ROWS[row].title if row in ROWS else row for row in ordered]
        panels[len(curves)].legend([handles[row] for row in ordered], labels, loc="upper left", borderaxespad=0)

    return _svg(name, title, 2.5 * rows, draw)


def _smoothed(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """At most `POINTS` means of neighbors, each then averaged with the one before and after it."""
    size = -(-len(points) // POINTS)
    parts = [points[i : i + size] for i in range(0, len(points), size)]
    xs = [statistics.fmean(x for x, _ in part) for part in parts]
    rough = [statistics.fmean(y for _, y in part) for part in parts]
    reach = max(1, len(rough) // 40)
    return xs, [statistics.fmean(rough[max(0, i - reach) : i + reach + 1]) for i in range(len(rough))]


def _svg(name: str, title: str, height: float, paint: Callable[[Any], None]) -> str:
    """What `paint` draws on a figure, as one <svg> element that stands alone or in a page beside others."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {
        "svg.fonttype": "none",  # text remains text
        "svg.hashsalt": name,
        "text.parse_math": False,  # a dollar in a name is a dollar
        "font.size": 10.5,
        "axes.titlesize": 11,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
        "figure.facecolor": "none",
        "axes.facecolor": "none",
        "grid.color": SHADES["grid"],
        "grid.linewidth": 0.8,
    } | dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), SHADES["ink"])
    text = io.StringIO()
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        FigureCanvasSVG(figure)
        paint(figure)
        figure.savefig(text, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return _standalone(text.getvalue(), name, title)


def _standalone(svg: str, name: str, title: str) -> str:
    """Only the element, with a title for those who listen, ids of its own, and colors that a page may set."""
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    for variable, color in (*SHADES.items(), *((f"series-{i + 1}", c) for i, c in enumerate(COLORS))):
        svg = re.sub(rf"(?<=: ){color}\b", f"var(--{variable}, {color})", svg)
    opening, rest = svg.split(">", 1)
    opening = opening.replace("<svg ", f'<svg role="img" aria-labeledby="{name}-title" ', 1)
    return f'{opening}>\n <title id="{name}-title">{html.escape(title)}</title>{rest}'
