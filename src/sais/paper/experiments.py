"""Each experiment from its request to its files; what `sais reproduce` does.

An experiment leaves NAME.json (what it consists of) in the output folder, and NAME.md and NAME.csv to read. The page,
index.html, is made of all experiments that the folder holds, whichever command made them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from sais.benchmark.candidates import find_candidates
from sais.benchmark.timing import Conditions
from sais.config import Experiment
from sais.data.paths import DataPaths
from sais.errors import SaisError
from sais.io.atomic import write_text
from sais.paper import figures, padding_bug_ablation, padding_bug_upper_bound, table4
from sais.paper.comparison import csv_text, markdown, markdown_list, markdown_table
from sais.paper.page import Section, image_section, table_section, write_page
from sais.paper.runs import RunResult, make_runs
from sais.paper.sweep import Budget, base_experiment, plans_for
from sais.paper.tables import TABLES, find_row, keep_ratio
from sais.recipes import recipe
from sais.recipes.paper import KEEP_RATIO
from sais.reports.html_tables import plain_table

ORDER = ("table1", "table2", "table3", "table4", "memory", "peers", "lite", "figure2", "figure3")
"""Of the sections on the page."""


@dataclass(frozen=True)
class ReproductionRequest:
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

    def runs(self, rows: Sequence[str], seeds: Sequence[int]) -> list[RunResult]:
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


def table(key: str, request: ReproductionRequest) -> list[RunResult]:
    """Table I, II or III: its runs, and its files."""
    spec = TABLES[key]
    results = request.runs(_some_rows(key, request.rows), request.seeds)
    results = [*results, *_earlier(key, results, request)]
    state: dict[str, Any] = {"kind": "table", "results": [asdict(result) for result in results]}
    text = markdown(spec, results)
    state["more"] = _about_the_slip(request, results) if key == "table1" else []
    for more in state["more"]:
        text += f"\n{more['words']}\n\n{markdown_table(more['columns'], more['rows'])}\n"
    _write_state(request, key, state)
    write_text(request.out / f"{key}.md", text)
    write_text(request.out / f"{key}.csv", csv_text(spec, results))
    return results


def _earlier(key: str, results: Sequence[RunResult], request: ReproductionRequest) -> list[RunResult]:
    """Results of this table's earlier calls, other rows or seeds of the same budget and data, which still hold."""
    path = request.out / f"{key}.json"
    if not path.is_file():
        return []
    had = [RunResult(**one) for one in json.loads(path.read_text(encoding="utf-8"))["results"]]
    try:
        plans = plans_for(TABLES[key].rows, sorted({result.seed for result in had}), request.budget)
    except SaisError:  # a row that this base cannot have, and that this call did not ask for
        plans = plans_for(list({result.row for result in results}), sorted({r.seed for r in had}), request.budget)
    valid = {(p.row, p.experiment.run.seed, p.digest(results[0].data)) for p in plans}
    now = {(result.row, result.seed) for result in results}
    return [r for r in had if (r.row, r.seed, r.digest) in valid and (r.row, r.seed) not in now]


def _about_the_slip(request: ReproductionRequest, results: Sequence[RunResult]) -> list[dict[str, Any]]:
    """Two more tables for Table I: the slip's halves apart, and what it costs perfect masks, at the size of the rows
    that keep the ratio and at the paper's. None of them where nothing has an outline."""
    index = request.there.valid_index(request.there.train_index().class_names)
    assert index is not None
    if not any(a.segmentation is not None for image in index.images for a in image.annotations):
        return []
    apart = padding_bug_ablation.ablation_rows(results, index, request.out, request.budget.device or "auto")
    sizes = [keep_ratio(base_experiment(request.budget)[0]).input.size, KEEP_RATIO.size]
    words = padding_bug_upper_bound.WORDS.format(data=f"{request.there.name}, {index.name}")
    tables: list[tuple[str, Sequence[str], list[list[str]]]] = [
        (padding_bug_ablation.WORDS, padding_bug_ablation.COLUMNS, apart),
        (words, padding_bug_upper_bound.COLUMNS, padding_bug_upper_bound.upper_bound_rows(index, sizes)),
    ]
    return [{"words": text, "columns": list(columns), "rows": rows} for text, columns, rows in tables if rows]


def table_four(request: ReproductionRequest, peers: Sequence[str], conditions: Conditions, train: bool) -> None:
    """Table IV: speed and memory, and AP where `train` asks for it.

    Raises:
        SaisError: a contestant that cannot be had, before anything is trained.
    """
    keys = _some_rows("table4", request.rows)
    for source in peers:
        find_candidates(source)
    if train and recipe(request.budget.base).model.channels != Experiment().model.channels:
        raise SaisError(
            f"table4 trains the paper's models, and --base {request.budget.base} is of another width; leave it out"
        )
    results = request.runs(keys, request.seeds) if train else []
    measured = table4.measure(keys, peers, conditions, request.say)
    state = {"kind": "table4", "results": [asdict(result) for result in results], "measured": measured}
    _write_state(request, "table4", state)
    lines = table4.lines(measured, results)
    parts = table4.parts_lines(measured)
    text = "\n\n".join(
        [
            "## Table IV: speed and memory",
            table4.in_words(measured, results),
            markdown_table(table4.COLUMNS, lines),
            markdown_list(measured["notes"]),
            "Kept for backward for one more training image, MiB, part by part:",
            markdown_table(*parts),
        ]
    )
    write_text(request.out / "table4.md", text + "\n")
    write_text(request.out / "table4.csv", table4.csv_text(table4.COLUMNS, lines))


def figure_two(request: ReproductionRequest, image: int | None) -> None:
    """Figure 2 on an image of the data set."""
    base, _ = base_experiment(request.budget)
    made = figures.figure2(request.there.train_index(), base.input, request.out, image)
    _write_state(request, "figure2", {"kind": "figure", "images": [[p.name, text] for p, text in made]})


def figure_three(request: ReproductionRequest, model: Path | None) -> None:
    """Figure 3 by a model of the user's, or by the row `sais` of this budget, trained if it is not yet."""
    if model is None:
        (result,) = request.runs(["sais"], request.seeds[:1])
        tail = f"-seed{result.seed}-{result.digest}"
        found = [path for path in request.out.glob(f"runs/*{tail}") if path.is_dir()]
        if not found:
            raise SaisError(f"{request.out}/runs/sais{tail}: only its result is there; give a model with --model")
        model = found[0]
    index = request.there.valid_index(None) or request.there.train_index()
    made = figures.figure3(index, model, request.out, request.budget.device or "auto")
    _write_state(request, "figure3", {"kind": "figure", "images": [[p.name, text] for p, text in made]})


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
        results = [RunResult(**one) for one in state["results"]]
        logs = {r.digest: path for r in results for path in out.glob(f"runs/*-seed{r.seed}-{r.digest}/log.jsonl")}
        section = table_section(TABLES[key], results, logs, commands=(state["command"],))
        more = [plain_table(one["columns"], one["rows"], caption=one["words"]) for one in state.get("more", [])]
        return replace(section, tables=(*section.tables, *more))
    if state["kind"] == "figure":
        titles = {
            "figure2": ("Figure 2: which object each location learns", "By both rules; black is background."),
            "figure3": ("Figure 3: predictions", "What a model finds, one color an object."),
        }
        images = [(out / name, text) for name, text in state["images"]]
        return image_section(*titles[key], images, commands=(state["command"],))
    if state["kind"] == "table4":
        trained = [RunResult(**one) for one in state["results"]]
        lines = table4.lines(state["measured"], trained)
        tables = (plain_table(table4.COLUMNS, lines), plain_table(*table4.parts_lines(state["measured"])))
        return Section(
            "Table IV: speed and memory",
            table4.in_words(state["measured"], trained),
            tables=tables,
            notes=_notes(state["measured"]),
            commands=(state["command"],),
        )
    plain = tuple(plain_table(columns, rows) for columns, rows in state["tables"])
    return Section(state["title"], state["intro"], tables=plain, notes=_notes(state), commands=(state["command"],))


def _notes(state: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """What is to be known of each system; nothing of those that were measured before this was written down."""
    return tuple((name, note) for name, note in state.get("notes", []))


def _write_state(request: ReproductionRequest, key: str, state: dict[str, Any]) -> None:
    write_text(request.out / f"{key}.json", json.dumps(state | {"command": request.command}, indent=1) + "\n")
