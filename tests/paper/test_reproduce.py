"""`sais reproduce`: rows are the paper's recipes, runs are made once and go on, every table and figure runs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("matplotlib")

from filelock import FileLock

from sais.benchmark.candidates import Candidate
from sais.benchmark.recipe_candidates import recipe_candidate
from sais.cli import main
from sais.config import Experiment, from_dict
from sais.data.paths import DataPaths
from sais.errors import SaisError
from sais.paper.padding_bug import PADDING_BUG
from sais.paper.runs import RunPlan, RunResult, describe_data, digest_settings, read_result, run_plans
from sais.paper.sweep import Budget, base_experiment, plan_runs
from sais.paper.tables import ROWS, TABLES, keep_ratio
from sais.recipes import RECIPES, recipe
from sais.recipes.adjust import replace_settings


def smallest() -> Experiment:
    """A base for tests, as a user would give one: --base tests.paper.test_reproduce:smallest."""
    lite = recipe("paper-lite0")
    return replace(
        lite,
        name="smallest",
        input=replace(lite.input, size=(64, 64)),
        model=replace(lite.model, channels=32, tower_depth=1, prototype_channels=16, prototype_depth=1),
        optim=replace(lite.optim, batch_size=4),
        schedule=replace(lite.schedule, epochs=1),
        run=replace(lite.run, workers=0, device="cpu"),
    )


BASE = "tests.paper.test_reproduce:smallest"
TINY = Budget(base=BASE, max_iterations=2)


def words(shapes: Path, out: Path, *more: str) -> list[str]:
    """The options that all commands here share."""
    return ["--data", str(shapes), "--out", str(out), "--base", BASE, "--max-iterations", "2", *more]


@pytest.mark.parametrize("key", [key for key, row in ROWS.items() if row.recipe])
def test_rows_on_the_papers_base_are_the_papers_recipes(key: str) -> None:
    row = ROWS[key]
    made = row.change(recipe("sais-r50-768"))
    wanted = RECIPES[row.recipe or ""]()
    assert replace(made, name="") == replace(wanted, name="")


def test_rows_differ_only_in_what_their_table_compares() -> None:
    base, _ = base_experiment(Budget(base="paper-lite0", size=(192, 192), epochs=6))
    made = {key: ROWS[key].change(base) for table in TABLES.values() for key in table.rows}
    assert made["keep-ratio"] == made["keep-ratio-padding-bug"]
    assert ROWS["keep-ratio-padding-bug"].padding_bug
    assert made["keep-ratio"].input.size == (192, 320)
    assert replace(made["sais-area"], criterion=made["sais-center"].criterion) == made["sais-center"]
    assert replace(made["sais-center"], model=made["sais"].model) == made["sais"] == base
    assert replace(made["fcos-area"], criterion=made["fcos-center"].criterion) == made["fcos-center"]
    assert not made["fcos-area"].model.masks


@pytest.mark.parametrize(
    ("side", "wanted"), [(768, (800, 1333)), (640, (672, 1120)), (256, (256, 427)), (32, (32, 53))]
)
def test_keep_ratio_follows_the_fixed_size(side: int, wanted: tuple[int, int]) -> None:
    base = recipe("sais-r50-768")
    assert keep_ratio(replace(base, input=replace(base.input, size=(side, side)))).input.size == wanted


def test_base_experiment_applies_the_budget() -> None:
    base, notes = base_experiment(Budget(epochs=6, batch_size=4, size=(320, 320), backbone="resnet18"))
    assert (base.optim.batch_size, base.optim.lr) == (4, 0.0025)
    assert base.schedule.epochs == 6
    assert base.schedule.milestones == (4, 5)
    assert (base.input.size, base.model.backbone) == ((320, 320), "resnet18")
    assert any("from 0.01 to 0.0025" in line for line in notes)
    assert any("from 8, 11 to 4, 5" in line for line in notes)
    assert base_experiment(Budget(batch_size=4, lr=0.5))[0].optim.lr == 0.5
    with pytest.raises(SaisError, match="multiples of 32"):
        base_experiment(Budget(size=(100, 100)))


def test_digest_changes_with_everything_that_determines_the_numbers() -> None:
    data = {"name": "shapes"}
    (plan,) = plan_runs(["sais"], [0], TINY)
    idle = replace(plan.experiment, run=replace(plan.experiment.run, workers=7, device="cuda", evaluate_every=1))
    assert replace(plan, experiment=idle, row="another").digest(data) == plan.digest(data)
    other = replace(plan.experiment, criterion=replace(plan.experiment.criterion, mask_weight=2.0))
    different = [
        replace(plan, experiment=other).digest(data),
        replace(plan, experiment=replace_settings(plan.experiment, "model", architecture=PADDING_BUG)).digest(data),
        replace(plan, max_iterations=3).digest(data),
        replace(plan, random_init=True).digest(data),
        plan.digest({"name": "animals"}),
    ]
    assert len({plan.digest(data), *different}) == 6


def test_digests_of_kept_results_are_stable(root: Path) -> None:
    """Settings that were added later do not change the digests of kept results while they have their defaults."""
    results = [
        RunResult(**json.loads(path.read_text())) for path in sorted((root / "docs/experiments/results").glob("*.json"))
    ]
    assert len(results) >= 30
    for result in results:
        experiment = from_dict(Experiment, result.experiment)
        assert RunPlan(result.row, experiment).digest(result.data) == result.digest
        assert RunPlan(result.row, experiment).architecture == result.architecture


def test_digest_settings_are_those_that_differ_from_the_defaults() -> None:
    experiment = Experiment()
    assert digest_settings(experiment) == {}
    changed = replace(
        experiment,
        name="other",
        augment=replace(experiment.augment, mosaic=0.5, scale_jitter=(0.5, 2.0)),
        run=replace(experiment.run, workers=7, evaluate_every=3),
    )
    assert digest_settings(changed) == {"augment.mosaic": 0.5, "augment.scale_jitter": [0.5, 2.0]}
    stopping = replace(changed, schedule=replace(experiment.schedule, patience=2))
    assert digest_settings(stopping)["run.evaluate_every"] == 3  # early stopping depends on it


def test_run_plans_trains_equal_plans_once(shapes: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    twice = [*plan_runs(["sais"], [0], TINY), *plan_runs(["sais"], [0], TINY)]
    first = run_plans(twice, DataPaths(shapes), tmp_path, log=lines.append)
    assert lines == ["1 of 1: sais, seed 0"]
    assert first[0] == first[1]
    assert first[0].iterations == 2
    assert first[0].data["train"]["images"] == 12
    again = run_plans(twice[:1], DataPaths(shapes), tmp_path, log=lines.append)
    assert len(lines) == 1
    assert again[0] == first[0]
    folder = next((tmp_path / "runs").iterdir())
    assert read_result(folder / "result.json") == first[0]


def test_run_plans_shares_runs_between_rows(shapes: Path, tmp_path: Path) -> None:
    (plan,) = plan_runs(["sais"], [0], TINY)
    (first,) = run_plans([plan], DataPaths(shapes), tmp_path)
    lines: list[str] = []
    (second,) = run_plans([replace(plan, row="sais-768-r50")], DataPaths(shapes), tmp_path, log=lines.append)
    assert not lines
    assert second == replace(first, row="sais-768-r50")
    assert len(list((tmp_path / "results").iterdir())) == 1


def test_describe_data_changes_with_annotations(shapes: Path, tmp_path: Path) -> None:
    from sais.data.formats import read_dataset

    copy = tmp_path / "shapes"
    shutil.copytree(shapes, copy)
    train, valid = read_dataset(copy, "train"), read_dataset(copy, "valid")
    before = describe_data(train, valid, "shapes")
    assert before == describe_data(read_dataset(shapes, "train"), read_dataset(shapes, "valid"), "shapes")
    path = copy / "annotations/train.json"
    labels = json.loads(path.read_text())
    labels["annotations"][0]["bbox"][2] += 1
    path.write_text(json.dumps(labels))
    after = describe_data(read_dataset(copy, "train"), valid, "shapes")
    assert after["train"]["images"] == before["train"]["images"]
    (plan,) = plan_runs(["sais"], [0], TINY)
    assert plan.digest(after) != plan.digest(before)


def test_run_plans_evaluates_the_last_weights_of_a_stopped_run(shapes: Path, tmp_path: Path) -> None:
    """Not by the best, which were chosen on the very images: 7 iterations of 9, looked at after each epoch of 3."""
    budget = replace(TINY, max_iterations=7, epochs=3, evaluate_every=1)
    (result,) = run_plans(plan_runs(["sais"], [0], budget), DataPaths(shapes), tmp_path)
    (folder,) = (tmp_path / "runs").iterdir()
    assert result.iterations == 7
    assert not (folder / "model.safetensors").exists()


def test_reproduce_keeps_earlier_rows_and_seeds_in_the_table(shapes: Path, tmp_path: Path) -> None:
    command = ["reproduce", "table3", *words(shapes, tmp_path)]
    assert main([*command, "--rows", "sais", "--seeds", "0", "1"]) == 0
    assert main([*command, "--rows", "sais-center", "--seeds", "2"]) == 0
    seeds = [(r["row"], r["seed"]) for r in json.loads((tmp_path / "table3.json").read_text())["results"]]
    assert sorted(seeds) == [("sais", 0), ("sais", 1), ("sais-center", 2)]
    assert main([*command[:-1], "1", "--rows", "sais"]) == 0  # another budget: nothing of the other stays
    seeds = [(r["row"], r["seed"]) for r in json.loads((tmp_path / "table3.json").read_text())["results"]]
    assert seeds == [("sais", 0)]


def test_plan_runs_refuses_the_padding_bug_with_scale_jitter() -> None:
    with pytest.raises(SaisError, match="augment.scale_jitter"):
        plan_runs(["keep-ratio-padding-bug"], [0], Budget(base="sais-lite"))


def test_run_plans_only_evaluates_a_trained_run_without_result(shapes: Path, tmp_path: Path) -> None:
    """As after a kill between training and evaluation; iterations are not made a second time."""
    plans = plan_runs(["sais"], [0], replace(TINY, max_iterations=None))
    (first,) = run_plans(plans, DataPaths(shapes), tmp_path)
    folder = next((tmp_path / "runs").iterdir())
    log = (folder / "log.jsonl").read_text()
    for path in [*(tmp_path / "results").iterdir(), folder / "result.json"]:
        path.unlink()
    (again,) = run_plans(plans, DataPaths(shapes), tmp_path)
    assert again == first
    assert (folder / "log.jsonl").read_text() == log


def test_run_plans_waits_for_a_run_of_another_process(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans = plan_runs(["sais"], [0], TINY)
    lines: list[str] = []
    run_plans(plans, DataPaths(shapes), tmp_path)
    (name,) = (path.name for path in (tmp_path / "locks").iterdir())
    lock = FileLock(tmp_path / "locks" / name, is_singleton=False)
    lock.acquire()
    monkeypatch.setattr("sais.paper.runs.time.sleep", lambda seconds: lock.release())
    (result,) = run_plans(plans, DataPaths(shapes), tmp_path, log=lines.append)
    assert lines == ["waiting for another process that works on sais"]
    assert result.row == "sais"


def test_run_plans_needs_a_labeled_validation_split(shapes: Path, tmp_path: Path) -> None:
    with pytest.raises(SaisError, match="no labeled validation split"):
        run_plans(plan_runs(["sais"], [0], TINY), DataPaths(shapes, valid=""), tmp_path)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["table9"], "table9"),
        (["table1"], "Give --data DIR"),
        (
            ["table1", "--rows", "sais", "--data", "."],
            "table1: has none of the rows sais. Choose from keep-ratio-padding-bug",
        ),
        (["table1", "--rows", "sias", "--data", "."], "row 'sias': unknown, did you mean 'sais'"),
        (["table1", "--epochs", "0", "--data", "."], "--epochs 0"),
        (["table1", "--size", "64", "64", "64", "--data", "."], "Give height and width"),
        (["table4", "--objects", "101"], "--objects 101"),
        (["table4", "--repeats", "0"], "--repeats 0"),
        (["all", "--rows", "sias", "--data", "."], "row 'sias': unknown, did you mean 'sais'"),
        (["figure3", "--model", "absent", "--data", "."], "--model absent: no such run or model file"),
        (["table2", "--base", "fcos-r50", "--data", "."], "base fcos-r50: keeps the ratio"),
        (["table4", "--peers", "peers.absent:peers"], "peers.absent:peers"),
    ],
)
def test_reproduce_reports_mistakes_in_one_line(
    more: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["reproduce", *more]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


@pytest.mark.slow
def test_reproduce_makes_every_table_and_figure(shapes: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for key, seeds in (("table1", "0"), ("table2", "0"), ("table3", "01")):
        assert main(["reproduce", key, *words(shapes, out, "--seeds", *seeds)]) == 0
        text = (out / f"{key}.md").read_text()
        assert all(ROWS[row].title in text for row in TABLES[key].rows)
        assert "shapes" in text
        assert "paper" in text
        assert (out / f"{key}.csv").stat().st_size > 500
    # Seven rows, each once, though the tables name nine; the two of Table III for another seed too.
    assert len(list((out / "results").glob("*.json"))) == 9
    assert main(["reproduce", "figure2", *words(shapes, out)]) == 0
    assert main(["reproduce", "figure3", *words(shapes, out)]) == 0
    assert len(list((out / "results").glob("*.json"))) == 9
    page = (out / "index.html").read_text()
    for heading in ("Table I", "Table II", "Table III", "Figure 2", "Figure 3"):
        assert heading in page
    assert (out / "figure2.png").is_file()
    assert (out / "figure3.jpg").is_file()


def small_own() -> list[Candidate]:
    """Return the candidate of a row of Table IV with a small backbone and input."""
    return [recipe_candidate("SAIS-640, R50", smallest())]


@pytest.mark.slow
@pytest.mark.usefixtures("in_this_process")
def test_reproduce_makes_table_four(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sais.paper.table4.OWN", "tests.paper.test_reproduce:small_own")
    out = tmp_path / "out"
    small = ["--objects", "5", "--image-size", "96", "128", "--repeats", "1"]
    peers = ["--peers", "tests.benchmark.test_timing:small"]
    assert main(["reproduce", "table4", "--out", str(out), "--rows", "sais-640-r50", *small, *peers]) == 0
    measured = json.loads((out / "table4.json").read_text())["measured"]
    assert [timing["name"] for timing in measured["timings"]] == ["SAIS-640, R50", "lite"]
    assert [timing["num_detections"] for timing in measured["timings"]] == [5, 5]
    text = (out / "table4.md").read_text()
    assert "FCIS, R101-C5 (paper only)" in text
    assert "ExtremeNet" in text
    assert "\n- lite: masks assembled inside their boxes\n" in text
    page = (out / "index.html").read_text()
    assert "Table IV" in page


@pytest.mark.slow
def test_reproduce_resumes_after_a_kill(shapes: Path, tmp_path: Path) -> None:
    """Killed in the middle of its first run; the same command goes on and ends as one that nothing interrupted."""
    budget = ["--epochs", "12", "--rows", "sais"]
    command = ["reproduce", "table3", "--data", str(shapes), "--base", BASE, *budget]
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert main([*command, "--out", str(whole)]) == 0
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    child = subprocess.Popen(
        [sys.executable, "-m", "sais", *command, "--out", str(out)], env=environment, stdout=subprocess.DEVNULL
    )
    until = time.monotonic() + 120
    while not list(out.glob("runs/*/last.safetensors")) and time.monotonic() < until:
        assert child.poll() is None, "it ended before it could be killed"
        os.sched_yield()
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not list(out.glob("results/*.json"))
    assert main([*command, "--out", str(out)]) == 0
    for path in sorted((whole / "results").iterdir()):
        straight, resumed = read_result(path), read_result(out / "results" / path.name)
        assert isinstance(straight, RunResult)
        assert isinstance(resumed, RunResult)
        assert resumed.metrics == straight.metrics
        assert resumed.iterations == straight.iterations == 36
