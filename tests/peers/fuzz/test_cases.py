"""Fuzzing: 200 cases of every kind of input keep the rule of `peers.fuzz.oracle`."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from peers.fuzz import command_lines
from peers.fuzz.kinds import KINDS
from peers.fuzz.oracle import run_command
from peers.fuzz.pool import run_cases
from peers.fuzz.samples import Samples, build_samples
from peers.fuzz.session import tickets
from sais.cli import COMMANDS

CASES = 200
SEED = 20_000


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory, exported: Callable[[str], Path]) -> Samples:
    """Return valid files of every kind, with the graphs that other tests use."""
    graphs = [exported(name) for name in ("raw.onnx", "masks.onnx", "detections.xml")]
    return build_samples(tmp_path_factory.mktemp("fuzz") / "samples", graphs)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in (*command_lines.SLOW, "export")])
def test_the_command_lines_to_start_from_are_valid(
    samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(samples.data, data)
    shutil.copytree(samples.run, run)
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    run_command([name, *command_lines.valid_words(name, data, run, samples)])


@pytest.mark.slow
def test_cases_of_every_kind(samples: Samples, tmp_path: Path) -> None:
    """One process runs all kinds, because its start takes as long as hundreds of cases."""
    summaries = run_cases(tickets(tuple(KINDS), SEED, CASES, None), samples, tmp_path)
    assert {kind: summary.results.total() for kind, summary in summaries.items()} == dict.fromkeys(KINDS, CASES)
    faults = [fault for summary in summaries.values() for fault in summary.faults]
    assert not faults, "\n\n".join(fault.report() for fault in faults)
    for kind, summary in summaries.items():
        assert summary.results["success"], f"{kind}: no case was accepted"
        assert summary.results["success"] < CASES, f"{kind}: no case was refused"
