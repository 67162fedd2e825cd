"""`sais.train` and `sais.evaluate`: settings by name, the result, callbacks, silence, data in memory."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import sais
from sais.config import Experiment
from sais.data.formats import read_dataset
from sais.engine.callbacks import Callbacks, TrainingEvent
from sais.errors import ConfigError, InputError
from sais.recipes import recipe
from sais.recipes.settings_file import settings_by_name


def stored(out: Path) -> dict[str, Any]:
    """Return the settings that a run wrote."""
    settings: dict[str, Any] = json.loads((out / "experiment.json").read_text())
    return settings


def test_train_prints_nothing_and_returns_the_model(
    tiny: Experiment, shapes: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    events: list[TrainingEvent] = []
    result = sais.train(tiny, shapes, tmp_path / "run", callbacks=[events.append], epochs=1)
    assert capfd.readouterr() == ("", "")
    assert result.model == tmp_path / "run/model.safetensors"
    assert result.best_model == tmp_path / "run/best.safetensors"
    assert result.metrics is not None
    assert result.evaluation is not None
    assert result.load_model().class_names == result.predictor(score=0.9).class_names
    assert "iteration" in (tmp_path / "run/log.txt").read_text()
    with pytest.raises(FrozenInstanceError):
        result.iterations = 5  # type: ignore[misc]
    kinds = [event.kind for event in events]
    assert kinds == ["step", "step", "step", "epoch", "evaluation", "end"]
    assert [event.iteration for event in events] == [1, 2, 3, 3, 3, 3]
    assert {event.total for event in events} == {3}
    assert {(event.epoch, event.epochs) for event in events} == {(1, 1)}
    assert {"loss/total", "lr", "gradient", "images_per_second"} <= events[0].values.keys()
    assert events[4].values["box/AP"] == result.metrics["box"]["AP"]
    assert events[4].evaluation is result.evaluation


def test_train_verbose_prints_lines(
    tiny: Experiment, shapes: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    sais.train(tiny, shapes, tmp_path / "run", max_iterations=1, verbose=True)
    assert "12 images, 3 iterations per epoch" in capfd.readouterr().out


def test_train_ends_where_a_callback_returns_true(tiny: Experiment, shapes: Path, tmp_path: Path) -> None:
    class StopAtTwo:
        ended = 0

        def on_step(self, event: TrainingEvent) -> bool:
            return event.iteration == 2

        def on_end(self, event: TrainingEvent) -> None:
            self.ended = event.iteration

    callback = StopAtTwo()
    result = sais.train(tiny, shapes, tmp_path / "run", callbacks=[callback])
    assert (result.iterations, callback.ended) == (2, 2)
    assert result.model.name == "last.safetensors"
    resumed = sais.train(tiny, shapes, tmp_path / "run", resume=True, max_iterations=3)
    assert resumed.iterations == 3


def test_callbacks_refuse_what_is_no_callback() -> None:
    with pytest.raises(ConfigError, match=r"callbacks: 'print' is neither a function nor an object with on_step"):
        Callbacks(["print"])


def test_train_applies_settings_and_chooses_the_others(
    shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trainer below is replaced: only the settings that reach it matter here."""
    calls: list[tuple[Experiment, dict[str, Any]]] = []

    def record(experiment: Experiment, *arguments: Any, **options: Any) -> None:
        calls.append((experiment, options))

    monkeypatch.setattr("sais.engine.trainer.train", record)
    monkeypatch.chdir(tmp_path)
    sais.train("sais-lite", shapes, size=96, lr=2e-3, optim={"weight_decay": 0.1}, **{"run.workers": 0})
    experiment, options = calls[-1]
    assert experiment.input.size == (96, 96)
    assert (experiment.optim.lr, experiment.optim.weight_decay, experiment.run.workers) == (2e-3, 0.1, 0)
    assert experiment.schedule.epochs != recipe("sais-lite").schedule.epochs  # 12 images need more
    assert options["notes"]
    sais.train("sais-lite", shapes, size="auto", epochs=2, batch_size=2)
    assert calls[-1][0].schedule.epochs == 2
    sais.train(recipe("sais-lite"), shapes)  # an Experiment is used as it is
    assert calls[-1][0] == recipe("sais-lite")
    sais.train("paper-lite0", shapes)
    assert calls[-1][0] == recipe("paper-lite0")
    lr = recipe("sais-lite").optim.lr
    sais.train("sais-lite", shapes, lr=lr)
    assert calls[-1][0].optim.lr == lr
    Path("board.json").write_text(json.dumps({"name": "sais-lite", "size": 64, "lr": lr}))
    sais.train("board.json", shapes, seed=3)  # as on the command line: the rest is chosen
    experiment = calls[-1][0]
    assert (experiment.input.size, experiment.run.seed) == ((64, 64), 3)
    assert (experiment.optim.batch_size, experiment.optim.lr) == (2, lr)


def test_settings_by_name_names_the_closest_setting() -> None:
    with pytest.raises(ConfigError, match=r"sais\.train: .*epoch.*: unknown setting.*'epochs'"):
        settings_by_name({"epoch": 3}, "sais.train")
    with pytest.raises(ConfigError, match=r"optim\.learning_rate: unknown setting"):
        settings_by_name({"optim": {"learning_rate": 3}}, "sais.train")
    with pytest.raises(ConfigError, match="optim.lr is given twice"):
        settings_by_name({"lr": 1.0, "optim.lr": 2.0}, "sais.train")


def test_train_and_evaluate_take_splits_in_memory(tiny: Experiment, shapes: Path, tmp_path: Path) -> None:
    splits = {name: read_dataset(shapes, name) for name in ("train", "valid")}
    result = sais.train(tiny, splits, tmp_path / "run", epochs=1)
    assert result.metrics is not None
    evaluation = sais.evaluate(result.model, data=splits, split="valid", workers=0)
    assert evaluation.metrics is not None
    assert evaluation.metrics.to_dict() == result.metrics
    with pytest.raises(InputError, match="no split 'test', only train, valid"):
        sais.evaluate(result.model, data=splits, split="test")
    with pytest.raises(InputError, match="data has no split 'train', only valid"):
        sais.train(tiny, {"valid": splits["valid"]})


def test_train_numbers_the_default_folder(
    tiny: Experiment, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outs = [sais.train(tiny, shapes, max_iterations=1).out for _ in range(2)]
    assert outs == [Path("runs/tiny-shapes"), Path("runs/tiny-shapes-2")]


def test_train_warns_of_too_few_steps(shapes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **options: Any) -> None:
        noted.append(options["notes"])

    noted: list[list[str]] = []
    monkeypatch.setattr("sais.engine.trainer.train", stop)
    sais.train("sais-lite", data=shapes, epochs=1, batch_size=4)
    assert any("too few to learn anything" in line for line in noted[0])
    sais.train("sais-lite", data=shapes, epochs=1, batch_size=4, max_iterations=1)  # a trial
    assert not any("too few to learn anything" in line for line in noted[1])
