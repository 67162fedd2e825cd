"""Each experiment from its request to its files; what `sais reproduce` does.

An experiment leaves NAME.json (what it consists of) in the output folder, and NAME.md and NAME.csv to read. The page,
index.html, is made of all experiments that the folder holds, whichever command made them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sais.bench.systems import Conditions
from sais.data.paths import DataPaths
from sais.recipes.paper import KEEP_RATIO
from sais.reproduce import ceiling, figures, table4
from sais.reproduce.page import Section, picture_section, plain_table, table_section, write_page
from sais.reproduce.plans import Budget, base_experiment, plans_for
from sais.reproduce.report import csv_text, markdown, markdown_table
from sais.reproduce.rows import TABLES, find_row, keep_ratio
from sais.reproduce.runs import Result, make_runs, read_result
from sais.structures import SaisError

ORDER = ("table1", "table2", "table3", "table4", "memory", "peers", "lite", "figure2", "figure3")
"""Of the sections on the page."""


@dataclass(frozen=True)
class Request:
    """What all experiments of one call share."""

    data: DataPaths | None
    """Table IV needs none, unless it trains."""
    out: Path
    budget: Budget = field(default_factory=Budget)
    seeds: tuple[int, ...] = (0,)
    rows: tuple[str, ...] = ()
    """Only these rows; all where none is named."""
    skip_broken: bool = False
    command: str = ""
    """As it was typed, for the page."""
    say: Callable[[str], None] = print

    def runs(self, rows: Sequence[str], seeds: Sequence[int]) -> list[Result]:
        """The runs of these rows, made where they are not there yet."""
        return make_runs(plans_for(rows, seeds, self.budget), self.there, self.out, self.skip_broken, self.say)

    @property
    def there(self) -> DataPaths:
        """The data. Raises SaisError where none was given."""
        if self.data is None:
            raise SaisError("no data: give --data DIR")
        return self.data


def chosen_rows(key: str, wanted: Sequence[str]) -> list[str]:
    """The rows of a table that are wanted; all of them where none is named."""
    rows = TABLES[key].rows if key in TABLES else tuple(r.row for r in table4.PAPER if r.row)
    return [row for row in rows if not wanted or row in wanted]


def _some_rows(key: str, wanted: Sequence[str]) -> list[str]:
    for row in wanted:
        find_row(row)
    rows = chosen_rows(key, wanted)
    if not rows:
        raise SaisError(f"{key} has none of the rows {', '.join(wanted)}; it has {', '.join(chosen_rows(key, ()))}")
    return rows


def table(key: str, request: Request) -> list[Result]:
    """Table I, II or III: its runs, and its files."""
    spec = TABLES[key]
    results = request.runs(_some_rows(key, request.rows), request.seeds)
    names = [f"{r.row}-seed{r.seed}-{r.digest}" for r in results]
    state: dict[str, Any] = {"kind": "table", "results": names}
    text = markdown(spec, results)
    if key == "table1":
        state["ceiling"] = _ceiling(request)
        words, rows = state["ceiling"]["words"], state["ceiling"]["rows"]
        text += f"\n{words}\n\n{markdown_table(ceiling.COLUMNS, rows)}\n"
    _write_state(request, key, state)
    write_text(request.out / f"{key}.md", text)
    write_text(request.out / f"{key}.csv", csv_text(spec, results))
    return results


def _ceiling(request: Request) -> dict[str, Any]:
    """What the slip alone costs on these pictures, at the size of the row that keeps the ratio and at the paper's."""
    index = request.there.valid_index(request.there.train_index().class_names)
    assert index is not None
    sizes = [keep_ratio(base_experiment(request.budget)[0]).input.size, KEEP_RATIO.size]
    return {"words": ceiling.WORDS.format(data=index.name), "rows": ceiling.ceiling_rows(index, sizes)}


def table_four(request: Request, peers: Sequence[str], conditions: Conditions, train: bool) -> None:
    """Table IV: speed and memory, and AP where `train` asks for it."""
    keys = _some_rows("table4", request.rows)
    results = request.runs(keys, request.seeds) if train else []
    measured = table4.measure(keys, peers, conditions, request.say)
    names = [f"{r.row}-seed{r.seed}-{r.digest}" for r in results]
    _write_state(request, "table4", {"kind": "table4", "results": names, "measured": measured})
    lines = table4.lines(measured, results)
    parts = table4.parts_lines(measured)
    text = "\n\n".join(
        [
            "## Table IV: speed and memory",
            table4.in_words(measured),
            markdown_table(table4.COLUMNS, lines),
            "Kept for backward for one more training picture, MiB, part by part:",
            markdown_table(*parts),
        ]
    )
    write_text(request.out / "table4.md", text + "\n")
    write_text(request.out / "table4.csv", table4.csv_text(table4.COLUMNS, lines))


def figure_two(request: Request, image: int | None) -> None:
    """Figure 2 on a picture of the data set."""
    base, _ = base_experiment(request.budget)
    made = figures.figure2(request.there.train_index(), base.input, request.out, image)
    _write_state(request, "figure2", {"kind": "figure", "pictures": [[p.name, text] for p, text in made]})


def figure_three(request: Request, model: Path | None) -> None:
    """Figure 3 by a model of the user's, or by the row `sais` of this budget, trained if it is not yet."""
    if model is None:
        (result,) = request.runs(["sais"], request.seeds[:1])
        model = request.out / "runs" / f"sais-seed{result.seed}-{result.digest}"
        if not model.is_dir():
            raise SaisError(f"{model}: its result is there, its weights are not; give a model with --model")
    index = request.there.valid_index(None) or request.there.train_index()
    made = figures.figure3(index, model, request.out, request.budget.device or "auto")
    _write_state(request, "figure3", {"kind": "figure", "pictures": [[p.name, text] for p, text in made]})


def page(out: Path) -> Path:
    """Write index.html of all experiments in `out`."""
    sections = []
    for key in ORDER:
        path = out / f"{key}.json"
        if path.is_file():
            sections.append(_section(key, json.loads(path.read_text(encoding="utf-8")), out))
    return write_page(out, sections)


def _section(key: str, state: dict[str, Any], out: Path) -> Section:
    if state["kind"] == "table":
        results = _results(state["results"], out)
        logs = {r.digest: out / "runs" / name / "log.jsonl" for name, r in results.items()}
        section = table_section(TABLES[key], list(results.values()), logs, commands=(state["command"],))
        if "ceiling" in state:
            shown = plain_table(ceiling.COLUMNS, state["ceiling"]["rows"], caption=state["ceiling"]["words"])
            section = replace(section, tables=(*section.tables, shown))
        return section
    if state["kind"] == "figure":
        titles = {
            "figure2": ("Figure 2: which object each location learns", "By both rules; black is background."),
            "figure3": ("Figure 3: predictions", "Pictures that no model was trained on."),
        }
        pictures = [(out / name, text) for name, text in state["pictures"]]
        return picture_section(*titles[key], pictures, commands=(state["command"],))
    if state["kind"] == "table4":
        lines = table4.lines(state["measured"], list(_results(state["results"], out).values()))
        tables = (plain_table(table4.COLUMNS, lines), plain_table(*table4.parts_lines(state["measured"])))
        return Section(
            "Table IV: speed and memory",
            table4.in_words(state["measured"]),
            tables=tables,
            commands=(state["command"],),
        )
    plain = tuple(plain_table(columns, rows) for columns, rows in state["tables"])
    return Section(state["title"], state["intro"], tables=plain, commands=(state["command"],))


def _results(names: Sequence[str], out: Path) -> dict[str, Result]:
    found = {name: read_result(out / "results" / f"{name}.json") for name in names}
    return {name: result for name, result in found.items() if result is not None}


def _write_state(request: Request, key: str, state: dict[str, Any]) -> None:
    write_text(request.out / f"{key}.json", json.dumps(state | {"command": request.command}, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
