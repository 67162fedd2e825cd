"""`python -m peers busy`: throughput from the times of a command, fractions, and the variables of its processes."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

pytest.importorskip("torch")

from peers import busy
from sais.errors import ResourceError


def command(kind: str, folder: Path) -> busy.Command:
    """Return a command that was not started."""
    result = object.__new__(busy.Command)
    result.kind, result.variant, result.folder, result.out = kind, "sais", folder, folder / "out"
    result.out.mkdir()
    return result


def test_throughput_counts_images_between_the_first_and_the_last_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = command("train", tmp_path)
    start = time.time()
    steps = [start - 5, *(start + 1 + 0.5 * step for step in range(5))]  # the first one was before this turn
    entries = [{"kind": "iteration", "time": when} for when in steps] + [{"kind": "note", "time": start + 9}]
    text = "\n".join(map(json.dumps, entries)) + '\n{"kind": "iter'  # the last line is being written
    (training.out / "log.jsonl").write_text(text)
    monkeypatch.setattr(busy.Command, "signal", lambda self, number: None)
    monkeypatch.setattr(busy.time, "sleep", lambda seconds: None)
    assert training.throughput(8.0) == pytest.approx(2 * busy.BATCH_SIZE)


def test_times_of_a_prediction_are_those_of_its_drawings(tmp_path: Path) -> None:
    prediction = command("predict", tmp_path)
    for number in range(3):
        path = prediction.out / f"{number}.jpg"
        path.touch()
        os.utime(path, (100 + number, 100 + number))
    assert sorted(prediction.times()) == [100, 101, 102]


def test_table_rows_divide_by_the_quiet_throughput_and_by_the_first_variant() -> None:
    measured = {
        ("train", "default of torch"): {"quiet": 20.0, "one": 5.0, "all": 1.0},
        ("train", "sais"): {"quiet": 19.0, "one": 15.2, "all": 9.5},
    }
    rows = busy.table_rows(measured)
    assert rows[0] == ["sais train", "default of torch", "20.0", "5.0", "1.0", "0.25", "0.05", "1.00"]
    assert rows[1][-3:] == ["0.80", "0.50", "0.95"]


def test_measure_needs_signals_that_stop_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(busy.signal, "SIGSTOP")
    with pytest.raises(ResourceError, match="needs signals that stop a process"):
        busy.measure()
