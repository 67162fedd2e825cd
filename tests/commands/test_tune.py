"""`sais tune`: the search space, studies that continue, early ends, and the command that it prints."""

from __future__ import annotations

import errno
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("optuna")

import sais.engine.trainer as engine
import sais.reports.run_record as run_record
from sais.cli import main
from sais.commands.tune import without_options
from sais.config import Experiment, to_dict
from sais.engine.callbacks import TrainingEvent
from sais.engine.train_step import DivergedLossError
from sais.engine.tuning import apply_trial, search_space
from sais.errors import ResourceError
from sais.recipes import recipe
from sais.recipes.adjust import replace_settings

Score = Callable[[Experiment, int], float]
SMALL = ["--size", "64", "--batch-size", "4", "--workers", "0", "--model.tower-depth", "1"]


class FakeRuns:
    """Take the place of training: every run has the AP that a function of its settings and epoch returns."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.score: Score = lambda experiment, epoch: 0.5
        self.runs: list[tuple[str, bool, Experiment]] = []
        self.scores: dict[str, float] = {}
        monkeypatch.setattr(engine, "train", self.train)
        monkeypatch.setattr(run_record, "read_run", self.read_run)

    def train(
        self, experiment: Experiment, paths: Any, out: Path, *, resume: bool, callbacks: list[Any], **_: Any
    ) -> None:
        """Evaluate after each epoch."""
        self.runs.append((out.name, resume, experiment))
        out.mkdir(exist_ok=True)
        (out / "last.safetensors").touch()
        epochs = experiment.schedule.epochs
        for epoch in range(1, epochs + 1):
            score = self.score(experiment, epoch)
            self.scores[out.name] = max(score, self.scores.get(out.name, 0.0))
            event = TrainingEvent("evaluation", epoch, epochs, epoch, epochs, {"mask/AP": score, "box/AP": 0.1})
            callbacks[0].on_epoch(event)
            if callbacks[0].on_evaluation(event):
                break

    def read_run(self, folder: Path) -> Any:
        """Return an object with the best AP of a run."""

        class Record:
            def best(record) -> tuple[float, int]:  # noqa: N805
                return self.scores[folder.name], 1

        return Record()


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeRuns:
    monkeypatch.chdir(tmp_path)
    return FakeRuns(monkeypatch)


def tune(capsys: pytest.CaptureFixture[str], shapes: Path, *more: str) -> dict[str, Any]:
    """Run a search and return its JSON."""
    words = ["tune", "sais-lite", "--data", str(shapes), *SMALL, "--epochs", "8", "--out", "study", *more]
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_search_space_contains_the_recipe_and_values_around_it() -> None:
    experiment = replace_settings(recipe("sais-lite"), "input", size=(320, 320))
    space = search_space(experiment, ("lr", "size", "augment"))
    assert space.lr == (experiment.optim.lr / 4, experiment.optim.lr * 4)
    assert space.choices["input.size"] == [(320, 320), (256, 256), (384, 384), (480, 480)]
    assert space.choices["augment.scale_jitter"][0] == tuple(experiment.augment.scale_jitter)
    for values in space.choices.values():
        assert len(values) == len(set(values)) > 1
    assert search_space(experiment, ("size",)).lr is None
    assert list(search_space(experiment, ("lr",)).choices) == []
    for name, values in space.choices.items():
        for value in values:
            assert apply_trial(experiment, {name: value}) is not None


def test_first_trial_is_the_recipe_and_the_best_one_is_printed(
    runs: FakeRuns, shapes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs.score = lambda experiment, epoch: 0.1 + 10 * experiment.optim.lr
    result = tune(capsys, shapes, "--trials", "6", "--search", "lr", "--no-pruning")
    assert [name for name, _, _ in runs.runs] == [f"trial-{number:03}" for number in range(6)]
    rates = [experiment.optim.lr for _, _, experiment in runs.runs]
    assert rates[0] == recipe("sais-lite").optim.lr
    assert len(set(rates)) == 6
    assert result["best"]["settings"] == {"optim.lr": max(rates)}
    assert [row["AP"] for row in result["trials"]] == sorted((row["AP"] for row in result["trials"]), reverse=True)
    words = shlex.split(result["command"])
    assert words[:4] == ["sais", "train", "sais-lite", "--data"]
    assert words[-2:] == ["--lr", str(max(rates))]
    assert not {"--trials", "--search", "--no-pruning", "--epochs", "--out", "--json"} & set(words)
    assert {"--batch-size", "--size"} <= set(words)  # the size was not searched


def test_a_search_is_continued(runs: FakeRuns, shapes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(tune(capsys, shapes, "--trials", "2")["trials"]) == 2
    assert len(tune(capsys, shapes, "--trials", "5")["trials"]) == 5
    assert len(runs.runs) == 5
    assert len({json.dumps(to_dict(experiment)) for _, _, experiment in runs.runs}) == 5
    assert len(tune(capsys, shapes, "--trials", "5")["trials"]) == 5
    assert len(runs.runs) == 5  # nothing is left to do
    words = ["tune", "sais-lite", "--data", str(shapes), *SMALL, "--epochs", "9", "--out", "study"]
    assert main(words) == 2
    expected = "study: contains a search with other --augment.size-growth-epochs, --schedule.epochs. Repeat"
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "name"),
    [
        (["--weights", "other"], "weights"),
        (["--random-init"], "--random-init"),
        (["--valid-split", "train"], "--valid-split"),
        (["--classes", "circle"], "classes"),
        (["--search", "size"], "settings to search"),
    ],
)
def test_a_search_with_other_data_or_weights_is_not_continued(
    more: list[str], name: str, runs: FakeRuns, shapes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--trials", "1", "--search", "lr"]
    tune(capsys, shapes, *words)
    if more[0] == "--classes":
        more = ["--classes", json.loads((shapes / "annotations/train.json").read_text())["categories"][0]["name"]]
    assert (
        main(["tune", "sais-lite", "--data", str(shapes), *SMALL, "--epochs", "8", "--out", "study", *words, *more])
        == 2
    )
    assert f"study: contains a search with other {name}" in capsys.readouterr().err
    assert len(runs.runs) == 1


def test_two_processes_do_not_search_in_one_folder(
    runs: FakeRuns, shapes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["tune", "sais-lite", "--data", str(shapes), *SMALL, "--epochs", "8", "--out", "study"]
    codes: list[int] = []

    def search_again(experiment: Experiment, epoch: int) -> float:
        if epoch == 1:
            codes.append(main(words))
        return 0.4

    runs.score = search_again
    assert main([*words, "--trials", "2"]) == 0
    assert codes == [2, 2]
    assert "study: another process" in capsys.readouterr().err
    assert [name for name, _, _ in runs.runs] == ["trial-000", "trial-001"]


def test_a_full_disk_ends_the_search_and_the_trial_is_resumed(
    runs: FakeRuns, shapes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fill_disk(experiment: Experiment, epoch: int) -> float:
        raise ResourceError("study/trial-000/last.safetensors: cannot be written.") from OSError(errno.ENOSPC, "full")

    runs.score = fill_disk
    words = ["tune", "sais-lite", "--data", str(shapes), *SMALL, "--epochs", "8", "--out", "study"]
    assert main(words) == 2
    assert "cannot be written" in capsys.readouterr().err
    runs.score = lambda experiment, epoch: 0.4
    tune(capsys, shapes, "--trials", "1")
    assert [(name, resumed) for name, resumed, _ in runs.runs] == [("trial-000", False), ("trial-000", True)]


def test_the_recipe_may_follow_an_option_of_the_search(
    runs: FakeRuns, shapes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--json", "sais-lite", "--data", str(shapes), *SMALL, "--epochs", "8", "--out", "study", "--trials", "1"]
    assert main(["tune", *words]) == 0
    assert json.loads(capsys.readouterr().out)["command"].startswith("sais train sais-lite --data ")


def test_an_interrupted_trial_is_resumed(runs: FakeRuns, shapes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def stop(experiment: Experiment, epoch: int) -> float:
        if len(runs.runs) == 2 and epoch == 3:
            raise KeyboardInterrupt
        return 0.3

    runs.score = stop
    words = ["tune", "sais-lite", "--data", str(shapes), *SMALL, "--epochs", "8", "--out", "study", "--trials", "3"]
    assert main(words) == 130
    capsys.readouterr()
    runs.score = lambda experiment, epoch: 0.3
    assert len(tune(capsys, shapes, "--trials", "3")["trials"]) == 3
    names, resumed, experiments = zip(*runs.runs, strict=True)
    assert (names[1], resumed[1]) == ("trial-001", False)
    assert (names[2], resumed[2]) == ("trial-001", True)
    assert experiments[1] == experiments[2]
    assert len(set(names)) == 3


def test_hopeless_trials_end_early(runs: FakeRuns, shapes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs.score = lambda experiment, epoch: 0.1 if len(runs.runs) > 4 else 0.2 + 0.01 * epoch
    result = tune(capsys, shapes, "--trials", "6")
    states = {row["trial"]: row["state"] for row in result["trials"]}
    assert [states[number] for number in range(6)] == ["complete"] * 4 + ["stopped early"] * 2
    assert result["best"]["AP"] == pytest.approx(0.28)


def test_a_trial_that_diverges_does_not_end_the_search(
    runs: FakeRuns, shapes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def diverge(experiment: Experiment, epoch: int) -> float:
        if len(runs.runs) == 2:
            raise DivergedLossError("iteration 3: the loss is not finite.")
        return 0.4

    runs.score = diverge
    words = ["tune", "sais-lite", "--data", str(shapes), *SMALL, "--epochs", "8", "--out", "study", "--trials", "3"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "failed: iteration 3: the loss is not finite." in out
    assert out.splitlines()[-1].startswith("next: sais train sais-lite")


def test_a_folder_with_other_files_is_refused(runs: FakeRuns, shapes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("other").mkdir()
    Path("other/notes.txt").touch()
    assert main(["tune", "sais-lite", "--data", str(shapes), "--out", "other"]) == 2
    assert "other: is not empty, and contains no search to continue" in capsys.readouterr().err
    assert [path.name for path in Path("other").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("more", "fragment"),
    [
        (["--valid-split", "test"], "test is a test split"),
        (["--valid-split", "test2017"], "test2017 is a test split"),
        (["--valid-annotations", "a/instances_test.json", "--valid-images", "a"], "test is a test split"),
        (["--valid-split", ""], "no validation split to compare trials on"),
        (["--search"], "--search"),
        (["--trials", "0"], "--trials 0"),
        (["--search", "depth"], "one of lr, size, augment"),
    ],
)
def test_mistakes_are_refused_before_the_first_trial(
    runs: FakeRuns, shapes: Path, more: list[str], fragment: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tune", "sais-lite", "--data", str(shapes), *more]) == 2
    assert fragment in capsys.readouterr().err
    assert runs.runs == []
    assert not Path("runs").exists()


def test_without_options_removes_values_as_well() -> None:
    words = ["r", "--search", "lr", "size", "--data", "d", "--out=x", "--json", "--lr", "1"]
    assert without_options(words, ["--search", "--out", "--json"]) == ["r", "--data", "d", "--lr", "1"]


@pytest.mark.slow
def test_tune_trains_and_its_command_runs(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["tune", "sais-lite", "--data", str(shapes), *SMALL, "--epochs", "1", "--trials", "2", "--random-init"]
    assert main([*words, "--search", "lr", "augment", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    folder = Path("runs/tune-sais-lite-shapes")
    assert [row["AP"] is None for row in result["trials"]] == [False, False]
    for name in ("trial-000", "trial-001"):
        assert (folder / name / "model.safetensors").is_file()
    assert main(["runs", str(folder), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["runs"]) == 2
    ready = shlex.split(result["command"])[1:]
    assert main([*ready, "--epochs", "1", "--max-iterations", "1", "--out", "best", "--no-report"]) == 0
    stored = json.loads(Path("best/experiment.json").read_text())
    best = json.loads((Path(result["best"]["folder"]) / "experiment.json").read_text())
    assert (stored["optim"], stored["augment"], stored["input"]) == (best["optim"], best["augment"], best["input"])
