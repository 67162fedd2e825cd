"""`sais runs [FOLDER ...]`: the runs there are, newest first; `sais runs compare A B`: two or more side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from sais.commands.arguments import parse
from sais.config import flatten
from sais.errors import SaisError
from sais.reports.run_record import RunRecord, date, duration, find_runs, percent, read_run

COLUMNS = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR100")
"""Scores that are compared."""
BARS = "▁▂▃▄▅▆▇█"
POINTS = 40
"""Most letters of a curve."""


@dataclass(frozen=True)
class RunsArguments:
    """List the runs of `sais train`, newest first: what each is, how far it is, how good. AP in percent.

    `sais runs compare RUN RUN ...` sets some side by side: the settings in which they differ, their scores and curves.
    """

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")] = (Path("runs"),)
    """Where to look, at any depth below; also a run's own folder."""
    json: bool = False
    """Print JSON instead of a table; scores are then shares of 1, times seconds."""


@dataclass(frozen=True)
class CompareArguments:
    """Set runs side by side: the settings in which they differ, their scores, AP over the epochs. AP in percent."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN")] = ()
    """Folders of two runs or more."""
    json: bool = False
    """Print JSON instead of tables; scores are then shares of 1, times seconds."""


def run(argv: Sequence[str]) -> int:
    """Run `sais runs`."""
    if argv and argv[0] == "compare":
        return _compare(parse(CompareArguments, argv[1:], "sais runs compare RUN RUN"))
    arguments = parse(RunsArguments, argv, "sais runs [FOLDER ...]")
    records, left_out = find_runs(arguments.folders)
    if arguments.json:
        print(json.dumps({"runs": [_facts(record) for record in records], "left_out": left_out}, indent=2))
        return 0
    heads = ["run", "recipe", "data", "state", "best AP", "epoch", "mask AP", "box AP", "time", "images/s", "begun"]
    rows = [heads]
    for record in records:
        rows.append(_row(record))
    places = ", ".join(map(str, arguments.folders))
    print(_aligned(rows, left=4) if records else f"{places}: no runs yet; sais train writes them")
    _say_left_out(left_out)
    return 0


def _row(record: RunRecord) -> list[str]:
    best, epoch = record.best() or (None, "-")
    state = record.state if record.state == "finished" else f"{record.state} {record.epoch}/{record.epochs}"
    speed = record.images_per_second
    return [
        str(record.folder),
        record.recipe,
        record.data,
        state,
        percent(best),
        str(epoch),
        percent(record.score("mask")),
        percent(record.score("box")),
        duration(record.seconds),
        "-" if speed is None else f"{speed:.1f}",
        date(record.began),
    ]


def _compare(arguments: CompareArguments) -> int:
    if len(arguments.runs) < 2:
        raise SaisError("sais runs compare: give the folders of two runs or more")
    records = [read_run(folder) for folder in arguments.runs]
    names = [record.name for record in records]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in arguments.runs]
    settings = [flatten(record.experiment) for record in records]
    keys = dict.fromkeys(key for one in settings for key in one)
    values = {key: [one.get(key) for one in settings] for key in keys}
    differing = {key: mine for key, mine in values.items() if any(value != mine[0] for value in mine)}
    if arguments.json:
        print(json.dumps({"runs": [_facts(record) for record in records], "settings": differing}, indent=2))
        return 0
    rows = [["setting", *names], *([key, *map(_shown, mine)] for key, mine in differing.items())]
    print(_aligned(rows) if differing else "no setting differs")
    rows = [["", *names], ["data", *(record.data for record in records)]]
    rows += [["state", *(record.in_words() for record in records)]]
    for kind in ("mask", "box"):
        for name in COLUMNS:
            scores = [record.score(kind, name) for record in records]
            if any(score is not None for score in scores):
                rows.append([f"{kind} {name}", *map(percent, scores)])
    bests = [record.best() for record in records]
    rows.append(["best AP", *("-" if best is None else f"{percent(best[0])} after epoch {best[1]}" for best in bests)])
    rows.append(["time", *(duration(record.seconds) for record in records)])
    speeds = [record.images_per_second for record in records]
    rows.append(["images/s", *("-" if speed is None else f"{speed:.1f}" for speed in speeds)])
    print("\n" + _aligned(rows))
    _print_curves(records, names)
    return 0


def sparkline(values: Sequence[float], top: float) -> str:
    """A curve in letters, from 0 to `top`; of more than `POINTS` values some are left out, never the last."""
    if len(values) > POINTS:
        values = [values[round(i * (len(values) - 1) / (POINTS - 1))] for i in range(POINTS)]
    return "".join(BARS[min(len(BARS) - 1, int(value / top * len(BARS)))] if top > 0 else BARS[0] for value in values)


def _print_curves(records: Sequence[RunRecord], names: Sequence[str]) -> None:
    curves = []
    for record in records:
        found = [(e["metrics"].get(record.kind) or {}).get("AP") for e in record.evaluations]
        curves.append([value for value in found if value is not None])
    top = max((value for curve in curves for value in curve), default=0.0)
    if any(len(curve) > 1 for curve in curves):
        print(f"\nAP over the epochs, the highest bar is {percent(top)}")
        width = max(map(len, names))
        for name, curve in zip(names, curves, strict=True):
            print(f"{name:<{width}}  {sparkline(curve, top)}")


def _facts(record: RunRecord) -> dict[str, Any]:
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
        "began": record.began,
        "left_out_images": record.left_out,
    }


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else "-" if value is None else str(value)


def _aligned(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Columns side by side; the first `left` of them begin at the left, the others end at the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row[:left], widths, strict=False)]
        cells += [cell.rjust(width) for cell, width in zip(row[left:], widths[left:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _say_left_out(left_out: Sequence[str]) -> None:
    if left_out:
        folders = f"{len(left_out)} folder{'s' if len(left_out) != 1 else ''}"
        print(f"\nleft out {folders}:")
        for line in left_out:
            print(f"  {line}")
