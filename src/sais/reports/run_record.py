"""What the folder of a run tells of it: settings, state, curves, scores. Reads `log.jsonl`; no torch.

A run is running while a process holds its log (`sais.engine.lock`), finished once it did all its iterations, and
stopped otherwise: by a person, an error, a crash, or `--steps`.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sais.engine.lock import is_locked
from sais.errors import SaisError

MAX_SILENCE = 15 * 60.0
"""Seconds without a line after which a run counts as stopped, where the system cannot tell who is at it."""
NOT_ENTERED = {"tensorboard", "wandb", "mlruns"}
"""Folders that hold no runs of ours."""

ScoreTable = dict[str, Any]


@dataclass(frozen=True)
class RunRecord:
    """A run as its folder tells it."""

    folder: Path
    experiment: dict[str, Any]
    """The settings, as `to_dict` gives them; whatever an older version wrote."""
    data: str
    """Name of the data set."""
    paths: dict[str, Any]
    """The fields of `DataPaths`; empty where an older version wrote the log."""
    machine: dict[str, Any]
    """Of `describe_machine`, the versions and the host beside; empty in older logs."""
    notes: list[str]
    """What there was to say at the start."""
    state: Literal["running", "finished", "stopped"]
    reason: str
    """Why it stopped, where it could say so."""
    total: int | None
    """Iterations of the whole run; None in an older log of a run that has not finished."""
    iterations: list[dict[str, Any]]
    """Of each iteration: iteration, epoch, lr, images_per_second and the losses."""
    evaluations: list[dict[str, Any]]
    """Of each evaluation: iteration, epoch, seconds and metrics as `Metrics.to_dict` gives them."""
    began: float
    """Seconds since 1970."""
    seconds: float
    """That it was worked at, evaluations included, the time between being stopped and resumed not."""
    left_out: int
    """Images that could not be read."""

    @property
    def name(self) -> str:
        """The folder's."""
        return self.folder.resolve().name

    @property
    def recipe(self) -> str:
        """The recipe it started from."""
        return str(self.experiment.get("name", "?"))

    @property
    def epochs(self) -> int:
        """Of the whole run."""
        return int((self.experiment.get("schedule") or {}).get("epochs", 0))

    @property
    def epoch(self) -> int:
        """The epoch it is in or was stopped in, from 1; 0 before the first iteration."""
        return int(self.iterations[-1]["epoch"]) + 1 if self.iterations else 0

    @property
    def images_per_second(self) -> float | None:
        """The median over the iterations."""
        speeds = [e["images_per_second"] for e in self.iterations if "images_per_second" in e]
        return statistics.median(speeds) if speeds else None

    @property
    def kind(self) -> str:
        """What it is judged by: "mask", or "box" where it has no masks."""
        return "mask" if any(e["metrics"].get("mask") for e in self.evaluations) else "box"

    def score(self, kind: str, name: str = "AP") -> float | None:
        """A score of the last evaluation, a share of 1; None where there is none."""
        return _score(self.evaluations[-1], kind, name) if self.evaluations else None

    def best(self) -> tuple[float, int] | None:
        """The best AP of its kind, a share of 1, and the epoch (from 1) after which it was measured."""
        found = [(_score(e, self.kind), e["epoch"] + 1) for e in self.evaluations]
        known = [(score, epoch) for score, epoch in found if score is not None]
        return max(known, key=lambda one: (one[0], -one[1]), default=None)

    def in_words(self) -> str:
        """running in epoch 3 of 12; finished, 12 epochs; finished early, 9 of 12 epochs; stopped in epoch 3 of 12."""
        if self.state == "finished" and 0 < self.epoch < self.epochs:  # `schedule.patience`
            return f"finished early, {self.epoch} of {self.epochs} epochs"
        if self.state == "finished":
            return f"finished, {self.epochs} epoch{'s' if self.epochs != 1 else ''}"
        return f"{self.state} in epoch {self.epoch} of {self.epochs}" if self.epoch else f"{self.state} at the start"


def read_log(path: Path) -> list[dict[str, Any]]:
    """The entries of a log.jsonl (or of the folder it lies in) but a line cut short; none where there is no file."""
    path = path / "log.jsonl" if path.is_dir() else path
    entries = []
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    entry = json.loads(line)
                except json.JSONDecodeError:
                    continue  # the line that a running process is writing
                if isinstance(entry, dict) and "kind" in entry:
                    entries.append(entry)
    except (FileNotFoundError, NotADirectoryError):
        pass
    return entries


def read_run(folder: Path) -> RunRecord:
    """The record of a run.

    Raises:
        SaisError: the folder holds no run, or its log cannot be read.
    """
    path = folder / "log.jsonl"
    if not path.is_file():
        raise SaisError(f"{folder}: no log.jsonl there; give the folder of a run of `sais train`")
    try:
        entries = read_log(path)
    except OSError as error:
        raise SaisError(f"{path}: cannot be read ({error.strerror}); mend its permissions") from error
    starts = [e for e in entries if e["kind"] == "start" and isinstance(e.get("experiment"), dict)]
    if not starts:
        raise SaisError(f"{path}: no first line of a run of `sais train` in it; another program's, or cut short")
    iterations = [e for e in entries if e["kind"] == "iteration" and _has_numbers(e, "iteration", "epoch")]
    evaluations = [e for e in entries if e["kind"] == "evaluation" and _has_numbers(e, "epoch")]
    if not evaluations:  # `sais reproduce` measures its runs once they are done
        evaluations = _measured_afterwards(folder, iterations)
    stops = [e for e in entries if e["kind"] in ("end", "stop")]
    last, total = starts[-1], starts[-1].get("total")
    finished = (folder / "model.safetensors").is_file() or (
        bool(stops) and total is not None and stops[-1].get("iteration") == total
    )
    reason = ""
    if entries[-1]["kind"] == "stop":
        reason = str(entries[-1].get("reason", ""))
    elif entries[-1]["kind"] == "end" and not finished:
        reason = "as many steps as were asked for"
    return RunRecord(
        folder=folder,
        experiment=last["experiment"],
        data=str(last.get("data", "?")),
        paths=dict(last.get("paths") or {}),
        machine=dict(last.get("machine") or {}),
        notes=[str(note) for note in starts[0].get("notes") or []],
        state="running" if _is_running(path, entries, finished) else "finished" if finished else "stopped",
        reason=reason,
        total=total,
        iterations=iterations,
        evaluations=[e for e in evaluations if isinstance(e.get("metrics"), dict)],
        began=_time(starts[0]),
        seconds=_seconds(entries),
        left_out=len(stops[-1].get("broken") or []) if stops else 0,
    )


def find_runs(folders: Sequence[Path]) -> tuple[list[RunRecord], list[str]]:
    """Every run in the folders and below, newest first, and a line for each folder that looks like one and is none.

    Raises:
        SaisError: one of the folders is not there.
    """
    records, left_out = [], []
    for folder in folders:
        if not folder.is_dir():
            raise SaisError(f"{folder}: no such folder; give one that holds runs (sais runs FOLDER)")
        for place in _candidates(folder):
            try:
                records.append(read_run(place))
            except SaisError as error:
                left_out.append(str(error))
    unique = {record.folder.resolve(): record for record in records}
    return sorted(unique.values(), key=lambda record: -record.began), left_out


def duration(seconds: float | None) -> str:
    """A length of time for a person; - for None."""
    if seconds is None:
        return "-"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def date(moment: float) -> str:
    """2026-03-01 14:05, in the time of this place; - where it is not known."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(moment)) if moment else "-"


def percent(share: float | None) -> str:
    """38.4 of 0.384; - for None."""
    return "-" if share is None else f"{100 * share:.1f}"


def _candidates(folder: Path) -> Iterable[Path]:
    """Folders that look like runs; nothing below one is another."""
    for place, below, files in os.walk(folder):
        if {"log.jsonl", "experiment.json"} & set(files):
            below[:] = []
            yield Path(place)
        below[:] = sorted(name for name in below if name not in NOT_ENTERED)


def _measured_afterwards(folder: Path, iterations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    try:
        metrics = json.loads((folder / "result.json").read_text(encoding="utf-8"))["metrics"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    epoch = iterations[-1]["epoch"] if iterations else 0
    return [{"kind": "evaluation", "epoch": epoch, "metrics": metrics}]


def _is_running(path: Path, entries: list[dict[str, Any]], finished: bool) -> bool:
    held = is_locked(path)
    if held is None:
        held = not finished and entries[-1]["kind"] != "stop" and time.time() - _time(entries[-1]) < MAX_SILENCE
    return held


def _seconds(entries: list[dict[str, Any]]) -> float:
    """From each start to the last line before the next."""
    seconds, began, last = 0.0, None, 0.0
    for entry in entries:
        if entry["kind"] == "start":
            seconds += 0.0 if began is None else last - began
            began = _time(entry)
        last = _time(entry) or last
    return max(0.0, seconds + (0.0 if began is None else last - began))


def _time(entry: dict[str, Any]) -> float:
    value = entry.get("time")
    return float(value) if isinstance(value, (int, float)) else 0.0


def _has_numbers(entry: dict[str, Any], *names: str) -> bool:
    return all(isinstance(entry.get(name), int) for name in names)


def _score(evaluation: dict[str, Any], kind: str, name: str = "AP") -> float | None:
    found = evaluation["metrics"].get(kind)
    value = found.get(name) if isinstance(found, dict) else None
    return float(value) if isinstance(value, (int, float)) else None
