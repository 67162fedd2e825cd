"""What a run's report says from its log alone: figures at a glance, curves of training, settings, machine."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator
from html import escape
from typing import Any

from sais.config import Experiment, flatten, to_dict
from sais.engine.environment import format_environment
from sais.recipes import RECIPES
from sais.reports.charts import ChartLine, chart, figure, legend, settled, smoothed
from sais.reports.html_tables import plain_table
from sais.reports.run_record import RunRecord, date, duration, percent

TERMS = ("total", "classification", "box", "centerness", "mask")
"""Losses in the order they are shown; others follow."""
TITLES = {"total": "loss, all terms", "gradient": "norm of the gradient"}
"""What is not called after its name."""
NO_LOSS = {"kind", "time", "iteration", "epoch", "lr", "images_per_second"}
"""What an iteration's line has beside its losses."""


def glance(record: RunRecord, metrics: dict[str, Any] | None, found: tuple[float, float] | None) -> str:
    """The big numbers.

    Args:
        metrics: of the weights that the report is about; those of the last evaluation by default.
        found: share of the objects found and of the detections right, where detections were judged.
    """
    if metrics is None and record.evaluations:
        metrics = record.evaluations[-1]["metrics"]
    cells = []
    for kind in ("mask", "box"):
        scores = (metrics or {}).get(kind)
        if scores:
            below = " · ".join(f"{name} {percent(scores.get(name))}" for name in ("AP50", "AP75"))
            cells.append((f"{kind} AP", percent(scores.get("AP")), "", below))
    if found is not None:
        objects, right = found
        cells.append(("objects found", percent(objects), "%", f"of what it finds, {percent(right)} % are right"))
    best = record.best()
    if best is not None and len(record.evaluations) > 1:
        cells.append(("best AP on the way", percent(best[0]), "", f"of {record.kind}, after epoch {best[1]}"))
    time, _, unit = duration(record.seconds).partition(" ")
    cells.append(("time", time, unit, f"{len(record.iterations)} iterations"))
    speed = record.images_per_second
    if speed is not None:
        cells.append(("speed", f"{speed:.1f}", "images/s", "in training, median"))
    boxes = [
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)} <span>{escape(unit)}</span></dd><p>{escape(below)}</p></div>"
        for name, value, unit, below in cells
    ]
    return f'<dl class="figures">{"".join(boxes)}</dl>'


def training(record: RunRecord) -> str:
    """Losses, learning rate and speed over iterations, AP over epochs."""
    drawn = [*_scores(record), *_losses(record), *_rates(record)]
    return f'<div class="charts">{"".join(drawn)}</div>' if drawn else "<p>Not one iteration is logged yet.</p>"


def settings(record: RunRecord) -> str:
    """Those that are not the recipe's, then those in which the recipe is not the paper's, then all others."""
    own = _setting_texts(record.experiment)
    own.pop("name", None)
    paper = _setting_texts(to_dict(Experiment()))
    build = RECIPES.get(record.recipe)
    base = _setting_texts(to_dict(build())) if build else paper
    changed = [key for key in own if (key in base and own[key] != base[key]) or key not in paper]
    other = [key for key in own if key not in changed and own[key] != paper.get(key)]
    rest = [key for key in own if key not in changed and key not in other]
    name = f"the recipe {record.recipe}" if build else "the paper"
    parts = []
    if changed:
        head = ["setting", "this run", record.recipe, "paper"] if build else ["setting", "this run", "paper"]
        rows = [[key, own[key], *([base.get(key, "-")] if build else []), paper.get(key, "-")] for key in changed]
        parts.append(plain_table(head, rows, caption=f"Other than {name} has it"))
    else:
        parts.append(f"<p>All as {escape(name)} has it.</p>")
    for title, keys in ((f"Where {name} is not the paper's", other), ("As in the paper", rest)):
        if keys:
            table = plain_table(["setting", "this run", "paper"], [[key, own[key], paper[key]] for key in keys])
            parts.append(f"<details><summary>{escape(title)}: {len(keys)} settings</summary>{table}</details>")
    return "".join(parts)


def surroundings(record: RunRecord) -> str:
    """Machine, versions, data, notes; the commands that go on from here."""
    notes = [("data", _data(record)), ("begun", date(record.began)), ("state", _state(record))]
    if record.machine:
        made = record.machine
        versions = f"sais {made.get('sais', '?')}, torch {made.get('torch', '?')}, Python {made.get('python', '?')}"
        notes += [("machine", _machine(record)), ("versions", versions)]
    notes += [("note", note) for note in record.notes]
    if record.left_out:
        notes.append(("left out", f"{record.left_out} images that cannot be read (listed in log.jsonl)"))
    pairs = "".join(f"<div><dt>{escape(word)}</dt><dd>{escape(text)}</dd></div>" for word, text in notes)
    run = _quoted(str(record.folder))
    commands = [f"sais predict {run} YOUR_IMAGES", f"sais eval {run} --data {_quoted(_place(record))}"]
    if record.state != "finished":
        recipe, data = _quoted(record.recipe), _quoted(_place(record))
        commands.append(f"sais train {recipe} --data {data} --out {run} --resume")
    code = escape("\n".join(commands))
    return (
        f'<dl class="notes">{pairs}</dl><div class="made"><span>go on with</span><pre><code>{code}</code></pre></div>'
    )


def _losses(record: RunRecord) -> Iterator[str]:
    names = list(dict.fromkeys(name for entry in record.iterations for name in entry if name not in NO_LOSS))
    ordered = [name for name in TERMS if name in names] + [name for name in names if name not in TERMS]
    for number, name in enumerate(ordered):
        points = _points(record, name)
        if points:
            line = ChartLine(name, smoothed(points, 120), number)
            title = TITLES.get(name, f"{name} loss")
            yield figure(title, chart([line], title, "iteration", y=settled([line]), whole=True))


def _scores(record: RunRecord) -> Iterator[str]:
    lines = []
    for number, kind in enumerate(("mask", "box")):
        points = []
        for entry in record.evaluations:
            value = (entry["metrics"].get(kind) or {}).get("AP")
            if isinstance(value, (int, float)):
                points.append((float(entry["epoch"] + 1), 100.0 * value))
        if points:
            lines.append(ChartLine(f"{kind} AP", points, number))
    if lines and max(len(line.points) for line in lines) > 1:
        svg = chart(lines, "AP over epochs", "epoch", lambda v: f"{v:.1f}".removesuffix(".0"), whole=True, dots=True)
        yield figure("AP after each evaluation", svg, legend(lines))


def _rates(record: RunRecord) -> Iterator[str]:
    rates = _points(record, "lr")
    if rates:
        thinned = rates[:: max(1, len(rates) // 300)] + rates[-1:]
        yield figure("learning rate", chart([ChartLine("lr", thinned, 3)], "learning rate", "iteration", whole=True))
    speeds = _points(record, "images_per_second")
    if speeds:
        line = ChartLine("images/s", smoothed(speeds, 120), 4)
        yield figure("images per second", chart([line], "speed", "iteration", lambda v: f"{v:.3g}", whole=True))


def _points(record: RunRecord, name: str) -> list[tuple[float, float]]:
    found = [(e["iteration"], e.get(name)) for e in record.iterations]
    return [(float(i), float(v)) for i, v in found if isinstance(v, (int, float)) and math.isfinite(v)]


def _setting_texts(settings: dict[str, Any]) -> dict[str, str]:
    """Dotted name -> value as text of each setting."""
    return {name: _setting_text(value) for name, value in flatten(settings).items()}


def _setting_text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return " ".join(_worded(item) for item in value) or "none"
    return _worded(value)


def _worded(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else "none" if value is None else str(value)


def _data(record: RunRecord) -> str:
    place = _place(record)
    return record.data if place == record.data else f"{record.data} ({place})"


def _place(record: RunRecord) -> str:
    return str(record.paths.get("data") or record.paths.get("train_annotations") or record.data)


def _machine(record: RunRecord) -> str:
    known = {"device", "name", "cores", "threads", "torch"} <= record.machine.keys()
    host = record.machine.get("host")
    return (format_environment(record.machine) if known else "?") + (f", on {host}" if host else "")


def _state(record: RunRecord) -> str:
    return record.in_words() + (f": {record.reason}" if record.reason else "")


def _quoted(word: str) -> str:
    return shlex.quote(word)
