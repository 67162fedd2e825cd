"""Odd logs: none of them ends the list of runs, and their other entries are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sais.cli import main
from sais.config import Experiment, to_dict
from sais.errors import CheckpointError
from sais.reports.log_entries import clean_metrics, read_log
from sais.reports.run_record import read_run

START: dict[str, Any] = {
    "kind": "start",
    "time": 1.0,
    "iteration": 0,
    "total": 2,
    "experiment": to_dict(Experiment()),
    "data": "d",
    "paths": {"data": "d"},
    "machine": {"device": "cpu", "name": "x"},
    "notes": ["n"],
}
STEP: dict[str, Any] = {"kind": "iteration", "time": 2.0, "iteration": 1, "epoch": 0, "total": 1.0, "lr": 0.1}
SCORES = {"AP": 0.5, "AP50": None, "per_class": {"a": 0.5}}
EVALUATION: dict[str, Any] = {"kind": "evaluation", "time": 3.0, "epoch": 0, "metrics": {"box": SCORES, "mask": None}}
END: dict[str, Any] = {"kind": "end", "time": 4.0, "iteration": 2, "unreadable_images": []}
ODD: list[Any] = [
    *(None, True, -1, 10**400, 1e300, "", "text", "\0", [], [None], {}, {"a": {"b": {"c": {"d": {}}}}}, [[[]]]),
    *(float("nan"), float("-inf")),
]


def write(folder: Path, *entries: dict[str, Any] | str) -> Path:
    """Write a log of entries, or of lines of text, and return its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = (entry if isinstance(entry, str) else json.dumps(entry) for entry in entries)
    (folder / "log.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return folder


def with_value(entry: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """Return an entry with another value at a path of keys."""
    inner = value if len(path) == 1 else with_value(entry.get(path[0], {}), path[1:], value)
    return entry | {path[0]: inner}


PLACES = [
    *((0, (name,)) for name in START),
    *((0, ("experiment", "schedule")), (0, ("experiment", "schedule", "epochs")), (0, ("experiment", "name"))),
    *((0, ("paths", "data")), (0, ("machine", "name"))),
    *((1, (name,)) for name in STEP),
    *((1, ("images_per_second",)), (2, ("epoch",)), (2, ("metrics",)), (2, ("metrics", "box")), (2, ("time",))),
    *((2, ("metrics", "box", "AP")), (2, ("metrics", "box", "per_class")), (2, ("metrics", "mask"))),
    *((3, (name,)) for name in END),
    (3, ("reason",)),
]


@pytest.mark.parametrize("command", [(), ("--json",), ("compare",)])
def test_no_odd_log_ends_the_list_of_runs(
    command: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entries = [START, STEP, EVALUATION, END]
    sound = write(tmp_path / "sound", *entries)
    for position, path in PLACES:
        for number, value in enumerate(ODD):
            odd = [with_value(entry, path, value) if i == position else entry for i, entry in enumerate(entries)]
            write(tmp_path / "odd" / str(number), *odd)
            if command == ("compare",) and number % 3 == 0:
                assert main(["runs", "compare", str(sound), str(tmp_path / "odd" / str(number))]) in (0, 2), odd
        if command != ("compare",):
            assert main(["runs", str(tmp_path), *command]) == 0, (position, path)
            assert str(sound) in capsys.readouterr().out


def test_reports_are_written_from_odd_logs(tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    pytest.importorskip("matplotlib")
    from sais.reports.run_report import render_report

    entries = [START, STEP, STEP | {"iteration": 2}, EVALUATION, EVALUATION | {"epoch": 1}, END]
    for number, (position, path) in enumerate(PLACES):
        value = ODD[number % len(ODD)]
        odd = [with_value(e, path, value) if e["kind"] == entries[position]["kind"] else e for e in entries]
        try:
            record = read_run(write(tmp_path / "odd", *odd))
        except CheckpointError:
            continue
        assert "<html" in render_report(record, None)


def test_read_log_drops_lines_that_are_no_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sais.reports.log_entries as log_entries

    lines = ["[" * 100_000, "1" * 5000, '{"kind": []}', "null", "", '{"kind": "note"}', "\udcff"]
    (tmp_path / "log.jsonl").write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
    assert [entry["kind"] for entry in read_log(tmp_path)] == ["note"]
    monkeypatch.setattr(log_entries, "MAX_LINE_BYTES", 100)
    write(tmp_path, '{"kind": "note"}', json.dumps({"kind": "note", "text": "x" * 200}), '{"kind": "end"}')
    assert [entry["kind"] for entry in read_log(tmp_path)] == ["note", "end"]


def test_clean_metrics_keeps_what_metrics_have() -> None:
    metrics = {"box": SCORES | {"AP75": "x"}, "mask": None, "images": 4, "objects": [1]}
    assert clean_metrics(metrics) == {"box": SCORES, "mask": None, "images": 4}
    assert clean_metrics([]) is None
