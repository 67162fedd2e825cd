"""`python -m peers.screening`: plans, runs that continue where they stopped, comparison with the first variant."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("yaml")

from peers import screening
from peers.screening import main, read_plan, table_rows
from sais.config import to_dict
from sais.errors import ConfigError, InputError
from sais.paper.runs import RunPlan, RunResult, write_result

PLAN = """
recipe: sais-lite
data: {data}
settings: {{size: 64, epochs: 1, batch_size: 4, workers: 0, device: cpu, model.channels: 32, model.tower_depth: 1}}
seeds: [0, 1]
variants:
  baseline:
  margin: {{criterion.mask_margin: 0.1, postprocess.mask_margin: 0.1}}
"""


@pytest.fixture
def plan(tmp_path: Path, shapes: Path) -> Path:
    """Return the path of a plan of two variants and two seeds."""
    path = tmp_path / "plan.yaml"
    path.write_text(PLAN.format(data=shapes))
    return path


@pytest.fixture
def fake_runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace training by a fixed mask AP; returns the runs that are trained, as they come."""
    trained: list[str] = []

    def run_plan(plan: RunPlan, name: str, data: Any, split: Any, description: Any, out: Path, *rest: Any) -> RunResult:
        seed = plan.experiment.run.seed
        trained.append(f"{plan.row} {seed}")
        score = 0.40 + 0.02 * seed + (0.03 - 0.01 * seed) * (plan.row == "margin")
        metrics = {"box": {"AP": 0.5}, "mask": {"AP": score, "AP50": 0.6, "AP75": None}}
        result = RunResult(
            plan.row,
            seed,
            "sais",
            to_dict(plan.experiment),
            description,
            3,
            metrics,
            90.0,
            {},
            plan.digest(description),
        )
        (out / "results").mkdir(exist_ok=True)
        write_result(out / "results" / f"{name}.json", result)
        return result

    monkeypatch.setattr("sais.paper.runs._run_plan", run_plan)
    return trained


def test_plan_gives_each_variant_the_shared_settings_and_its_own(plan: Path) -> None:
    variants = read_plan(plan).variants
    assert list(variants) == ["baseline", "margin"]
    assert [variant.criterion.mask_margin for variant in variants.values()] == [0.0, 0.1]
    for variant in variants.values():
        assert (variant.input.size, variant.schedule.epochs, variant.model.channels) == ((64, 64), 1, 32)
        assert variant.run.evaluate_every == 0  # no choice of an epoch by the images that are measured
    assert [(name, run.experiment.run.seed) for name, run in read_plan(plan).runs()] == [
        *[("baseline", 0), ("margin", 0)],
        *[("baseline", 1), ("margin", 1)],
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("seeds: [0, 1]", "seeds: 1"), "seeds 1 is not a list of numbers"),
        (("variants:", "variations:"), "not a plan"),
        (("data: ", "# data: "), "data and variants are required"),
        (("criterion.mask_margin", "criterion.mask_margn"), "did you mean 'mask_margin'"),
        (("mask_margin: 0.1,", "mask_margin: -1,"), "must be between 0 and"),
        (("  baseline:", "  baseline: 3"), "variants: baseline is not a group of settings"),
        (("size: 64", "size: 65"), "needs multiples of 32"),
    ],
)
def test_wrong_plans_are_refused_before_the_first_run(plan: Path, change: tuple[str, str], message: str) -> None:
    plan.write_text(plan.read_text().replace(*change))
    with pytest.raises(ConfigError, match=message):
        read_plan(plan)


def test_names_of_variants_become_file_names(plan: Path) -> None:
    plan.write_text(plan.read_text().replace("  baseline:", '  "../lr 1/2, wide":').replace("  margin:", '  "/":'))
    assert {run.row for _, run in read_plan(plan).runs()} == {"lr-1-2-wide", "variant"}


def test_missing_plan(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.yaml"):
        read_plan(tmp_path / "none.yaml")


def test_screening_stops_in_time_and_continues(
    plan: Path,
    tmp_path: Path,
    fake_runs: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = iter(range(0, 10**6, 60))  # each look at the clock is a minute later
    monkeypatch.setattr(screening, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    out = tmp_path / "out"
    assert main(["--plan", str(plan), "--out", str(out), "--minutes", "4"]) == 0
    assert fake_runs == ["baseline 0", "margin 0"]
    assert "2 runs left: baseline, seed 1; margin, seed 1" in capsys.readouterr().out
    assert main(["--plan", str(plan), "--out", str(out), "--minutes", "100"]) == 0
    assert fake_runs == ["baseline 0", "margin 0", "baseline 1", "margin 1"]
    state = json.loads((out / "screening.json").read_text())
    assert [variant["name"] for variant in state["variants"]] == ["baseline", "margin"]
    assert state["variants"][1]["changes"] == {"criterion.mask_margin": 0.1, "postprocess.mask_margin": 0.1}
    assert [result["seed"] for result in state["variants"][1]["results"]] == [0, 1]
    lines = [line for line in (out / "screening.md").read_text().splitlines() if line.startswith("|")]
    assert "| baseline | 0 1 | 41.0 (40.0-42.0) |" in lines[2]
    assert "| margin | 0 1 | 43.5 (43.0-44.0) |" in lines[3]
    assert "| +3.0 +2.0 | 1.5 (1.5-1.5) |" in lines[3]


def test_another_plan_uses_what_is_measured(plan: Path, tmp_path: Path, fake_runs: list[str]) -> None:
    out = tmp_path / "out"
    main(["--plan", str(plan), "--out", str(out)])
    plan.write_text(plan.read_text().replace("margin:", "wider boxes:", 1).replace("seeds: [0, 1]", "seeds: [1]"))
    plan.write_text(plan.read_text() + "  heavier: {criterion.mask_weight: 3}\n")
    main(["--plan", str(plan), "--out", str(out)])
    assert fake_runs[4:] == ["heavier 1"]


def test_rows_of_variants_without_the_baselines_seed() -> None:
    def result(seed: int, score: float) -> RunResult:
        metrics = {"box": None, "mask": {"AP": score}}
        return RunResult("x", seed, "sais", {}, {}, 1, metrics, 60.0, {}, "")

    rows = table_rows({"first": [result(0, 0.4)], "second": [result(1, 0.5)], "third": []})
    assert [row[6] for row in rows] == ["-", "-", "-"]
    assert [row[1] for row in rows] == ["0", "1", "-"]
    assert rows[2][2] == "-"


@pytest.mark.slow
def test_screening_trains_and_measures(plan: Path, tmp_path: Path) -> None:
    plan.write_text(plan.read_text().replace("seeds: [0, 1]", "seeds: [0]"))
    out = tmp_path / "out"
    assert main(["--plan", str(plan), "--out", str(out)]) == 0
    results = sorted((out / "results").glob("*.json"))
    assert len(results) == 2
    for path in results:
        assert json.loads(path.read_text())["metrics"]["mask"]["AP"] is not None
