"""The record of a run, read from `log.jsonl` in its folder: settings, state, curves, scores. Imports no torch.

A run is running while a process locks its log (`sais.engine.lock`), finished once all iterations are done, and
stopped otherwise: by the user, an error, a crash, or a limit on the number of iterations.
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
from sais.errors import CheckpointError, InputError
from sais.reports.log_entries import clean_metrics, read_log

MAX_LOG_AGE = 15 * 60.0
"""Seconds without a log entry after which a run counts as stopped, on systems without file locks."""
NOT_SEARCHED = {"tensorboard", "wandb", "mlruns"}
"""Names of folders that contain no runs."""


@dataclass(frozen=True)
class RunRecord:
    """The record of a run."""

    folder: Path
    experiment: dict[str, Any]
    """Settings, as `to_dict` returns them."""
    data: str
    """Name of the data set."""
    paths: dict[str, Any]
    """Fields of `DataPaths`."""
    machine: dict[str, Any]
    """Description of the machine by `describe_environment`, with the sais version and the host."""
    notes: list[str]
    """Notes that the run logged at its start."""
    state: Literal["running", "finished", "stopped"]
    reason: str
    """Why the run stopped; empty where it could not log a reason."""
    total: int
    """Number of iterations of the whole run."""
    iterations: list[dict[str, Any]]
    """Log entry of each iteration: iteration, epoch, lr, images_per_second and the losses."""
    evaluations: list[dict[str, Any]]
    """Log entry of each evaluation: iteration, epoch, seconds and metrics as `Metrics.to_dict` returns them."""
    started: float
    """Time of the first start, in seconds since 1970."""
    seconds: float
    """Time spent on the run including evaluations, without the time between a stop and the resumption."""
    unreadable_images: int
    """Number of images that could not be read."""

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.folder.resolve().name

    @property
    def recipe(self) -> str:
        """The recipe that the run started from."""
        return str(self.experiment.get("name", "?"))

    @property
    def epochs(self) -> int:
        """The number of epochs of the whole run."""
        return int((self.experiment.get("schedule") or {}).get("epochs", 0))

    @property
    def epoch(self) -> int:
        """The current or last epoch, counted from 1; 0 before the first iteration."""
        return int(self.iterations[-1]["epoch"]) + 1 if self.iterations else 0

    @property
    def images_per_second(self) -> float | None:
        """The median speed over the iterations."""
        speeds = [e["images_per_second"] for e in self.iterations if "images_per_second" in e]
        return statistics.median(speeds) if speeds else None

    @property
    def kind(self) -> str:
        """The kind of the main metric: "mask", or "box" for a run without masks."""
        return "mask" if any(e["metrics"].get("mask") for e in self.evaluations) else "box"

    def score(self, kind: str, name: str = "AP") -> float | None:
        """Return a score of the last evaluation as a fraction of 1; None where there is none."""
        return _score(self.evaluations[-1], kind, name) if self.evaluations else None

    def best(self) -> tuple[float, int] | None:
        """Return the best AP of the main kind as a fraction of 1, and its epoch, counted from 1."""
        scores = [(_score(entry, self.kind), entry["epoch"] + 1) for entry in self.evaluations]
        known = [(score, epoch) for score, epoch in scores if score is not None]
        return max(known, key=lambda pair: (pair[0], -pair[1]), default=None)

    def describe_state(self) -> str:
        """Describe the state, such as "running in epoch 3 of 12" or "finished early, 9 of 12 epochs"."""
        if self.state == "finished" and 0 < self.epoch < self.epochs:  # `schedule.patience`
            return f"finished early, {self.epoch} of {self.epochs} epochs"
        if self.state == "finished":
            return f"finished, {self.epochs} epoch{'s' if self.epochs != 1 else ''}"
        return f"{self.state} in epoch {self.epoch} of {self.epochs}" if self.epoch else f"{self.state} at the start"


def read_run(folder: Path) -> RunRecord:
    """Read the record of a run.

    Raises:
        CheckpointError: the folder contains no run, or its log cannot be read.
    """
    path = folder / "log.jsonl"
    if not path.is_file():
        raise CheckpointError(f"{folder}: contains no log.jsonl. Give the folder of a run of `sais train`.")
    try:
        entries = read_log(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}). Check its permissions.") from error
    starts = [entry for entry in entries if entry["kind"] == "start"]
    if not starts:
        raise CheckpointError(
            f"{path}: has no start entry of `sais train`; the file is incomplete or of another program. "
            "Give the folder of a run of `sais train`."
        )
    iterations = [entry for entry in entries if entry["kind"] == "iteration"]
    evaluations = [entry for entry in entries if entry["kind"] == "evaluation"]
    if not evaluations:
        evaluations = _evaluations_of_result(folder, iterations)
    stops = [entry for entry in entries if entry["kind"] in ("end", "stop")]
    last = starts[-1]
    reached_total = bool(stops) and stops[-1].get("iteration") == last["total"]
    finished = reached_total or ((folder / "model.safetensors").is_file() and not _was_extended(entries))
    reason = ""
    if entries[-1]["kind"] == "stop":
        reason = entries[-1]["reason"]
    elif entries[-1]["kind"] == "end" and not finished:
        reason = "limit on the number of iterations"
    return RunRecord(
        folder=folder,
        experiment=last["experiment"],
        data=last["data"],
        paths=last["paths"],
        machine=last["machine"],
        notes=starts[0]["notes"],
        state="running" if _is_running(path, entries, finished) else "finished" if finished else "stopped",
        reason=reason,
        total=last["total"],
        iterations=iterations,
        evaluations=evaluations,
        started=starts[0]["time"],
        seconds=_working_seconds(entries),
        unreadable_images=len(stops[-1]["unreadable_images"]) if stops else 0,
    )


def find_runs(folders: Sequence[Path]) -> tuple[list[RunRecord], list[str]]:
    """Find every run in the folders, at any depth.

    Args:
        folders: folders to search.

    Returns:
        The records, newest first, and an error message for each folder that looks like a run but cannot be read.

    Raises:
        InputError: one of the folders does not exist.
    """
    records, errors = [], []
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder. Give a folder that contains runs.")
        for candidate in _candidates(folder):
            try:
                records.append(read_run(candidate))
            except CheckpointError as error:
                errors.append(str(error))
    unique = {record.folder.resolve(): record for record in records}
    return sorted(unique.values(), key=lambda record: -record.started), errors


def format_duration(seconds: float | None) -> str:
    """Format a duration as "45 s", "12 min" or "2.5 h"; "-" for None."""
    if seconds is None:
        return "-"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def format_date(seconds: float) -> str:
    """Format seconds since 1970 as local time, "2026-03-01 14:05"; "-" for 0."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds)) if seconds else "-"


def _candidates(folder: Path) -> Iterable[Path]:
    """Folders that look like runs; the folders below a run are not searched."""
    for path, subfolders, files in os.walk(folder):
        if {"log.jsonl", "experiment.json"} & set(files):
            subfolders[:] = []
            yield Path(path)
        subfolders[:] = sorted(name for name in subfolders if name not in NOT_SEARCHED)


def _evaluations_of_result(folder: Path, iterations: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The evaluation in result.json: `sais reproduce` evaluates a run after its end."""
    try:
        metrics = clean_metrics(json.loads((folder / "result.json").read_text(encoding="utf-8"))["metrics"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []
    if metrics is None:
        return []
    epoch = iterations[-1]["epoch"] if iterations else 0
    return [{"kind": "evaluation", "epoch": epoch, "metrics": metrics}]


def _was_extended(entries: list[dict[str, Any]]) -> bool:
    """Return whether a finished run was resumed with more epochs, which are not done yet."""
    totals = [entry["total"] for entry in entries if entry["kind"] == "start"]
    ends = [entry.get("iteration") for entry in entries if entry["kind"] == "end"]
    return any(total < totals[-1] and total in ends for total in totals) and totals[-1] not in ends


def _is_running(path: Path, entries: list[dict[str, Any]], finished: bool) -> bool:
    locked = is_locked(path.parent)
    if locked is None:
        recent = time.time() - entries[-1]["time"] < MAX_LOG_AGE
        return not finished and entries[-1]["kind"] != "stop" and recent
    return locked


def _working_seconds(entries: list[dict[str, Any]]) -> float:
    """The sum of the times from each start to the last entry before the next start."""
    seconds, started, last = 0.0, None, 0.0
    for entry in entries:
        if entry["kind"] == "start":
            seconds += 0.0 if started is None else last - started
            started = entry["time"]
        last = entry["time"] or last
    return max(0.0, seconds + (0.0 if started is None else last - started))


def _score(evaluation: dict[str, Any], kind: str, name: str = "AP") -> float | None:
    value = (evaluation["metrics"].get(kind) or {}).get(name)
    return None if value is None else float(value)
