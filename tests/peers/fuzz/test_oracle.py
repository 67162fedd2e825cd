"""Tests of the fuzzer itself: it finds every kind of fault, and a seed always gives the same case."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from peers.fuzz import oracle, session
from peers.fuzz.mutation import json_text, mutate_bytes, mutate_json
from peers.fuzz.oracle import Case, Outcome, Watch, examine, run_command
from peers.fuzz.pool import Fault, Summary
from sais.errors import ConfigError, InputError

WATCH = Watch()


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Outcome]:
    """Return a function that examines an action whose input is the file `in/file`."""
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "sample").write_text("sample")

    def judge(action: Callable[[Path], object], **options: object) -> Outcome:
        def make(folder: Path) -> Case:
            (folder / "file").write_text("text")
            return Case(lambda: action(folder), "about", **options)  # type: ignore[arg-type]

        return examine(make, tmp_path / "case", tmp_path / "samples", WATCH)

    return judge


def refuse(message: str) -> None:
    """Raise the error of an input."""
    raise InputError(message)


class UnescapedError(InputError):
    """An error that shows a name as it is."""

    def __str__(self) -> str:
        return "a\x1b[31m: wrong. Fix the name."


def raise_unescaped() -> None:
    """Raise an error with control characters."""
    raise UnescapedError


def test_success_and_refusal_are_no_faults(run: Callable[..., Outcome]) -> None:
    outcome = run(lambda folder: Path("written").write_text((folder / "file").read_text()))
    assert (outcome.result, outcome.fault, outcome.about) == ("success", "", "about")
    assert outcome.bytes > 2**20
    outcome = run(lambda folder: refuse("a.jpg: no such file. Check the path."))
    assert (outcome.result, outcome.fault) == ("InputError", "")


@pytest.mark.parametrize(
    ("action", "words"),
    [
        (lambda folder: [][1], "IndexError"),
        (lambda folder: sys.exit(3), "SystemExit"),
        (lambda folder: refuse("wrong"), "WHERE: WHAT. FIX."),
        (lambda folder: raise_unescaped(), "control characters"),
        (lambda folder: (folder / "file").write_text("other"), "changed "),
        (lambda folder: (folder / "file").unlink(), "removed "),
        (lambda folder: (folder / "new").write_text(""), "added "),
        (lambda folder: (folder.parents[1] / "samples" / "sample").write_text(""), "changed "),
        (lambda folder: (folder.parents[1] / "outside").write_text(""), "open '"),
        (lambda folder: (folder.parents[1] / "samples").rename(folder.parents[1] / "other"), "os.rename "),
        (lambda folder: subprocess.run(["true"], check=True), "subprocess.Popen"),
        (lambda folder: socket.socket(socket.AF_UNIX).connect("/nowhere"), "FileNotFoundError"),
    ],
)
def test_faults_are_found(run: Callable[..., Outcome], action: Callable[[Path], object], words: str) -> None:
    assert words in run(action).fault


def test_a_refusal_does_not_excuse_a_changed_input(run: Callable[..., Outcome]) -> None:
    def action(folder: Path) -> None:
        (folder / "file").write_text("other")
        refuse("a.jpg: no such file. Check the path.")

    assert "changed " in run(action).fault


def test_what_a_command_line_may_do(run: Callable[..., Outcome]) -> None:
    def action(folder: Path) -> None:
        (folder / "new").write_text("")
        subprocess.run(["true"], check=True)

    assert run(action, may_add=True, may_ask=True).fault == ""
    assert "changed " in run(lambda folder: (folder / "file").write_text("other"), may_add=True, may_ask=True).fault


@pytest.mark.parametrize("busy", [True, False])
def test_a_hang_ends_with_its_place(
    run: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, busy: bool
) -> None:
    monkeypatch.setattr(oracle, "MAX_SECONDS", 0.2 if busy else 100)
    monkeypatch.setattr(oracle, "MAX_WAIT", 100 if busy else 0.2)
    os.mkfifo(tmp_path / "pipe")

    def action(folder: Path) -> None:
        while busy:
            time.monotonic()
        open(tmp_path / "pipe").close()

    outcome = run(action)
    assert outcome.result == "timeout"
    assert "in action" in outcome.fault


def test_run_command_checks_what_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    from sais import cli

    run_command(["--version"])
    with pytest.raises(oracle.SaisError, match="unknown command"):
        run_command(["tarin"])
    monkeypatch.setattr(cli, "main", lambda argv: print("Traceback (most recent call last):", file=sys.stderr) or 2)
    with pytest.raises(AssertionError, match="Traceback"):
        run_command([])
    monkeypatch.setattr(cli, "main", lambda argv: 1)
    with pytest.raises(AssertionError, match="exit code 1"):
        run_command([])


def test_a_seed_gives_one_case() -> None:
    document = {"images": [{"id": 1, "size": [3, 4]}], "name": "text"}
    cases = [json_text(rng, mutate_json(rng, document)) for rng in map(Random, [*range(300), *range(300)])]
    assert cases[:300] == cases[300:]
    assert len(set(cases[:300])) > 200
    assert document == {"images": [{"id": 1, "size": [3, 4]}], "name": "text"}
    assert mutate_bytes(Random(5), b"0123456789") == mutate_bytes(Random(5), b"0123456789")
    assert sum(mutate_bytes(Random(seed), b"0123456789") != b"0123456789" for seed in range(100)) > 90


def test_tickets_and_report() -> None:
    assert list(session.tickets(("a", "b"), 7, 2, None)) == [("a", 7), ("b", 7), ("a", 8), ("b", 8)]
    assert list(session.tickets(("a",), 0, None, time.monotonic() - 1)) == []
    summary = Summary()
    summary.add(("logs", 9), Outcome("KeyError", "KeyError: 'a'", "sais runs", 0.5, 2**30))
    summary.add(("logs", 10), Outcome("success", "", "sais runs", 0.1, 2**29))
    assert "reproduce: python -m peers fuzz --only logs --seed 9 --cases 1" in summary.faults[0].report()
    assert summary.faults == [Fault("logs", 9, "KeyError: 'a'", "sais runs")]
    assert session.table({"logs": summary}).splitlines()[-1] == "| logs | 2 | 1 | 1 | 1 | 300 | 0.5 | 1.00 |"


def test_fuzz_names_the_nearest_kind(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'images'"):
        session.fuzz(tmp_path, cases=1, only=["image"])
