"""`sais train --dry-run`: what a run would be, and that nothing is written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sais.cli import main
from sais.commands.dry_run import describe
from sais.data.formats import read_dataset
from sais.device import choose_device
from sais.engine.dry_run import TrainingEstimate, estimate_training
from sais.engine.resume import RunInputs, start_run
from sais.recipes import recipe
from sais.recipes.adjust import replace_settings

SMALL = ["--size", "64", "--batch-size", "4", "--epochs", "3", "--workers", "0", "--model.tower-depth", "1"]


@pytest.fixture
def words(shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a command line of a dry run, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return ["train", "sais-lite", "--data", str(shapes), *SMALL, "--dry-run"]


def dry_run(words: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Return the JSON of a dry run."""
    assert main([*words, "--json"]) == 0
    out, _ = capsys.readouterr()
    return json.loads(out)


def test_dry_run_states_the_run_that_would_start_and_writes_nothing(
    words: list[str], shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = dry_run(words, capsys)
    split = read_dataset(shapes, "train")
    assert (facts["images"], facts["classes"]) == (len(split.images), len(split.class_names))
    assert (facts["iterations_per_epoch"], facts["iterations"]) == (
        len(split.images) // 4,
        3 * (len(split.images) // 4),
    )
    assert (facts["epochs"], facts["batch_size"], facts["evaluations"], facts["input_size"]) == (3, 4, 3, [64, 64])
    assert facts["ok"]
    assert facts["errors"] == {"train": 0, "valid": 0}
    assert facts["step_seconds"] > 0
    expected = facts["iterations"] * facts["step_seconds"] + 3 * facts["evaluation_seconds"]
    assert facts["seconds"] == pytest.approx(expected)
    assert facts["fits"]
    assert 10 * 2**20 < facts["memory"] < 4 * 2**30
    assert facts["out"] == "runs/sais-lite-shapes"
    assert facts["settings"]["schedule"]["epochs"] == 3
    assert list(tmp_path.iterdir()) == []


def test_parameters_of_a_dry_run_are_those_of_the_run(shapes: Path, tmp_path: Path) -> None:
    experiment = replace_settings(recipe("sais-lite"), "input", size=(64, 64))
    experiment = replace_settings(experiment, "model", tower_depth=1)
    experiment = replace_settings(experiment, "run", device="cpu", workers=0)
    split = read_dataset(shapes, "train")
    estimate = estimate_training(experiment, split, None, timing=False, random_init=True)
    run, _ = start_run(RunInputs(experiment, tmp_path, split, None), random_init=True, weights=None)
    parameters = list(run.model.parameters())
    assert estimate.parameters == sum(parameter.numel() for parameter in parameters)
    assert estimate.trained_parameters == sum(p.numel() for p in parameters if p.requires_grad)
    assert (estimate.step_seconds, estimate.seconds, estimate.valid_images) == (None, None, None)
    assert estimate.evaluations == 0
    assert str(choose_device("cpu")) == estimate.device


def test_dry_run_without_timing_as_text(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--no-timing"]) == 0
    out = capsys.readouterr().out
    assert "nothing is written" in out
    assert "time " not in out
    assert out.splitlines()[-1].startswith("next: sais train sais-lite --data ")
    assert "the same by hand: sais train sais-lite --data " in out
    assert "--dry-run" not in out
    assert "--no-timing" not in out


def test_dry_run_fails_where_the_data_would_stop_the_run(
    words: list[str], shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(shapes, broken)
    image = next((broken / "images/train").iterdir())
    image.write_bytes(b"no image")
    line = [str(broken) if word == str(shapes) else word for word in words]
    assert main([*line, "--no-timing"]) == 2
    assert "1 kind of error would stop the run" in capsys.readouterr().out
    assert main([*line, "--no-timing", "--skip-broken"]) == 0


@pytest.mark.parametrize(
    ("more", "fragment"),
    [(["--resume"], "--dry-run is not for --resume"), (["--optim.lr", "0"], "--optim.lr")],
)
def test_mistakes_of_a_dry_run(
    words: list[str], more: list[str], fragment: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, *more]) == 2
    assert fragment in capsys.readouterr().err


def test_no_timing_alone_is_an_error(capsys: pytest.CaptureFixture[str], shapes: Path) -> None:
    assert main(["train", "sais-lite", "--data", str(shapes), "--no-timing"]) == 2
    assert "--no-timing has no effect" in capsys.readouterr().err


def test_memory_that_does_not_suffice_is_stated() -> None:
    estimate = TrainingEstimate(
        device="cpu",
        parameters=10,
        trained_parameters=10,
        classes=1,
        images=10,
        valid_images=None,
        input_size=(64, 64),
        batch_size=2,
        iterations_per_epoch=5,
        epochs=2,
        iterations=10,
        evaluations=0,
        memory=2**31,
        memory_per_image=2**29,
        free_memory=2**32,
        step_seconds=3.0,
        evaluation_seconds=None,
    )
    assert "use --batch-size auto" not in dict(describe(estimate))["memory"]
    assert "use --batch-size auto" in dict(describe(replace(estimate, free_memory=2**31)))["memory"]
    assert dict(describe(estimate))["time"] == "about 0:30: 3.00 s per iteration"
