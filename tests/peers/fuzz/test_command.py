"""`python -m peers fuzz` prints the counts, and each fault with the command that reproduces it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from peers.__main__ import main
from peers.fuzz import session
from peers.fuzz.oracle import Outcome
from peers.fuzz.pool import Summary
from sais.errors import SaisError


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the faults that the next session finds; its arguments are checked."""
    found: list[str] = []

    def fuzz(folder: Path, minutes: float | None, cases: int | None, *options: Any, report: Any) -> dict[str, Summary]:
        assert (folder.name, minutes, cases, options) == ("fuzz", None, 3, (7, ("logs",), 2))
        summary = Summary()
        for number, fault in enumerate(["", *found]):
            summary.add(("logs", 7 + number), Outcome("success", fault, "sais runs", 0.1, 2**30))
        for fault in summary.faults:
            report(fault)
        return {"logs": summary}

    monkeypatch.setattr(session, "fuzz", fuzz)
    return found


def run(tmp_path: Path) -> int:
    """Run three cases of logs."""
    return main(["fuzz", "--cases", "3", "--seed", "7", "--only", "logs", "--out", str(tmp_path)])


def test_fuzz_prints_counts(faults: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path) == 0
    assert "| logs | 1 | 1 | 0 | 0 |" in capsys.readouterr().out


def test_fuzz_prints_faults_and_fails(faults: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    faults.append("IndexError")
    with pytest.raises(SaisError, match="fuzz: 1 faults"):
        run(tmp_path)
    out = capsys.readouterr().out
    assert "IndexError\nreproduce: python -m peers fuzz --only logs --seed 8 --cases 1" in out
    assert "| logs | 2 | 2 | 0 | 1 |" in out
