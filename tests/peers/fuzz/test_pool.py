"""A process of the fuzzer that crashes or hangs in native code is replaced, and the fault is reported."""

from __future__ import annotations

from pathlib import Path

import pytest

from peers.fuzz import pool
from peers.fuzz.samples import Samples


def serve_badly(connection, samples, folder, log):  # type: ignore[no-untyped-def]
    """Crash in cases with an odd seed; hang where the seed is 2."""
    import os
    import time

    connection.send("ready")
    while True:
        _, seed = connection.recv()
        log.write_text(f"was at {seed}")
        if seed % 2:
            os.kill(os.getpid(), 11)
        time.sleep(100 if seed == 2 else 0)
        connection.send(pool.Outcome("success", "", "case", 0.0, 0))


def test_run_cases_survives_crashes_and_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_serve", serve_badly)
    monkeypatch.setattr(pool, "MAX_WAIT", -pool.GRACE_SECONDS + 1.0)
    tickets = iter([("logs", seed) for seed in (0, 1, 2, 4)])
    summary = pool.run_cases(tickets, Samples(tmp_path), tmp_path / "work")["logs"]
    assert summary.results == {"success": 2, "crash": 1, "hang": 1}
    assert [fault.seed for fault in summary.faults] == [1, 2]
    assert "exit code -11" in summary.faults[0].text
    assert "was at 1" in summary.faults[0].text
