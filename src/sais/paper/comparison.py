"""A table of the paper and what was measured of it, side by side and never mixed: as Markdown and as CSV.

The paper's figures are of COCO, ours of whatever data set was at hand, so the two stand in columns of their own. A
difference between rows is shown beside the distance between seeds, which is what it has to exceed to say anything.
"""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sais.paper.tables import ROWS, Figures, PaperTable
from sais.paper.wording import conditions, listed, signed
from sais.reports.run_record import duration

if TYPE_CHECKING:
    from sais.paper.runs import RunResult

MAIN = "AP"
"""The metric that is shown with its spread."""
NOT_RUN = "not run"
PAPER_DATA = "COCO val2017"
"""What the paper's Tables I to III were measured on."""
RULE = (
    "A difference counts where it is greater than the distance between the best and the worst seed of either row; with "
    "few seeds that is a rule of thumb. What a small validation split adds to the doubt, seeds do not show."
)


@dataclass(frozen=True)
class RowSummary:
    """One row of a table: the paper's figures and what was measured, AP in percent."""

    row: str
    title: str
    kind: str | None
    """Judged by "box" or "mask"; None where the table does not say."""
    seeds: tuple[int, ...]
    """Ascending; empty where the row was not run."""
    paper: Figures
    measured: dict[str, tuple[float | None, ...]]
    """"kind name" -> a value for each seed; None where there is none (FCOS has no masks)."""
    seconds: float | None
    """Of training, mean over seeds."""

    def values(self, column: str) -> list[float]:
        """What was measured in a column, without what is missing."""
        return [value for value in self.measured.get(column, ()) if value is not None]

    def mean(self, column: str) -> float | None:
        """Mean over seeds; None where nothing was measured."""
        values = self.values(column)
        return statistics.fmean(values) if values else None

    def lowest(self, column: str) -> float | None:
        """The worst seed's value."""
        return min(self.values(column), default=None)

    def highest(self, column: str) -> float | None:
        """The best seed's value."""
        return max(self.values(column), default=None)

    def by_seed(self, column: str) -> dict[int, float]:
        """Seed -> its value, where there is one."""
        pairs = zip(self.seeds, self.measured.get(column, ()), strict=False)
        return {seed: value for seed, value in pairs if value is not None}


@dataclass(frozen=True)
class Comparison:
    """Two rows of which the claim says that one is better, AP in percent."""

    title: str
    """Of the row."""
    baseline: str
    """Title of the row it is held against."""
    column: str
    paper: float | None
    """Difference in the paper; None where it lacks one of the rows."""
    difference: float | None
    """Of the means; None where one row was not run."""
    spread: float | None
    """Distance between best and worst seed, of the row where it is greater; None if a row has fewer than two seeds."""
    paired: dict[int, float]
    """Seed -> difference between the two runs that share it."""

    @property
    def decided(self) -> bool:
        """Whether the difference is greater than the spread, both as they are shown (`RULE`)."""
        if self.difference is None or self.spread is None:
            return False
        return abs(round(self.difference, 1)) > round(self.spread, 1)

    def verdict(self) -> str:
        """The difference beside the spread, in words."""
        if self.difference is None:
            return "not measured"
        if self.spread is None:
            return f"{signed(self.difference)}, spread unknown with one seed: not decided"
        said = f"{signed(self.difference)}, seeds differ by {self.spread:.1f}: "
        if not self.decided:
            return said + "not decided"
        said += "higher" if self.difference > 0 else "lower"
        if not self.paper:
            return said
        return said + (", as in the paper" if self.paper * self.difference > 0 else ", unlike the paper")

    def pairs(self) -> str:
        """The differences seed by seed, in words; empty without a common seed."""
        values = list(self.paired.values())
        if not values:
            return ""
        if len(values) == 1:
            return f"{signed(values[0])} (seed {listed(self.paired)})"
        return f"mean {signed(statistics.fmean(values))}, from {signed(min(values))} to {signed(max(values))}"


def rows_of(table: PaperTable, results: Sequence[RunResult]) -> list[RowSummary]:
    """A line for each row of the table, in its order, also for those without results; other rows' results are left out.

    Raises:
        ValueError: two different runs of one row with one seed.
    """
    lines = []
    for key in table.rows:
        mine: dict[int, RunResult] = {}
        for result in results:
            if result.row == key and mine.setdefault(result.seed, result).digest != result.digest:
                raise ValueError(f"{table.key}: two different runs of row {key} with seed {result.seed}")
        seeds = tuple(sorted(mine))
        lines.append(
            RowSummary(
                row=key,
                title=ROWS[key].title if key in ROWS else key,
                kind=table.kinds.get(key),
                seeds=seeds,
                paper=table.paper.get(key, {}),
                measured={
                    f"{kind} {name}": tuple(_percent(mine[seed], kind, name) for seed in seeds)
                    for kind, name in table.columns
                },
                seconds=statistics.fmean(mine[seed].seconds for seed in seeds) if seeds else None,
            )
        )
    return lines


def comparisons(table: PaperTable, lines: Sequence[RowSummary]) -> list[Comparison]:
    """What the table's claim compares, in the paper and as measured."""
    by_key = {line.row: line for line in lines}
    made = []
    for row, baseline, column in table.compares:
        ours, other = by_key[row], by_key[baseline]
        mine, its = ours.by_seed(column), other.by_seed(column)
        paper = ours.paper[column] - other.paper[column] if column in ours.paper and column in other.paper else None
        difference = statistics.fmean(mine.values()) - statistics.fmean(its.values()) if mine and its else None
        ranges = [max(values.values()) - min(values.values()) for values in (mine, its) if len(values) > 1]
        paired = {seed: mine[seed] - its[seed] for seed in mine if seed in its}
        spread = max(ranges) if len(ranges) == 2 else None
        made.append(Comparison(ours.title, other.title, column, paper, difference, spread, paired))
    return made


def grid(table: PaperTable, lines: Sequence[RowSummary]) -> tuple[list[str], list[list[str]]]:
    """The table as text: columns named "paper: ..." or "measured: ...", and a row of cells for each line.

    Where each row is judged by boxes or by masks alone, a column says by which, and both share the others, as in the
    paper.
    """
    kinds = list(dict.fromkeys(kind for kind, _ in table.columns))
    judged = [line.kind or (kinds[0] if len(kinds) == 1 else "") for line in lines]
    short = all(judged)
    shown = list(dict.fromkeys(name if short else f"{kind} {name}" for kind, name in table.columns))
    where = [[f"{kind} {name}" if short else name for name in shown] for kind in judged]
    in_paper = [i for i in range(len(shown)) if any(w[i] in line.paper for line, w in zip(lines, where, strict=True))]
    columns = ["row", *(["judged by"] if short else [])]
    columns += [f"paper: {shown[i]}" for i in in_paper] + [f"measured: {name}" for name in shown]
    rows = []
    for line, kind, names in zip(lines, judged, where, strict=True):
        cells = [line.title, *([f"{kind} AP"] if short else [])]
        cells += [_figure(line.paper.get(names[i])) for i in in_paper]
        cells += [_measured(line, name) for name in names]
        rows.append([*cells, listed(line.seeds) or NOT_RUN, duration(line.seconds)])
    return [*columns, "measured: seeds", "measured: training"], rows


def markdown(table: PaperTable, results: Sequence[RunResult]) -> str:
    """The table with its claim, what it was measured on, and what the numbers say of the claim."""
    lines = rows_of(table, results)
    parts = [f"## {_escaped(table.title)}", f"The paper's claim: {_escaped(table.claim)}"]
    parts += [markdown_table(*grid(table, lines))]
    ran = [result for result in results if result.row in table.rows]
    if ran:
        said = {name: _escaped(text) for name, text in conditions(ran).items()}
        parts.append(
            f"AP in percent, the mean over seeds (lowest-highest). **paper**: {PAPER_DATA}, as printed. **measured**: "
            f"{said['data']}; {said['schedule']}; input {said['input']}; backbone {said['backbone']}; "
            f"seed{'s' if ',' in said['seeds'] else ''} {said['seeds']}; on {said['machine']}."
        )
    else:
        parts.append(f"AP in percent. **paper**: {PAPER_DATA}, as printed. **measured**: nothing yet.")
    bullets = []
    for one in comparisons(table, lines):
        said_pairs = f" Seed by seed: {one.pairs()}." if one.pairs() else ""
        said_paper = f" The paper: {signed(one.paper)} on COCO." if one.paper is not None else ""
        compared = f"{_escaped(one.title)} against {_escaped(one.baseline)}: {one.column}"
        bullets.append(f"- {compared} **{one.verdict()}**.{said_pairs}{said_paper}")
    if bullets:
        parts += ["\n".join(bullets), RULE]
    return "\n\n".join(parts) + "\n"


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, whatever its cells hold; all columns but the first are set to the right."""
    rule = [":---", *["---:"] * (len(columns) - 1)]
    text = [[_escaped(cell) for cell in line] for line in (columns, *rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (text[0], rule, *text[1:]))


def markdown_list(notes: Sequence[Sequence[str]]) -> str:
    """A Markdown list of (word, what it means), for below a table."""
    return "\n".join(f"- {_escaped(word)}: {_escaped(text)}" for word, text in notes)


CSV_COLUMNS = ("table", "row", "seed", "source", "kind", "metric", "value", "data", "digest")


def csv_text(table: PaperTable, results: Sequence[RunResult]) -> str:
    """One number a line: the paper's, then every COCO number of every run, AP and AR in percent, and its seconds."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for row in table.rows:
        for column, figure in table.paper.get(row, {}).items():
            writer.writerow([table.key, row, "", "paper", *column.split(" ", 1), figure, PAPER_DATA, ""])
    written = set()
    for result in sorted(results, key=lambda one: one.seed):
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


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _measured(line: RowSummary, column: str) -> str:
    mean, lowest, highest = line.mean(column), line.lowest(column), line.highest(column)
    if mean is None or lowest is None or highest is None:
        return "-"
    spread = f" ({lowest:.1f}-{highest:.1f})" if column.endswith(f" {MAIN}") and len(line.values(column)) > 1 else ""
    return f"{mean:.1f}{spread}"


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is, also in a table."""
    for sign, instead in (("\\", "\\\\"), ("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|")):
        text = text.replace(sign, instead)
    for sign in "`*[]":
        text = text.replace(sign, "\\" + sign)
    return " ".join(text.split())
