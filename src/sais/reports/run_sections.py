"""The sections of a run's report that need its log only: key figures, training curves, settings, environment."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sais.config import Experiment, flatten, to_dict
from sais.engine.environment import format_environment
from sais.evaluation.coco_metrics import format_ap
from sais.recipes import RECIPES
from sais.reports.charts import Chart, Series, format_fraction, line_chart, loss_limits, smooth
from sais.reports.html_tables import Table
from sais.reports.run_record import RunRecord, format_date, format_duration

LOSS_TERMS = ("total", "classification", "box", "centerness", "mask")
"""Losses in their order on the page; other losses follow."""
CHART_TITLES = {"total": "total loss", "gradient": "gradient norm"}
"""Titles of charts that are not named after their loss."""
NOT_LOSSES = {"kind", "time", "iteration", "epoch", "lr", "images_per_second"}
"""Keys of a log entry of an iteration that are not losses."""


@dataclass(frozen=True)
class KeyFigure:
    """A number at the top of the page."""

    name: str
    value: str
    unit: str
    detail: str


@dataclass(frozen=True)
class SettingsSection:
    """The settings of a run, compared with its recipe and with the defaults."""

    base: str
    """Name of what the settings are compared with first: the recipe, or the defaults for an unknown recipe."""
    changed: Table | None
    """Settings that differ from the base; None where none does."""
    others: list[tuple[str, Table]]
    """(title, table) of the remaining settings."""


def key_figures(
    record: RunRecord, metrics: dict[str, Any] | None, rates: tuple[float, float] | None
) -> list[KeyFigure]:
    """Collect the key figures of a run.

    Args:
        record: record of the run.
        metrics: metrics of the evaluated weights as `Metrics.to_dict` returns them; those of the last logged
            evaluation by default.
        rates: fraction of the objects that were found and of the detections that are correct; None without
            detections.
    """
    if metrics is None and record.evaluations:
        metrics = record.evaluations[-1]["metrics"]
    figures = []
    for kind in ("mask", "box"):
        scores = (metrics or {}).get(kind)
        if scores:
            detail = " · ".join(f"{name} {format_ap(scores.get(name))}" for name in ("AP50", "AP75"))
            figures.append(KeyFigure(f"{kind} AP", format_ap(scores.get("AP")), "", detail))
    if rates is not None:
        recall, precision = map(format_ap, rates)
        figures.append(KeyFigure("objects found", recall, "", f"{precision} of the detections are correct"))
    best = record.best()
    if best is not None and len(record.evaluations) > 1:
        detail = f"{record.kind} AP after epoch {best[1]}"
        figures.append(KeyFigure("best AP in training", format_ap(best[0]), "", detail))
    time, _, unit = format_duration(record.seconds).partition(" ")
    figures.append(KeyFigure("time", time, unit, f"{len(record.iterations)} iterations"))
    speed = record.images_per_second
    if speed is not None:
        figures.append(KeyFigure("speed", f"{speed:.1f}", "images/s", "median in training"))
    return figures


def training_charts(record: RunRecord) -> list[Chart]:
    """Draw losses, learning rate and speed over iterations, and AP over epochs."""
    return [*_loss_charts(record), *_ap_charts(record), *_rate_charts(record)]


def settings_section(record: RunRecord) -> SettingsSection:
    """Compare the settings of a run with those of its recipe and with the defaults."""
    run = _setting_texts(record.experiment)
    run.pop("name", None)
    defaults = _setting_texts(to_dict(Experiment()))
    build = RECIPES.get(record.recipe)
    base = _setting_texts(to_dict(build())) if build else defaults
    changed = [key for key in run if (key in base and run[key] != base[key]) or key not in defaults]
    recipe_only = [key for key in run if key not in changed and run[key] != defaults.get(key)]
    unchanged = [key for key in run if key not in changed and key not in recipe_only]
    base_name = f"the recipe {record.recipe}" if build else "the defaults"
    table = None
    if changed:
        columns = ["setting", "this run", *([record.recipe] if build else []), "default"]
        bases = [base, defaults] if build else [defaults]
        rows = [[key, run[key], *(texts.get(key, "-") for texts in bases)] for key in changed]
        table = Table(columns, rows, caption=f"Settings that differ from {base_name}")
    others = []
    for title, keys in (
        (f"Settings in which {base_name} differs from the defaults", recipe_only),
        ("Defaults", unchanged),
    ):
        if keys:
            rows = [[key, run[key], defaults[key]] for key in keys]
            others.append((f"{title} ({len(keys)})", Table(["setting", "this run", "default"], rows)))
    return SettingsSection(base_name, table, others)


def environment_notes(record: RunRecord) -> list[tuple[str, str]]:
    """Collect (name, text) pairs about data, state, machine and versions of a run."""
    data = _data_path(record)
    notes = [
        ("data", record.data if data == record.data else f"{record.data} ({data})"),
        ("started", format_date(record.started)),
        ("state", record.describe_state() + (f": {record.reason}" if record.reason else "")),
    ]
    machine = record.machine
    if machine:
        host = machine.get("host")
        notes.append(("machine", format_environment(machine) + (f", host {host}" if host else "")))
        versions = (f"{name} {machine.get(key, '?')}" for name, key in VERSIONS)
        notes.append(("versions", ", ".join(versions)))
    notes += [("note", note) for note in record.notes]
    if record.unreadable_images:
        notes.append(("unreadable images", f"{record.unreadable_images} (listed in log.jsonl)"))
    return notes


VERSIONS = (("sais", "sais"), ("torch", "torch"), ("Python", "python"))
"""(name on the page, key in the log) of the versions."""


def next_commands(record: RunRecord) -> list[str]:
    """Return commands that use the run, or resume it."""
    run, data = shlex.quote(str(record.folder)), shlex.quote(_data_path(record))
    commands = [f"sais predict {run} YOUR_IMAGES", f"sais eval {run} --data {data}"]
    if record.state != "finished":
        commands.append(f"sais train {shlex.quote(record.recipe)} --data {data} --out {run} --resume")
    return commands


def _loss_charts(record: RunRecord) -> Iterator[Chart]:
    names = list(dict.fromkeys(name for entry in record.iterations for name in entry if name not in NOT_LOSSES))
    ordered = [name for name in LOSS_TERMS if name in names] + [name for name in names if name not in LOSS_TERMS]
    for color, name in enumerate(ordered):
        points = smooth(_points(record, name), 120)
        if points:
            title = CHART_TITLES.get(name, f"{name} loss")
            series, limits = [Series(name, points, color)], loss_limits([points])
            svg = line_chart(f"loss-{name}", series, title, "iteration", y_limits=limits, integer_x=True)
            yield Chart(title, svg)


def _ap_charts(record: RunRecord) -> Iterator[Chart]:
    series = []
    for color, kind in enumerate(("mask", "box")):
        points = []
        for entry in record.evaluations:
            value = (entry["metrics"].get(kind) or {}).get("AP")
            if isinstance(value, (int, float)):
                points.append((float(entry["epoch"] + 1), float(value)))
        if points:
            series.append(Series(f"{kind} AP", points, color))
    if series and max(len(curve.points) for curve in series) > 1:
        svg = line_chart(
            "ap",
            series,
            "AP over epochs",
            "epoch",
            format_fraction,
            integer_x=True,
            markers=True,
        )
        yield Chart("AP of each evaluation", svg, tuple(series))


def _rate_charts(record: RunRecord) -> Iterator[Chart]:
    rates = _points(record, "lr")
    if rates:
        thinned = rates[:: max(1, len(rates) // 300)] + rates[-1:]
        svg = line_chart("lr", [Series("lr", thinned, 3)], "learning rate", "iteration", integer_x=True)
        yield Chart("learning rate", svg)
    speeds = smooth(_points(record, "images_per_second"), 120)
    if speeds:
        series = [Series("images/s", speeds, 4)]
        svg = line_chart("speed", series, "speed", "iteration", lambda value: f"{value:.3g}", integer_x=True)
        yield Chart("images per second", svg)


def _points(record: RunRecord, name: str) -> list[tuple[float, float]]:
    """(iteration, value) of the iterations that logged a finite value."""
    values = [(entry["iteration"], entry.get(name)) for entry in record.iterations]
    return [(float(i), float(v)) for i, v in values if isinstance(v, (int, float)) and math.isfinite(v)]


def _setting_texts(settings: dict[str, Any]) -> dict[str, str]:
    """Dotted name -> value as text of each setting."""
    return {name: _setting_text(value) for name, value in flatten(settings).items()}


def _setting_text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return " ".join(map(_setting_text, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else "none" if value is None else str(value)


def _data_path(record: RunRecord) -> str:
    return str(record.paths.get("data") or record.paths.get("train_annotations") or record.data)
