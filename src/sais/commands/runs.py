"""`sais runs [FOLDER ...]`: list runs, newest first; `sais runs compare RUN RUN`: compare two or more runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from sais.commands.arguments import parse
from sais.config import flatten
from sais.errors import InputError
from sais.evaluation.coco_metrics import format_ap
from sais.reports.run_record import RunRecord, find_runs, format_date, format_duration, read_run
from sais.text import pad, print_json, print_text, printable, short_names, text_width

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")
"""Metrics that are compared."""
LIST_COLUMNS = (
    *("run", "recipe", "data", "state", "best AP", "epoch"),
    *("mask AP", "box AP", "time", "images/s", "started"),
)
TEXT_COLUMNS = 4
"""Number of left-aligned columns of the list."""
FILE_WIDTH = 500
"""Width of a table in columns if the output is not a terminal."""
BARS = "▁▂▃▄▅▆▇█"
MAX_CELL = 500
"""Maximum number of characters of a cell."""
MAX_BARS = 40
"""Maximum length of a sparkline in characters."""
OPTIONAL_COLUMNS = ("images/s", "started", "epoch", "time", "box AP")
"""Columns that are left out on a narrow terminal, the first one first; `--json` has them all."""


@dataclass(frozen=True)
class RunsArguments:
    """List the runs of `sais train`, newest first, with settings, state and scores. AP as fractions of 1.

    `sais runs compare RUN RUN ...` compares runs: the settings in which they differ, their scores and curves.
    """

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")] = (Path("runs"),)
    """Folders to search at any depth; also the folder of a run."""
    json: bool = False
    """Print JSON instead of a table; scores are fractions of 1, times are seconds."""


@dataclass(frozen=True)
class CompareArguments:
    """Compare runs: the settings in which they differ, their scores, AP over epochs. AP as fractions of 1."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN")] = ()
    """Folders of two runs or more."""
    json: bool = False
    """Print JSON instead of tables; scores are fractions of 1, times are seconds."""


def run(argv: Sequence[str]) -> int:
    """Run `sais runs`."""
    if argv and argv[0] == "compare":
        return _compare(parse(CompareArguments, argv[1:], "sais runs compare RUN RUN"))
    arguments = parse(RunsArguments, argv, "sais runs [FOLDER ...]")
    records, errors = find_runs(arguments.folders)
    if arguments.json:
        print_json({"runs": [_facts(record) for record in records], "errors": errors})
        return 0
    if records:
        _print_table(LIST_COLUMNS, [_list_row(record) for record in records], TEXT_COLUMNS)
    else:
        print_text(f"{', '.join(map(printable, arguments.folders))}: no runs yet. `sais train` creates them.")
    if errors:
        print_text("", f"{len(errors)} unreadable folder{'s' if len(errors) != 1 else ''}:", sep="\n")
        for error in errors:
            print_text(f"  {printable(error)}")
    return 0


def sparkline(values: Sequence[float], maximum: float) -> str:
    """Draw a curve in characters.

    Args:
        values: values of the curve; if there are more than 40, some are omitted, but never the last.
        maximum: value of the highest bar; the lowest bar is 0.
    """
    if len(values) > MAX_BARS:
        values = [values[round(i * (len(values) - 1) / (MAX_BARS - 1))] for i in range(MAX_BARS)]
    if maximum <= 0:
        return BARS[0] * len(values)
    return "".join(BARS[max(0, min(len(BARS) - 1, int(value / maximum * len(BARS))))] for value in values)


def _compare(arguments: CompareArguments) -> int:
    if len(arguments.runs) < 2:
        raise InputError("sais runs compare: fewer than two runs. Give the folders of two runs or more.")
    records = [read_run(folder) for folder in arguments.runs]
    names = [record.name for record in records]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in arguments.runs]
    settings = [flatten(record.experiment) for record in records]
    keys = dict.fromkeys(key for values in settings for key in values)
    by_key = {key: [values.get(key) for values in settings] for key in keys}
    differing = {key: values for key, values in by_key.items() if any(value != values[0] for value in values)}
    if arguments.json:
        print_json({"runs": [_facts(record) for record in records], "settings": differing})
        return 0
    if differing:
        _print_table(["setting", *names], [[key, *map(_format_value, values)] for key, values in differing.items()])
    else:
        print_text("no setting differs")
    print_text()
    _print_table(["", *names], _score_rows(records))
    _print_curves(records, names)
    return 0


def _list_row(record: RunRecord) -> list[str]:
    best, epoch = record.best() or (None, "-")
    progress = record.state if record.state == "finished" else f"{record.state} {record.epoch}/{record.epochs}"
    return [
        str(record.folder),
        record.recipe,
        record.data,
        progress,
        format_ap(best),
        str(epoch),
        format_ap(record.score("mask")),
        format_ap(record.score("box")),
        format_duration(record.seconds),
        _format_speed(record),
        format_date(record.started),
    ]


def _score_rows(records: Sequence[RunRecord]) -> list[list[str]]:
    """The rows of data, state, scores and times in a comparison."""
    rows = [["data", *(record.data for record in records)]]
    rows.append(["state", *(record.describe_state() for record in records)])
    for kind in ("mask", "box"):
        for name in METRICS:
            scores = [record.score(kind, name) for record in records]
            if any(score is not None for score in scores):
                rows.append([f"{kind} {name}", *map(format_ap, scores)])
    bests = [record.best() for record in records]
    best_texts = ("-" if best is None else f"{format_ap(best[0])} after epoch {best[1]}" for best in bests)
    rows.append(["best AP", *best_texts])
    rows.append(["time", *(format_duration(record.seconds) for record in records)])
    rows.append(["images/s", *map(_format_speed, records)])
    return rows


def _print_curves(records: Sequence[RunRecord], names: Sequence[str]) -> None:
    """Print a sparkline of AP for each run, if one has been evaluated more than once."""
    curves = []
    for record in records:
        scores = [(entry["metrics"].get(record.kind) or {}).get("AP") for entry in record.evaluations]
        curves.append([score for score in scores if score is not None])
    maximum = max((score for curve in curves for score in curve), default=0.0)
    if any(len(curve) > 1 for curve in curves):
        print_text("", f"AP over epochs; the highest bar is {format_ap(maximum)}", sep="\n")
        names = short_names(names)
        width = max(map(text_width, names))
        for name, curve in zip(names, curves, strict=True):
            print_text(f"{pad(name, width)}  {sparkline(curve, maximum)}")


def _facts(record: RunRecord) -> dict[str, Any]:
    """The record as values for JSON."""
    best = record.best()
    return {
        "folder": str(record.folder),
        "recipe": record.recipe,
        "data": record.data,
        "state": record.state,
        "reason": record.reason,
        "epoch": record.epoch,
        "epochs": record.epochs,
        "best_AP": None if best is None else best[0],
        "best_epoch": None if best is None else best[1],
        "metrics": record.evaluations[-1]["metrics"] if record.evaluations else None,
        "seconds": round(record.seconds, 1),
        "images_per_second": record.images_per_second,
        "started": record.started,
        "unreadable_images": record.unreadable_images,
    }


def _format_speed(record: RunRecord) -> str:
    return "-" if record.images_per_second is None else f"{record.images_per_second:.1f}"


def _format_value(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else "-" if value is None else str(value)


def _print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int = 1) -> None:
    """Print a table, in plain text if the output is not a terminal.

    Args:
        columns: names of the columns.
        rows: cells of the rows.
        text_columns: number of left-aligned columns at the left; the others are right-aligned.
    """
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        console = Console(markup=False, emoji=False, highlight=False, width=FILE_WIDTH)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    columns, *rows = [[printable(cell, MAX_CELL) for cell in cells] for cells in (columns, *rows)]
    shown = _fitting_columns(columns, rows, console.width)
    for number in shown:
        table.add_column(columns[number], justify="left" if number < text_columns else "right", overflow="fold")
    for row in rows:
        table.add_row(*(row[number] for number in shown))
    console.print(table)


def _fitting_columns(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[int]:
    """Return the indices of the columns to show, without those of `OPTIONAL_COLUMNS` that do not fit the terminal."""
    from rich.cells import cell_len

    widths = [2 + max(map(cell_len, cells)) for cells in zip(columns, *rows, strict=True)]
    shown = list(range(len(columns)))
    for name in OPTIONAL_COLUMNS:
        if sum(widths[number] for number in shown) - 2 <= width:
            break
        shown = [number for number in shown if columns[number] != name]
    return shown
