"""The experiments of `sais reproduce`: from a request to runs, tables, figures and the page.

An experiment writes NAME.json (its state), and NAME.md and NAME.csv to read. The page, index.html, shows all
experiments whose state is in the folder, whichever command made them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from sais.benchmark.candidates import find_candidates
from sais.benchmark.timing import Conditions
from sais.config import Experiment
from sais.data.paths import DataPaths
from sais.errors import CheckpointError, ConfigError, InputError
from sais.io.atomic import write_text
from sais.io.outputs import PAGE, check_outputs, written_by
from sais.paper import figures, padding_bug_ablation, padding_bug_upper_bound, table4
from sais.paper.comparison import csv_report, markdown_list, markdown_report, markdown_table
from sais.paper.page import Section, table_section, write_page
from sais.paper.runs import RunResult, run_plans
from sais.paper.sweep import Budget, base_experiment, plan_runs
from sais.paper.tables import TABLES, find_row, keep_ratio
from sais.recipes import recipe
from sais.recipes.paper import KEEP_RATIO
from sais.reports.html_tables import Table

SECTIONS = ("table1", "table2", "table3", "table4", "memory", "peers", "lite", "figure2", "figure3")
"""Experiments in their order on the page."""
FIGURE_TEXTS = {
    "figure2": ("Figure 2: assignment of locations", "Target maps of both assigners; black is background."),
    "figure3": ("Figure 3: predictions", "Detections of a model, a color for each object."),
}
"""Title and introduction of the figures."""


FILE_SUFFIXES = {"figure2": (".png", "-scene.png"), "figure3": (".jpg",)}
"""Experiment -> suffixes of the files next to its state; those of tables are .md and .csv."""


@dataclass(frozen=True)
class ReproductionRequest:
    """The arguments that all experiments of a call share."""

    data: DataPaths | None
    """Data set; Table IV needs one only if it trains."""
    out: Path
    """Folder of runs and results."""
    budget: Budget = field(default_factory=Budget)
    seeds: tuple[int, ...] = (0,)
    rows: tuple[str, ...] = ()
    """Keys of rows; empty: all rows."""
    skip_broken: bool = False
    """Whether unreadable images are skipped instead of raising an error."""
    command: str = ""
    """Command line, for the page."""
    log: Callable[[str], None] = print

    def run_rows(self, rows: Sequence[str], seeds: Sequence[int]) -> list[RunResult]:
        """Run rows that have no result yet, and return the results of all."""
        plans = plan_runs(rows, seeds, self.budget)
        return run_plans(plans, self.required_data, self.out, self.skip_broken, self.log)

    @property
    def required_data(self) -> DataPaths:
        """The data set. Raises InputError if there is none."""
        if self.data is None:
            raise InputError("reproduce: no data set. Give a folder of images with annotations.")
        return self.data


def check_files(out: Path, keys: Sequence[str], inputs: Iterable[Path] = (), overwrite: bool = False) -> None:
    """Check that experiments replace no file that is read, nor one that an earlier call has not written.

    Args:
        out: folder of runs and results.
        keys: experiments: "table1", "figure2".
        inputs: files that are read.
        overwrite: whether files of others are replaced.

    Raises:
        InputError: such a file exists.
    """
    names = [f"{key}{suffix}" for key in keys for suffix in (".json", *FILE_SUFFIXES.get(key, (".md", ".csv")))]
    inputs = list(inputs)
    check_outputs([out / name for name in names], inputs, overwrite, out, written_by(figures.WRITER))
    check_outputs([out / "index.html"], inputs, overwrite, out, written_by(PAGE))


def select_rows(key: str, wanted: Sequence[str]) -> list[str]:
    """Return the rows of a table that are wanted; all rows if `wanted` is empty."""
    rows = TABLES[key].rows if key in TABLES else tuple(row.row for row in table4.PAPER if row.row)
    return [row for row in rows if not wanted or row in wanted]


def reproduce_table(key: str, request: ReproductionRequest) -> list[RunResult]:
    """Run the rows of Table I, II or III and write the table.

    Args:
        key: "table1", "table2" or "table3".
        request: arguments of the call.
    """
    table = TABLES[key]
    results = request.run_rows(_require_rows(key, request.rows), request.seeds)
    results = [*results, *_earlier_results(key, results, request)]
    tables = _padding_bug_tables(request, results) if key == "table1" else []
    _write_state(
        request, key, {"kind": "table", "results": [asdict(result) for result in results], "extra_tables": tables}
    )
    text = markdown_report(table, results)
    for extra in tables:
        text += f"\n{extra['caption']}\n\n{markdown_table(extra['columns'], extra['rows'])}\n"
    write_text(request.out / f"{key}.md", text)
    write_text(request.out / f"{key}.csv", csv_report(table, results))
    return results


def reproduce_table4(request: ReproductionRequest, peers: Sequence[str], conditions: Conditions, train: bool) -> None:
    """Measure speed and memory for Table IV, and write the table.

    Args:
        request: arguments of the call.
        peers: "module:function" of functions that return further candidates.
        conditions: conditions of the measurement.
        train: whether to train the rows for AP.

    Raises:
        ConfigError: a candidate does not exist, or the base is not of the paper's width. Raised before training.
    """
    keys = _require_rows("table4", request.rows)
    for source in peers:
        find_candidates(source)
    if train and recipe(request.budget.base).model.channels != Experiment().model.channels:
        raise ConfigError(
            f"table4: trains the paper's models, and the base {request.budget.base} has another width. Use the default "
            "base."
        )
    results = request.run_rows(keys, request.seeds) if train else []
    measured = table4.measure(keys, peers, conditions, request.log)
    state = {"kind": "table4", "results": [asdict(result) for result in results], "measured": measured}
    _write_state(request, "table4", state)
    rows = table4.table_rows(measured, results)
    text = "\n\n".join(
        [
            "## Table IV: speed and memory",
            table4.describe_measurement(measured, results),
            markdown_table(table4.COLUMNS, rows),
            markdown_list(measured["notes"]),
            "Saved for backward for one additional training image, MiB by part:",
            markdown_table(*table4.saved_memory_rows(measured)),
        ]
    )
    write_text(request.out / "table4.md", text + "\n")
    write_text(request.out / "table4.csv", table4.format_csv(table4.COLUMNS, rows))


def reproduce_figure2(request: ReproductionRequest, image_id: int | None) -> None:
    """Draw Figure 2 on an image of the data set.

    Args:
        request: arguments of the call.
        image_id: id of the image; None: an image on which the assigners differ.
    """
    base, _ = base_experiment(request.budget)
    images = figures.figure2(request.required_data.read_train(), base.input, request.out, image_id)
    _write_figure_state(request, "figure2", images)


def reproduce_figure3(request: ReproductionRequest, model: Path | None) -> None:
    """Draw Figure 3.

    Args:
        request: arguments of the call.
        model: model file or folder of a run; None: the row `sais` of the budget, which is trained if needed.

    Raises:
        CheckpointError: the row has a result but its weights were deleted.
    """
    if model is None:
        (result,) = request.run_rows(["sais"], request.seeds[:1])
        suffix = f"-seed{result.seed}-{result.digest}"
        folders = [path for path in request.out.glob(f"runs/*{suffix}") if path.is_dir()]
        if not folders:
            raise CheckpointError(f"{request.out}/runs/sais{suffix}: the weights were deleted. Give a model.")
        model = folders[0]
    split = request.required_data.read_valid(None) or request.required_data.read_train()
    images = figures.figure3(split, model, request.out, request.budget.device or "auto")
    _write_figure_state(request, "figure3", images)


def write_index(out: Path) -> Path:
    """Write index.html with all experiments whose state is in `out`, and return its path."""
    sections = []
    for key in SECTIONS:
        path = out / f"{key}.json"
        state = _read_state(path) if path.is_file() else {}
        if state:
            sections.append(_section(key, state, out))
    return write_page(out, sections)


def _require_rows(key: str, wanted: Sequence[str]) -> list[str]:
    """The wanted rows of a table. Raises InputError for unknown rows, and if the table has none of them."""
    for row in wanted:
        find_row(row)
    rows = select_rows(key, wanted)
    if not rows:
        available = ", ".join(select_rows(key, ()))
        raise InputError(f"{key}: has none of the rows {', '.join(wanted)}. Choose from {available}.")
    return rows


def _earlier_results(key: str, results: Sequence[RunResult], request: ReproductionRequest) -> list[RunResult]:
    """Results of earlier calls for other rows or seeds of this table, if they are of the same budget and data."""
    path = request.out / f"{key}.json"
    if not path.is_file():
        return []
    earlier = [RunResult(**values) for values in _read_state(path).get("results", [])]
    seeds = sorted({result.seed for result in earlier})
    try:
        plans = plan_runs(TABLES[key].rows, seeds, request.budget)
    except ConfigError:  # a row that this call did not ask for, and that the base does not support
        plans = plan_runs(list({result.row for result in results}), seeds, request.budget)
    valid = {(plan.row, plan.experiment.run.seed, plan.digest(results[0].data)) for plan in plans}
    current = {(result.row, result.seed) for result in results}
    return [r for r in earlier if (r.row, r.seed, r.digest) in valid and (r.row, r.seed) not in current]


def _padding_bug_tables(request: ReproductionRequest, results: Sequence[RunResult]) -> list[dict[str, Any]]:
    """The tables on the padding bug: its ablation, and the upper bound at the size of the rows that keep the ratio and
    at the paper's size. Empty for data without masks."""
    split = request.required_data.read_valid(request.required_data.read_train().class_names)
    assert split is not None
    if not any(annotation.segmentation is not None for image in split.images for annotation in image.annotations):
        return []
    ablation = padding_bug_ablation.ablation_rows(results, split, request.out, request.budget.device or "auto")
    sizes = [keep_ratio(base_experiment(request.budget)[0]).input.size, KEEP_RATIO.size]
    caption = padding_bug_upper_bound.CAPTION.format(data=f"{request.required_data.name}, {split.name}")
    tables = [
        (padding_bug_ablation.CAPTION, padding_bug_ablation.COLUMNS, ablation),
        (caption, padding_bug_upper_bound.COLUMNS, padding_bug_upper_bound.upper_bound_rows(split, sizes)),
    ]
    return [{"caption": text, "columns": list(columns), "rows": rows} for text, columns, rows in tables if rows]


def _section(key: str, state: dict[str, Any], out: Path) -> Section:
    """The section of an experiment on the page."""
    commands = (state["command"],)
    if state["kind"] == "table":
        results = [RunResult(**values) for values in state["results"]]
        logs = {r.digest: path for r in results for path in out.glob(f"runs/*-seed{r.seed}-{r.digest}/log.jsonl")}
        section = table_section(TABLES[key], results, logs, commands)
        extra = [Table(table["columns"], table["rows"], table["caption"]) for table in state["extra_tables"]]
        return replace(section, tables=(*section.tables, *extra))
    if state["kind"] == "figure":
        images = tuple((out / name, caption) for name, caption in state["images"])
        return Section(*FIGURE_TEXTS[key], images=images, commands=commands)
    if state["kind"] == "table4":
        measured, results = state["measured"], [RunResult(**values) for values in state["results"]]
        return Section(
            "Table IV: speed and memory",
            table4.describe_measurement(measured, results),
            tables=(
                Table(table4.COLUMNS, table4.table_rows(measured, results)),
                Table(*table4.saved_memory_rows(measured)),
            ),
            notes=_notes(measured),
            commands=commands,
        )
    tables = tuple(Table(columns, rows) for columns, rows in state["tables"])
    return Section(state["title"], state["intro"], tables=tables, notes=_notes(state), commands=commands)


def _notes(state: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """The notes on candidates, as (name, text)."""
    return tuple((name, note) for name, note in state.get("notes", []))


def _read_state(path: Path) -> dict[str, Any]:
    """Return the state of an experiment; empty for a file of another program."""
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return {}
    return state if isinstance(state, dict) and state.keys() >= {"kind", "command"} else {}


def _write_figure_state(request: ReproductionRequest, key: str, images: Sequence[tuple[Path, str]]) -> None:
    _write_state(request, key, {"kind": "figure", "images": [[path.name, caption] for path, caption in images]})


def _write_state(request: ReproductionRequest, key: str, state: dict[str, Any]) -> None:
    state = {"written_by": figures.WRITER} | state | {"command": request.command}
    write_text(request.out / f"{key}.json", json.dumps(state, indent=1) + "\n")
