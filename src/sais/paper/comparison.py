"""A table of the paper and its measured results, as Markdown and as CSV.

The paper's figures are of COCO, measured ones of any data set, so that the two have separate columns. A difference
between rows is reported together with the spread of the seeds, which it has to exceed to count.
"""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sais.paper.tables import ROWS, Figures, PaperTable
from sais.paper.wording import describe_conditions, format_difference, format_list
from sais.reports.run_record import format_duration

if TYPE_CHECKING:
    from sais.paper.runs import RunResult

MAIN_METRIC = "AP"
"""The metric that is reported with its spread."""
NOT_RUN = "not run"
PAPER_DATA = "COCO val2017"
"""The data set of the paper's Tables I to III."""
RULE = (
    "A difference counts where it exceeds the distance between the best and the worst seed of either row; with few "
    "seeds that is a rule of thumb. The uncertainty of a small validation split comes on top of it."
)


@dataclass(frozen=True)
class RowSummary:
    """One row of a table: the paper's figures and the measured ones, AP in percent."""

    row: str
    title: str
    kind: str | None
    """"box" or "mask", by which the row is compared; None where the table does not choose."""
    seeds: tuple[int, ...]
    """Ascending; empty where the row was not run."""
    paper: Figures
    measured: dict[str, tuple[float | None, ...]]
    """"kind name" -> a value for each seed; None for a value that does not exist (FCOS has no masks)."""
    seconds: float | None
    """Mean duration of training over the seeds."""

    def values(self, column: str) -> list[float]:
        """Return the existing values of a column."""
        return [value for value in self.measured.get(column, ()) if value is not None]

    def mean(self, column: str) -> float | None:
        """Return the mean over the seeds; None without values."""
        values = self.values(column)
        return statistics.fmean(values) if values else None

    def lowest(self, column: str) -> float | None:
        """Return the value of the worst seed; None without values."""
        return min(self.values(column), default=None)

    def highest(self, column: str) -> float | None:
        """Return the value of the best seed; None without values."""
        return max(self.values(column), default=None)

    def by_seed(self, column: str) -> dict[int, float]:
        """Return seed -> value, for existing values."""
        pairs = zip(self.seeds, self.measured.get(column, ()), strict=False)
        return {seed: value for seed, value in pairs if value is not None}


@dataclass(frozen=True)
class Comparison:
    """Two rows of which the paper claims that one is better, AP in percent."""

    title: str
    """Title of the row."""
    baseline: str
    """Title of the row that it is compared with."""
    column: str
    paper: float | None
    """Difference in the paper; None where the paper lacks one of the rows."""
    difference: float | None
    """Difference of the means; None where one of the rows was not run."""
    spread: float | None
    """Distance between best and worst seed, the larger of both rows; None where a row has fewer than two seeds."""
    paired: dict[int, float]
    """Seed -> difference between the two runs with this seed."""

    @property
    def decided(self) -> bool:
        """Whether the difference exceeds the spread, both rounded as displayed (`RULE`)."""
        if self.difference is None or self.spread is None:
            return False
        return abs(round(self.difference, 1)) > round(self.spread, 1)

    def verdict(self) -> str:
        """Describe the difference, the spread, and which of the rows is better."""
        if self.difference is None:
            return "not measured"
        if self.spread is None:
            return f"{format_difference(self.difference)}, spread unknown with one seed: not decided"
        text = f"{format_difference(self.difference)}, seeds differ by {self.spread:.1f}: "
        if not self.decided:
            return text + "not decided"
        text += "higher" if self.difference > 0 else "lower"
        if not self.paper:
            return text
        return text + (", as in the paper" if self.paper * self.difference > 0 else ", unlike the paper")

    def describe_pairs(self) -> str:
        """Describe the differences seed by seed; empty without a common seed."""
        values = list(self.paired.values())
        if not values:
            return ""
        if len(values) == 1:
            return f"{format_difference(values[0])} (seed {format_list(self.paired)})"
        low, high = format_difference(min(values)), format_difference(max(values))
        return f"mean {format_difference(statistics.fmean(values))}, from {low} to {high}"


def summarize_rows(table: PaperTable, results: Sequence[RunResult]) -> list[RowSummary]:
    """Summarize each row of the table, in its order, including rows without results.

    Args:
        table: table of the rows.
        results: results of runs; those of other rows are ignored.

    Raises:
        ValueError: two different runs of one row with the same seed.
    """
    summaries = []
    for key in table.rows:
        by_seed: dict[int, RunResult] = {}
        for result in results:
            if result.row == key and by_seed.setdefault(result.seed, result).digest != result.digest:
                raise ValueError(f"{table.key}: two different runs of row {key} with seed {result.seed}")
        seeds = tuple(sorted(by_seed))
        summaries.append(
            RowSummary(
                row=key,
                title=ROWS[key].title if key in ROWS else key,
                kind=table.kinds.get(key),
                seeds=seeds,
                paper=table.paper.get(key, {}),
                measured={
                    f"{kind} {name}": tuple(_percent(by_seed[seed], kind, name) for seed in seeds)
                    for kind, name in table.columns
                },
                seconds=statistics.fmean(by_seed[seed].seconds for seed in seeds) if seeds else None,
            )
        )
    return summaries


def compare_rows(table: PaperTable, summaries: Sequence[RowSummary]) -> list[Comparison]:
    """Compute the differences that the table's claim is about, in the paper and as measured."""
    by_key = {summary.row: summary for summary in summaries}
    compared = []
    for key, baseline_key, column in table.compares:
        row, baseline = by_key[key], by_key[baseline_key]
        values, others = row.by_seed(column), baseline.by_seed(column)
        in_paper = column in row.paper and column in baseline.paper
        both = bool(values and others)
        ranges = [max(by_seed.values()) - min(by_seed.values()) for by_seed in (values, others) if len(by_seed) > 1]
        compared.append(
            Comparison(
                title=row.title,
                baseline=baseline.title,
                column=column,
                paper=row.paper[column] - baseline.paper[column] if in_paper else None,
                difference=statistics.fmean(values.values()) - statistics.fmean(others.values()) if both else None,
                spread=max(ranges) if len(ranges) == 2 else None,
                paired={seed: values[seed] - others[seed] for seed in values if seed in others},
            )
        )
    return compared


def table_cells(table: PaperTable, summaries: Sequence[RowSummary]) -> tuple[list[str], list[list[str]]]:
    """Format the table: names of columns, "paper: ..." or "measured: ...", and the cells of each row.

    Where each row is compared by boxes or by masks alone, a column names which, and both share the other columns, as
    in the paper.
    """
    kinds = list(dict.fromkeys(kind for kind, _ in table.columns))
    row_kinds = [summary.kind or (kinds[0] if len(kinds) == 1 else "") for summary in summaries]
    shared = all(row_kinds)
    names = list(dict.fromkeys(name if shared else f"{kind} {name}" for kind, name in table.columns))
    keys = [[f"{kind} {name}" if shared else name for name in names] for kind in row_kinds]
    in_paper = [
        i
        for i in range(len(names))
        if any(row[i] in summary.paper for summary, row in zip(summaries, keys, strict=True))
    ]
    columns = ["row", *(["compared by"] if shared else [])]
    columns += [f"paper: {names[i]}" for i in in_paper] + [f"measured: {name}" for name in names]
    rows = []
    for summary, kind, row in zip(summaries, row_kinds, keys, strict=True):
        cells = [summary.title, *([f"{kind} AP"] if shared else [])]
        cells += [_format_figure(summary.paper.get(row[i])) for i in in_paper]
        cells += [_format_measured(summary, name) for name in row]
        rows.append([*cells, format_list(summary.seeds) or NOT_RUN, format_duration(summary.seconds)])
    return [*columns, "measured: seeds", "measured: training"], rows


def markdown_report(table: PaperTable, results: Sequence[RunResult]) -> str:
    """Format the table as Markdown, with its claim, the conditions of the measurement, and the differences."""
    summaries = summarize_rows(table, results)
    parts = [f"## {_escape(table.title)}", f"The paper's claim: {_escape(table.claim)}"]
    parts += [markdown_table(*table_cells(table, summaries))]
    own = [result for result in results if result.row in table.rows]
    if own:
        conditions = {name: _escape(text) for name, text in describe_conditions(own).items()}
        parts.append(
            f"AP in percent, the mean over seeds (lowest-highest). **paper**: {PAPER_DATA}, as printed. **measured**: "
            f"{conditions['data']}; {conditions['schedule']}; input {conditions['input']}; backbone "
            f"{conditions['backbone']}; seed{'s' if ',' in conditions['seeds'] else ''} {conditions['seeds']}; on "
            f"{conditions['machine']}."
        )
    else:
        parts.append(f"AP in percent. **paper**: {PAPER_DATA}, as printed. **measured**: nothing yet.")
    bullets = []
    for comparison in compare_rows(table, summaries):
        pairs = comparison.describe_pairs()
        compared = f"{_escape(comparison.title)} against {_escape(comparison.baseline)}: {comparison.column}"
        bullet = f"- {compared} **{comparison.verdict()}**."
        if pairs:
            bullet += f" Seed by seed: {pairs}."
        if comparison.paper is not None:
            bullet += f" The paper: {format_difference(comparison.paper)} on COCO."
        bullets.append(bullet)
    if bullets:
        parts += ["\n".join(bullets), RULE]
    return "\n\n".join(parts) + "\n"


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a Markdown table with escaped cells; all columns but the first are right-aligned."""
    rule = [":---", *["---:"] * (len(columns) - 1)]
    text = [[_escape(cell) for cell in row] for row in (columns, *rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (text[0], rule, *text[1:]))


def markdown_list(notes: Sequence[Sequence[str]]) -> str:
    """Format (name, text) pairs as a Markdown list."""
    return "\n".join(f"- {_escape(name)}: {_escape(text)}" for name, text in notes)


CSV_COLUMNS = ("table", "row", "seed", "source", "kind", "metric", "value", "data", "digest")


def csv_report(table: PaperTable, results: Sequence[RunResult]) -> str:
    """Format one number a line: the paper's figures, then all COCO metrics of each run in percent, and its seconds."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for row in table.rows:
        for column, figure in table.paper.get(row, {}).items():
            writer.writerow([table.key, row, "", "paper", *column.split(" ", 1), figure, PAPER_DATA, ""])
    written = set()
    for result in sorted(results, key=lambda result: result.seed):
        if result.row not in table.rows or (result.row, result.digest) in written:
            continue
        written.add((result.row, result.digest))
        start, end = [table.key, result.row, result.seed, "measured"], [result.data["name"], result.digest]
        for kind in ("box", "mask"):
            for name in result.metrics.get(kind) or {}:
                if name != "per_class":
                    value = _percent(result, kind, name)
                    writer.writerow([*start, kind, name, "" if value is None else round(value, 4), *end])
        writer.writerow([*start, "training", "seconds", result.seconds, *end])
    return text.getvalue()


def _percent(result: RunResult, kind: str, name: str) -> float | None:
    value = (result.metrics.get(kind) or {}).get(name)
    return None if value is None else 100 * value


def _format_figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _format_measured(summary: RowSummary, column: str) -> str:
    mean, lowest, highest = summary.mean(column), summary.lowest(column), summary.highest(column)
    if mean is None or lowest is None or highest is None:
        return "-"
    has_spread = column.endswith(f" {MAIN_METRIC}") and len(summary.values(column)) > 1
    return f"{mean:.1f}" + (f" ({lowest:.1f}-{highest:.1f})" if has_spread else "")


def _escape(text: str) -> str:
    """Escape text for Markdown, also inside a table."""
    for sign, replacement in (("\\", "\\\\"), ("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|")):
        text = text.replace(sign, replacement)
    for sign in "`*[]":
        text = text.replace(sign, "\\" + sign)
    return " ".join(text.split())
