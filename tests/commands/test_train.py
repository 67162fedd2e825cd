"""`sais train`: settings chosen from the data, settings files and chosen classes on the command line."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import sais.engine.trainer as engine
from sais.cli import main
from sais.commands.recipe_options import open_recipe
from sais.config import Experiment, to_dict
from sais.data.paths import DataPaths
from sais.errors import ConfigError
from sais.recipes import recipe
from sais.recipes.adjust import replace_settings
from sais.recipes.from_data import epochs_to_learn


class Calls:
    """Replace `train` by a function that records its arguments and stops the command.

    Args:
        monkeypatch: pytest's fixture.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.experiment = Experiment()
        self.values: dict[str, Any] = {}

        def record(experiment: Experiment, paths: DataPaths, out: Path, **values: Any) -> None:
            self.experiment, self.values = experiment, values | {"paths": paths, "out": out}
            raise KeyboardInterrupt

        monkeypatch.setattr(engine, "train", record)

    def __call__(self, words: Sequence[str]) -> Experiment:
        """Run `sais train` and return the experiment that would be trained."""
        assert main(["train", *words]) == 130
        return self.experiment


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Calls:
    """Return a function that runs `sais train` up to the start of the training."""
    monkeypatch.chdir(tmp_path)
    return Calls(monkeypatch)


def test_train_prints_a_command_that_gives_the_same_settings(train: Calls, shapes: Path) -> None:
    chosen = train(["sais-lite", "--data", str(shapes), "--seed", "3"])
    assert chosen != replace_settings(recipe("sais-lite"), "run", seed=3)
    reason, *_ = notes = train.values["notes"]
    assert reason.startswith("from the data: the median object has ")
    (line,) = [note for note in notes if note.startswith("the same by hand: sais train sais-lite --data")]
    words = shlex.split(line.partition("sais train ")[2])
    assert train(words) == chosen
    assert not any(note.startswith("from the data") for note in train.values["notes"])


def test_train_keeps_every_setting_that_is_given(train: Calls, shapes: Path) -> None:
    words = ["--data", str(shapes), "--size", "96", "--epochs", "70", "--batch-size", "4"]
    chosen = train(["sais-lite", *words])
    assert (chosen.input.size, chosen.schedule.epochs, chosen.optim.batch_size) == ((96, 96), 70, 4)
    assert chosen.augment.scale_jitter == (1.0, 1.0)  # not given
    chosen = train(["sais-lite", *words, "--augment.scale-jitter", "0.5", "2", "--lr", "0.01"])
    assert (chosen.augment.scale_jitter, chosen.optim.lr) == ((0.5, 2.0), 0.01)
    assert train.values["notes"] == ["70 epochs instead of 14: growth of the input ends after 55 instead of 11"]


def test_train_does_not_adapt_paper_recipes_unless_asked(train: Calls, shapes: Path) -> None:
    data = ["--data", str(shapes)]
    for name in ("paper-lite0", "sais-r50-768"):
        assert train([name, *data]) == recipe(name)
    chosen = train(["paper-lite0", *data, "--epochs", "auto"])
    assert chosen == replace_settings(recipe("paper-lite0"), "schedule", epochs=chosen.schedule.epochs)
    assert chosen.schedule.epochs == 50


def test_train_does_not_adapt_an_own_recipe(train: Calls, shapes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("own_board.py").write_text("from sais.recipes import recipe\ndef board():\n    return recipe('sais-lite')\n")
    monkeypatch.syspath_prepend(Path.cwd())
    assert train(["own_board:board", "--data", str(shapes)]) == recipe("sais-lite")
    assert train.values["out"] == Path("runs/own_board.board-shapes")


def test_train_warns_of_too_few_steps(train: Calls, shapes: Path) -> None:
    words = ["paper-lite0", "--data", str(shapes), "--epochs", "2"]
    train(words)
    warning = "warning: 2 steps are too few to learn anything; train 300 epochs or more (--epochs)"
    assert train.values["notes"] == [warning]
    train([*words, "--max-iterations", "2"])  # a trial
    assert train.values["notes"] == []
    enough = train([*words[:-1], "300"])
    assert epochs_to_learn(12, enough) is None


def test_train_reads_back_the_settings_of_a_run(train: Calls, shapes: Path) -> None:
    stored = replace_settings(recipe("sais-lite"), "optim", lr=0.123)
    Path("experiment.json").write_text(json.dumps(to_dict(stored)))
    data = ["--data", str(shapes)]
    assert train(["--config", "experiment.json", *data]) == stored
    assert train.values["out"] == Path("runs/sais-lite-shapes")
    assert train(["experiment.json", *data]) == stored
    assert train(["sais-lite1", "--config=experiment.json", *data]) == stored
    changed = train(["--config", "experiment.json", *data, "--lr", "0.5", "--model.masks"])
    assert changed == replace_settings(stored, "optim", lr=0.5)


def test_train_chooses_what_a_settings_file_leaves_open(train: Calls, shapes: Path) -> None:
    Path("board.json").write_text(json.dumps({"name": "sais-lite", "size": 64, "optim": {"weight_decay": 0.1}}))
    chosen = train(["--config", "board.json", "--data", str(shapes)])
    assert (chosen.input.size, chosen.optim.weight_decay) == ((64, 64), 0.1)
    assert chosen.schedule.epochs != recipe("sais-lite").schedule.epochs
    assert train.values["out"] == Path("runs/board-shapes")


def test_train_never_scales_a_learning_rate_that_is_given(train: Calls, shapes: Path) -> None:
    lr = recipe("sais-lite").optim.lr
    data = ["--data", str(shapes)]
    chosen = train(["sais-lite", *data, "--lr", str(lr)])
    assert (chosen.optim.batch_size, chosen.optim.lr) == (2, lr)
    Path("board.json").write_text(json.dumps({"name": "sais-lite", "lr": lr}))
    assert train(["board.json", *data]).optim.lr == lr
    assert train(["board.json", *data, "--batch-size", "4"]).optim.lr == lr


@pytest.mark.parametrize("words", [["board.json"], ["--config", "board.json"], ["sais-lite", "--config", "board.json"]])
def test_train_prints_a_command_that_keeps_the_settings_file(train: Calls, shapes: Path, words: list[str]) -> None:
    name = {} if words[0] == "sais-lite" else {"name": "sais-lite"}
    Path("board.json").write_text(json.dumps({**name, "lr": 0.002, "optim": {"weight_decay": 0.1}}))
    chosen = train([*words, "--data", str(shapes), "--size", "auto"])
    (line,) = [note for note in train.values["notes"] if note.startswith("the same by hand")]
    assert train(shlex.split(line.partition("sais train ")[2])) == chosen
    assert (chosen.optim.weight_decay, chosen.optim.lr) == (0.1, 0.002)


def test_draw_augmented_draws_what_train_would_train(
    train: Calls, shapes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data", str(shapes), "--batch-size", "4"]
    chosen = train(["sais-lite", *data])
    assert chosen.augment.scale_jitter != recipe("sais-lite").augment.scale_jitter
    (reason,) = [note for note in train.values["notes"] if note.startswith("from the data")]
    sheet = ["--images", "4"]
    assert main(["draw-augmented", "sais-lite", *data, *sheet, "--out", "a.jpg"]) == 0
    assert reason in capsys.readouterr().out
    settings = ["--size", "320", "--schedule.epochs", str(chosen.schedule.epochs), "--augment.scale-jitter", "1", "1"]
    assert main(["draw-augmented", "sais-lite", *data, *settings, *sheet, "--out", "b.jpg"]) == 0
    assert Path("a.jpg").read_bytes() == Path("b.jpg").read_bytes()
    assert "from the data" not in capsys.readouterr().out


def test_train_names_a_config_without_a_value(shapes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--config", "--data", str(shapes)]) == 2
    assert "--config" in capsys.readouterr().err


def test_open_recipe_lets_the_config_override_the_file_before_it(tmp_path: Path) -> None:
    for name, content in (("a.json", {"name": "sais-lite", "lr": 1.0, "seed": 1}), ("b.json", {"lr": 2.0})):
        (tmp_path / name).write_text(json.dumps(content))
    start, words = open_recipe([str(tmp_path / "a.json"), "--config", str(tmp_path / "b.json"), "--data", "d"])
    assert (start.experiment.optim.lr, start.experiment.run.seed) == (2.0, 1)
    assert (start.name, start.recipe_name, words[0]) == ("a", "sais-lite", "--config")
    with pytest.raises(ConfigError, match=r"b\.json: names no recipe"):
        open_recipe(["--config", str(tmp_path / "b.json")])


def test_train_chooses_and_merges_classes(train: Calls, shapes: Path) -> None:
    first, second, *others = DataPaths(shapes).read_train().class_names
    train(["sais-lite", "--data", str(shapes), "--classes", others[0], f"both={first}+{second}"])
    assert train.values["dataset"].class_names == (others[0], "both")
    assert train.values["paths"].classes == (others[0], f"both={first}+{second}")


def test_train_names_an_unknown_class(shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "sais-lite", "--data", str(shapes), "--out", str(tmp_path / "run"), "--classes", "sta"]
    assert main(words) == 2
    assert "no class 'sta'" in capsys.readouterr().err


def test_eval_merges_classes_as_training_does(
    trained: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A class that is not chosen counts neither as an object nor as a detection."""
    names = DataPaths(shapes).read_train().class_names
    words = ["eval", str(trained), "--data", str(shapes), "--workers", "0", "--json", "-"]
    assert main([*words, "--classes", names[0]]) == 0
    chosen = json.loads(capsys.readouterr().out)
    assert main(words) == 0
    everything = json.loads(capsys.readouterr().out)
    assert chosen["metrics"]["mask"]["AP"] == pytest.approx(everything["metrics"]["mask"]["per_class"][names[0]])
    assert 0 < chosen["metrics"]["objects"] < everything["metrics"]["objects"]
    assert main([*words, "--classes", f"thing={names[0]}+{names[1]}"]) == 2
    assert "the model has no class 'thing'" in capsys.readouterr().err


def test_check_recommends_a_command(shapes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(shapes), "--no-decode"]) == 0
    output = capsys.readouterr().out
    assert f"recommended: sais train sais-lite --data {shapes}\nfrom the data: " in output
    assert f"\nthe same by hand: sais train sais-lite --data {shapes} --size " in output
    assert "sais split" not in output
    file = shapes / "annotations" / "train.json"
    assert main(["doctor", str(file), "--image-folder", str(shapes / "images" / "train"), "--no-decode"]) == 0
    assert f"sais split {file}" in capsys.readouterr().out  # the recommended run has no validation images


def test_recipes_shows_a_settings_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "experiment.json"
    stored = replace(recipe("sais-lite"), name="mine")
    path.write_text(json.dumps(to_dict(stored)))
    assert main(["recipes", str(path)]) == 0
    assert json.loads(capsys.readouterr().out) == to_dict(stored)
