"""The entries of a `log.jsonl`, checked: what another program, a damaged disk or an editor left there is dropped.

Everything that reads a run relies on the types here, so that one odd line cannot break the list of all runs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MAX_LINE_BYTES = 2**26
"""Longer lines are dropped; the start entry of a run with 15,000 classes has 1 MB."""
MAX_COUNT = 2**53
"""Maximum of iterations and epochs; a float holds each exactly."""
MAX_TIME = 2.0**33
"""Maximum of a time in seconds since 1970: the year 2242, beyond which not every system can format it."""
MAX_DEPTH = 3
"""Maximum nesting of the settings."""


def read_log(path: Path) -> list[dict[str, Any]]:
    """Read the entries of a log.jsonl.

    Args:
        path: the file, or the folder that contains it.

    Returns:
        All complete and valid entries; empty where there is no file.
    """
    path = path / "log.jsonl" if path.is_dir() else path
    if not path.is_file():  # not a pipe, either
        return []
    with path.open("rb") as file:
        return [entry for entry in map(_parse, _lines(file)) if entry is not None]


def is_number(value: Any) -> bool:
    """Return whether a value from JSON is a finite number."""
    return type(value) in (int, float) and abs(value) <= 1e300


def is_count(value: Any) -> bool:
    """Return whether a value from JSON is a number of iterations or epochs."""
    return type(value) is int and 0 <= value <= MAX_COUNT


def clean_metrics(metrics: Any) -> dict[str, Any] | None:
    """Return metrics as `Metrics.to_dict` returns them, without values of other types; None if they are not metrics."""
    if not isinstance(metrics, dict):
        return None
    cleaned: dict[str, Any] = {name: value for name, value in metrics.items() if is_number(value)}
    for kind in ("box", "mask"):
        scores = metrics.get(kind)
        cleaned[kind] = _clean_scores(scores) if isinstance(scores, dict) else None
        if isinstance(scores, dict) and isinstance(scores.get("per_class"), dict):
            cleaned[kind]["per_class"] = _clean_scores(scores["per_class"])
    return cleaned


def _clean_scores(scores: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in scores.items() if value is None or is_number(value)}


def _lines(file: Any) -> Iterator[bytes]:
    """Yield the lines of a binary file, except for those that are too long."""
    complete = True
    while line := file.readline(MAX_LINE_BYTES):
        if complete and (line.endswith(b"\n") or len(line) < MAX_LINE_BYTES):
            yield line
        complete = line.endswith(b"\n")


def _parse(line: bytes) -> dict[str, Any] | None:
    """Return the entry of a line; None for a line that a process is writing, or that no run writes."""
    try:
        entry = json.loads(line.decode("utf-8", errors="replace"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, dict) or not isinstance(entry.get("kind"), str):
        return None
    if not (is_number(entry.get("time")) and 0 <= entry["time"] <= MAX_TIME):
        entry["time"] = 0.0
    clean = CLEANERS.get(entry["kind"])
    return entry if clean is None else clean(entry)


def _clean_start(entry: dict[str, Any]) -> dict[str, Any] | None:
    if not (is_count(entry.get("total")) and _is_settings(entry.get("experiment"), MAX_DEPTH)):
        return None
    schedule = entry["experiment"].get("schedule", {})
    if not isinstance(schedule, dict) or not is_count(schedule.get("epochs", 0)):
        return None
    paths, machine, notes = entry.get("paths"), entry.get("machine"), entry.get("notes", [])
    if not (isinstance(paths, dict) and all(_is_path_option(value) for value in paths.values())):
        return None
    if not (isinstance(machine, dict) and "data" in entry):
        return None
    machine = {name: value for name, value in machine.items() if value is None or isinstance(value, (str, int, float))}
    notes = [str(note) for note in notes if isinstance(note, str)] if isinstance(notes, list) else []
    return entry | {"data": str(entry["data"]), "machine": machine, "notes": notes}


def _clean_iteration(entry: dict[str, Any]) -> dict[str, Any] | None:
    if not (is_count(entry.get("iteration")) and is_count(entry.get("epoch"))):
        return None
    return {name: value for name, value in entry.items() if name == "kind" or is_number(value)}


def _clean_evaluation(entry: dict[str, Any]) -> dict[str, Any] | None:
    metrics = clean_metrics(entry.get("metrics"))
    if metrics is None or not is_count(entry.get("epoch")):
        return None
    return entry | {"metrics": metrics}


def _clean_stop(entry: dict[str, Any]) -> dict[str, Any]:
    images = entry.get("unreadable_images")
    return entry | {"unreadable_images": images if isinstance(images, list) else [], "reason": _text(entry, "reason")}


CLEANERS = {
    "start": _clean_start,
    "iteration": _clean_iteration,
    "evaluation": _clean_evaluation,
    "stop": _clean_stop,
    "end": _clean_stop,
}
"""Kind of an entry -> function that returns it with values of the right types only, or None."""


def _text(entry: dict[str, Any], name: str) -> str:
    return entry[name] if isinstance(entry.get(name), str) else ""


def _is_settings(value: Any, depth: int) -> bool:
    """Return whether a value is a group of settings, nested at most `depth` times."""
    return isinstance(value, dict) and all(_is_setting(item, depth - 1) for item in value.values())


def _is_setting(value: Any, depth: int) -> bool:
    if isinstance(value, dict):
        return depth > 0 and _is_settings(value, depth)
    if isinstance(value, list):
        return all(item is None or isinstance(item, (str, bool)) or is_number(item) for item in value)
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, (str, bool)) or is_number(value)


def _is_path_option(value: Any) -> bool:
    """Return whether a value is that of a field of `DataPaths`."""
    if isinstance(value, list):
        return all(isinstance(item, str) for item in value)
    return value is None or isinstance(value, bool) or (isinstance(value, str) and "\0" not in value)
