"""The state of a run, read from its log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sais.reports.run_record import read_run

START = {"kind": "start", "experiment": {"schedule": {"epochs": 3}}, "data": "d", "paths": {}, "machine": {}}


@pytest.mark.parametrize(
    ("events", "state"),
    [
        ([("start", 6), ("end", 6)], "finished"),
        ([("start", 6), ("end", 6), ("start", 9)], "stopped"),  # killed while it trained more epochs
        ([("start", 6), ("end", 6), ("start", 9), ("stop", 7)], "stopped"),
        ([("start", 6), ("end", 6), ("start", 9), ("end", 9)], "finished"),
        ([("start", 9), ("end", 6)], "finished"),  # early, by schedule.patience
        ([("start", 6), ("end", 6), ("start", 6)], "finished"),  # resumed without anything left
    ],
)
def test_read_run_knows_a_run_with_more_epochs(tmp_path: Path, events: list[tuple[str, int]], state: str) -> None:
    entries: list[dict[str, Any]] = []
    for kind, number in events:
        entries.append(START | {"total": number} if kind == "start" else {"kind": kind, "iteration": number})
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(entry | {"time": 1.0}) + "\n" for entry in entries))
    (tmp_path / "model.safetensors").touch()
    assert read_run(tmp_path).state == state
