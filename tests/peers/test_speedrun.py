"""`python -m peers speedrun`: recipes in turns, complete schedules until one ends at the target, ratios by seed."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("faster_coco_eval")

from peers import speedrun
from peers.__main__ import main
from peers.measured_runs import MeasuredData, MeasuredRun
from peers.speedrun import Arguments, table_rows
from sais.config import to_dict
from sais.errors import ConfigError, InputError
from sais.paper.runs import RunPlan, RunResult

SETTINGS = {
    "name": "sais-lite",
    "size": 64,
    "batch_size": 4,
    "model.channels": 32,
    "model.tower_depth": 1,
    "model.prototype_channels": 8,
}
"""Settings of a recipe that trains in seconds."""


@pytest.fixture
def recipes(tmp_path: Path) -> list[str]:
    """Return the paths of two recipes that train in seconds."""
    paths = [tmp_path / "slow.json", tmp_path / "quick.json"]
    for path, weight in zip(paths, (1, 2), strict=True):
        path.write_text(json.dumps(SETTINGS | {"criterion.mask_weight": weight}))
    return [str(path) for path in paths]


@pytest.fixture
def fake_runs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """Replace training by fixed scores: quick has mask AP 0.1 for 3 epochs, slow half of it, seed 1 0.05 less.

    Returns:
        (recipe, epochs, seed) of the runs in their order.
    """
    runs: list[tuple[str, int, int]] = []

    def measure(plan: RunPlan, data: MeasuredData, out: Path, each_epoch: bool) -> MeasuredRun:
        epochs, seed = plan.experiment.schedule.epochs, plan.experiment.run.seed
        assert each_epoch
        runs.append((plan.row, epochs, seed))
        score = epochs * (0.1 if plan.row.startswith("quick") else 0.05) / 3 - 0.05 * seed
        description = data.describe("cpu")
        result = RunResult(
            *(plan.row, seed, "sais", to_dict(plan.experiment), description, 3 * epochs),
            *({"box": {"AP": 0.5}, "mask": {"AP": score}}, 30.0 * epochs, description["machine"], "1a2b3c4d"),
        )
        return MeasuredRun(result, 60.0 * epochs, 6.0 * epochs, [])

    monkeypatch.setattr(speedrun, "measure_run", measure)
    monkeypatch.setattr(speedrun, "file_name", lambda recipe: Path(recipe).stem)
    return runs


@pytest.fixture
def run(shapes: Path, tmp_path: Path, recipes: list[str]) -> Callable[..., str]:
    """Return a function from further words to the text of the results."""

    def command(*words: str, seeds: tuple[str, ...] = ("0", "1")) -> str:
        shared = ["--data", str(shapes), "--workers", "0", "--device", "cpu", "--out", str(tmp_path / "out")]
        assert main(["speedrun", *shared, "--recipes", *recipes, "--seeds", *seeds, *words]) == 0
        return (tmp_path / "out" / "speedrun.md").read_text()

    return command


def test_recipes_run_in_turns_until_a_schedule_ends_at_the_target(
    run: Callable[..., str], fake_runs: list[tuple[str, int, int]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = run("--target", "0.099", "--epochs", "9", "3", "6")
    assert fake_runs == [
        *[("slow", 3, 0), ("quick", 3, 0), ("slow", 6, 0)],
        *[("slow", 3, 1), ("quick", 3, 1), ("slow", 6, 1), ("quick", 6, 1), ("slow", 9, 1)],
    ]
    slow, quick = (
        [cell.strip() for cell in line.split("|")[2:-1]]
        for line in text.splitlines()
        if line.startswith(("| /", "| ..")) and "seeds" in line
    )
    assert slow == ["2 of 2 seeds", "6 9", "7.5 (6.0-9.0)", "1", "10.0 (10.0-10.0)", "3.8 (3.0-4.5)", "0.8 (0.6-0.9)"]
    assert quick[:4] == ["2 of 2 seeds", "3 6", "4.5 (3.0-6.0)", "0.50 0.67"]
    assert "mask AP 9.9 on shapes, 4 validation images" in text
    assert text in capsys.readouterr().out
    state = json.loads((tmp_path / "out" / "speedrun.json").read_text())
    assert [entry["reached"] for entry in state["runs"]] == [False, True, True, False, False, False, True, True]
    assert state["runs"][1]["run"]["core_seconds"] == 180.0
    assert state["target"] == 0.099


def test_core_minutes_need_all_seeds_to_reach_the_target(
    run: Callable[..., str], fake_runs: list[tuple[str, int, int]], tmp_path: Path
) -> None:
    run("--target", "0.099", "--epochs", "3", "6")
    rows = json.loads((tmp_path / "out" / "speedrun.json").read_text())["rows"]
    assert rows[0][1:] == ["1 of 2 seeds", "6", "-", "1", "10.0", "-", "-"]
    assert rows[1][1:5] == ["2 of 2 seeds", "3 6", "4.5 (3.0-6.0)", "0.50"]  # compared with the seed that has one
    run("--target", "0.9", "--epochs", "3")
    rows = json.loads((tmp_path / "out" / "speedrun.json").read_text())["rows"]
    assert [row[1:] for row in rows] == [["0 of 2 seeds", "-", "-", reference, "-", "-", "-"] for reference in "1-"]


@pytest.mark.parametrize("name", ["recipes", "epochs", "seeds"])
def test_empty_lists_are_refused(shapes: Path, tmp_path: Path, name: str) -> None:
    arguments = Arguments(data=shapes, out=tmp_path, **{name: ()})
    with pytest.raises(ConfigError, match=f"no {name}. Give one or more"):
        speedrun.speedrun(arguments)


def test_mistakes_are_found_before_the_first_run(
    run: Callable[..., str], fake_runs: list[tuple[str, int, int]], tmp_path: Path
) -> None:
    (tmp_path / "quick.json").write_text(json.dumps(SETTINGS | {"size": 65}))
    with pytest.raises(ConfigError, match="multiples of 32"):
        run()
    with pytest.raises(ConfigError, match="target"):
        run("--target", "53")
    with pytest.raises(InputError, match="no such data folder"):
        run("--data", str(tmp_path / "missing"))
    assert fake_runs == []


def test_ctrl_c_ends_in_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(argv: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(speedrun, "main", interrupt)
    monkeypatch.setattr(sys, "argv", ["peers", "speedrun"])
    monkeypatch.delitem(sys.modules, "peers.__main__")
    with pytest.raises(SystemExit) as stop:
        runpy.run_module("peers", run_name="__main__", alter_sys=True)
    assert stop.value.code == 130
    assert capsys.readouterr().err == "peers: interrupted\n"


def test_rows_of_one_recipe() -> None:
    metrics: dict[str, Any] = {"box": None, "mask": None}
    result = RunResult("x", 0, "sais", {}, {}, 1, metrics, 60.0, {}, "")
    run = MeasuredRun(result, 120.0, 30.0, [])
    (row,) = table_rows([speedrun.Attempt("x", 6, True, run)])
    assert row == ["x", "1 of 1 seeds", "6", "2.0", "1", "0.0", "1.0", "0.5"]


@pytest.mark.slow
def test_speedrun_trains_and_measures(run: Callable[..., str], tmp_path: Path) -> None:
    words = ("--target", "0", "--epochs", "2", "1")
    text = run(*words, seeds=("0",))
    state = json.loads((tmp_path / "out" / "speedrun.json").read_text())
    assert [(entry["epochs"], entry["reached"]) for entry in state["runs"]] == [(1, True), (1, True)]
    assert all(entry["run"]["core_seconds"] > 0 for entry in state["runs"])
    times = [path.stat().st_mtime_ns for path in sorted((tmp_path / "out" / "results").glob("*.json"))]
    assert run(*words, seeds=("0",)) == text
    assert [path.stat().st_mtime_ns for path in sorted((tmp_path / "out" / "results").glob("*.json"))] == times
