"""Failures of unattended runs: signals, full disks, corrupt files, dead workers, unreadable images."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import sais.checkpoint as checkpoints
import sais.engine.trainer as engine
import sais.engine.validation as validation
from sais.checkpoint import load_checkpoint
from sais.config import Experiment
from sais.data.paths import DataPaths
from sais.engine.trainer import train
from sais.errors import CheckpointError, ConfigError, InputError, ResourceError
from sais.io import images


def entries(out: Path, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def same_weights(out: Path, other: Path, name: str = "model") -> bool:
    a, b = (load_checkpoint(folder / f"{name}.safetensors").tensors for folder in (out, other))
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture(scope="module")
def often(tiny: Experiment) -> Experiment:
    """Return settings of six iterations, each followed by a checkpoint."""
    return replace(tiny, run=replace(tiny.run, checkpoint_every=1))


@pytest.fixture(scope="module")
def straight(tiny: Experiment, shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of an undisturbed run."""
    out = tmp_path_factory.mktemp("straight") / "run"
    train(tiny, DataPaths(shapes), out)
    return out


def disturbed(monkeypatch: pytest.MonkeyPatch, number: int, disturb: Callable[[], None]) -> None:
    """Call `disturb` in the middle of the step of iteration `number`."""
    step = engine.train_step

    def disturbing(run: Any, *arguments: Any) -> Any:
        if run.iteration + 1 == number:
            disturb()
        return step(run, *arguments)

    monkeypatch.setattr(engine, "train_step", disturbing)


HANGUP = getattr(signal, "SIGHUP", signal.SIGTERM)
"""Signal of a closed terminal; Windows has none."""


@pytest.mark.parametrize(
    ("number", "ends_with"),
    [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit), (HANGUP, SystemExit)],
)
def test_train_finishes_the_step_and_saves_on_a_signal(
    tiny: Experiment,
    straight: Path,
    shapes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
    ends_with: type[BaseException],
) -> None:
    """In the middle of an epoch, where no checkpoint is due; afterwards the previous handlers are restored."""
    original = signal.getsignal(number)
    before = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
    signal.signal(number, before)  # SIGHUP is ignored where the tests run under nohup
    try:
        with monkeypatch.context() as patch:
            disturbed(patch, 2, lambda: signal.raise_signal(number))
            with pytest.raises(ends_with) as caught:
                train(tiny, DataPaths(shapes), tmp_path / "run")
        if isinstance(caught.value, SystemExit):
            assert caught.value.code == 128 + number
        assert signal.getsignal(number) is before
    finally:
        signal.signal(number, original)
    assert "stopped and saved at iteration 2" in capsys.readouterr().out
    assert load_checkpoint(tmp_path / "run/last.safetensors").state["iteration"] == 2
    train(tiny, DataPaths(shapes), tmp_path / "run", resume=True)
    assert same_weights(tmp_path / "run", straight)


def fail_saves(monkeypatch: pytest.MonkeyPatch, fails: Callable[[int], bool]) -> None:
    """Let calls of safetensors' `save_file`, counted from 1, fail with a full disk and half a file."""
    save_file, count = checkpoints.save_file, iter(range(1, 1000))

    def full(tensors: Any, path: Path, metadata: Any) -> None:
        save_file(tensors, path, metadata)
        if fails(next(count)):
            os.truncate(path, os.path.getsize(path) // 2)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoints, "save_file", full)


def test_train_survives_a_disk_that_is_full_for_a_while(
    often: Experiment,
    straight: Path,
    shapes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """From the third to the sixth save: the previous checkpoint makes room, the last one is kept."""
    seen: list[tuple[int, bool]] = []

    def inspect() -> None:
        state = load_checkpoint(tmp_path / "run/last.safetensors").state
        seen.append((state["iteration"], (tmp_path / "run/previous.safetensors").exists()))

    fail_saves(monkeypatch, lambda call: 3 <= call <= 6)
    disturbed(monkeypatch, 5, inspect)
    train(often, DataPaths(shapes), tmp_path / "run")
    assert seen == [(2, False)]
    output = capsys.readouterr().out
    assert "NOT SAVED: " in output
    assert "No space left on device" in output
    assert not list((tmp_path / "run").glob(".*"))  # no temporary files
    assert same_weights(tmp_path / "run", straight)


def test_train_fails_on_a_disk_that_stays_full_and_keeps_the_last_checkpoint(
    often: Experiment, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_saves(monkeypatch, lambda call: call >= 3)
    with pytest.raises(ResourceError, match="No space left on device"):
        train(often, DataPaths(shapes), tmp_path / "run")
    assert load_checkpoint(tmp_path / "run/last.safetensors").state["iteration"] == 2


def corrupt(path: Path) -> None:
    """Flip a bit in the middle of a file, which remains a valid safetensors file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_resume_uses_the_previous_checkpoint_if_the_last_is_corrupt(
    often: Experiment, straight: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    train(often, DataPaths(shapes), out, max_iterations=4)
    assert load_checkpoint(out / "previous.safetensors").state["iteration"] == 3
    corrupt(out / "last.safetensors")
    with pytest.raises(CheckpointError, match="checksum"):
        load_checkpoint(out / "last.safetensors")
    train(often, DataPaths(shapes), out, resume=True)
    assert "Resuming from previous.safetensors" in capsys.readouterr().out
    assert (out / "last.safetensors.corrupt").exists()
    assert same_weights(out, straight)
    assert [step["iteration"] for step in entries(out, "iteration")] == [1, 2, 3, 4, 5, 6]
    assert not (out / "previous.safetensors").exists()  # not needed by a finished run


@pytest.mark.slow
def test_train_replaces_killed_workers(
    tiny: Experiment,
    straight: Path,
    shapes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As the system kills processes when memory is low: here each one at its third image, three times."""
    read, main, deaths = images.read_image, os.getpid(), tmp_path / "deaths"
    deaths.mkdir()
    count = iter(range(1, 1000))

    def dying(*arguments: Any, **options: Any) -> Any:
        if os.getpid() != main and next(count) == 3 and len(list(deaths.iterdir())) < 3:
            (deaths / str(os.getpid())).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return read(*arguments, **options)

    monkeypatch.setattr(images, "read_image", dying)
    with_workers = replace(tiny, run=replace(tiny.run, workers=1))
    train(with_workers, DataPaths(shapes), tmp_path / "run")
    assert "a process that reads images was killed" in capsys.readouterr().out
    assert len(list(deaths.iterdir())) == 3
    assert same_weights(tmp_path / "run", straight)


@pytest.mark.slow
def test_train_step_is_not_interrupted_by_a_dying_worker(
    tiny: Experiment, straight: Path, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch would raise at once, and half a step would be applied twice."""
    original_step = engine.train_step

    def killing(run: Any, *arguments: Any) -> Any:
        terms = original_step(run, *arguments)
        if run.iteration + 1 == 3:  # the update is done, but not counted yet
            for worker in multiprocessing.active_children():
                number = int(worker.pid or 0)
                os.kill(number, signal.SIGKILL)
                os.waitid(os.P_PID, number, os.WEXITED | os.WNOWAIT)  # dead, but not yet noticed by torch
        return terms

    monkeypatch.setattr(engine, "train_step", killing)
    with_workers = replace(tiny, run=replace(tiny.run, workers=1))
    train(with_workers, DataPaths(shapes), tmp_path / "run")
    assert same_weights(tmp_path / "run", straight)


def test_train_skips_an_image_that_becomes_unreadable(
    tiny: Experiment, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the first epoch it would be an error of the data set and stop the run."""
    data = shutil.copytree(shapes, tmp_path / "data")
    victim = sorted((data / "images/train").iterdir())[5]
    disturbed(monkeypatch, 3, lambda: os.truncate(victim, 100))
    three = replace(tiny, schedule=replace(tiny.schedule, epochs=3))
    result = train(three, DataPaths(data), tmp_path / "run")
    assert result.iterations == 9
    assert len(result.unreadable_images) == 1
    assert victim.name in next(iter(result.unreadable_images))
    output = capsys.readouterr().out
    assert output.count("\nskipped: ") == 1
    assert "1 unreadable images skipped" in output
    with pytest.raises(InputError, match=f"{victim.name}.*skip_broken"):
        train(three, DataPaths(data), tmp_path / "again")


def test_resume_changes_some_settings_and_refuses_others(
    tiny: Experiment, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    train(tiny, DataPaths(shapes), out, max_iterations=2)
    lower = replace(tiny, optim=replace(tiny.optim, lr=1e-4, batch_size=2))
    with pytest.raises(ConfigError, match="optim.batch_size: the run was started with 4"):
        train(lower, DataPaths(shapes), out, resume=True, changed_settings=("optim.lr", "optim.batch_size"))
    train(lower, DataPaths(shapes), out, resume=True, max_iterations=4, changed_settings=("optim.lr",))
    assert "optim.lr changed from 0.002 to 0.0001" in capsys.readouterr().out
    rates = [step["lr"] for step in entries(out, "iteration")]
    assert rates[2] < rates[1] / 10
    assert load_checkpoint(out / "last.safetensors").experiment.optim.lr == 1e-4


@pytest.mark.parametrize("resumes", [False, True])
def test_train_ends_early_without_progress(
    resumes: bool,
    tiny: Experiment,
    shapes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """AP rises once: with a patience of 2 the fourth epoch is the last, and the model has the weights of the second."""
    evaluate, scores = validation.evaluate, iter([0.1, 0.2, 0.2, 0.15, 0.9])

    def evaluate_with_scores(*arguments: Any, **options: Any) -> Any:
        evaluation = evaluate(*arguments, **options)
        assert evaluation.metrics is not None
        mask = replace(evaluation.metrics.mask, AP=next(scores))  # type: ignore[type-var]
        return replace(evaluation, metrics=replace(evaluation.metrics, mask=mask))

    monkeypatch.setattr(validation, "evaluate", evaluate_with_scores)
    many = replace(
        tiny,
        schedule=replace(tiny.schedule, epochs=9, patience=2),
        run=replace(tiny.run, evaluate_every=1),
    )
    if resumes:
        train(many, DataPaths(shapes), tmp_path / "run", max_iterations=9)
    result = train(many, DataPaths(shapes), tmp_path / "run", resume=resumes)
    assert result.iterations == 12
    assert "no better AP in 2 evaluations (schedule.patience)" in capsys.readouterr().out
    best, model = (load_checkpoint(tmp_path / f"run/{name}.safetensors") for name in ("best", "model"))
    assert best.state["iteration"] == model.state["iteration"] == 6  # the best weights are the model
    assert all(torch.equal(tensor, best.tensors[name]) for name, tensor in model.tensors.items())
    if resumes:  # `sais report` evaluates them
        assert result.evaluation is None
    else:
        assert result.evaluation is not None
        assert result.evaluation.metrics is not None
        assert result.evaluation.metrics.mask is not None
        assert result.evaluation.metrics.mask.AP == 0.2


def test_train_saves_after_a_time_limit(
    tiny: Experiment, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a limit that is always exceeded, a failure in the second step leaves the checkpoint of the first."""

    def fail() -> None:
        raise ValueError("a bug")

    disturbed(monkeypatch, 2, fail)
    by_time = replace(tiny, run=replace(tiny.run, checkpoint_minutes=1e-9))
    with pytest.raises(ValueError, match="a bug"):
        train(by_time, DataPaths(shapes), tmp_path / "run")
    assert load_checkpoint(tmp_path / "run/last.safetensors").state["iteration"] == 1


def test_train_reports_out_of_memory_with_settings_to_change(
    tiny: Experiment, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disturbed(monkeypatch, 1, lambda: torch.empty(2**60, dtype=torch.uint8))
    with pytest.raises(ResourceError, match="out of memory with 4 images of 64 x 64.*optim.micro_batch 2"):
        train(tiny, DataPaths(shapes), tmp_path / "run")


def test_train_ends_if_the_data_set_disappears_and_keeps_the_checkpoint(
    tiny: Experiment, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the second of ten epochs, like a network drive: the other epochs must not pass without training."""
    data = shutil.copytree(shapes, tmp_path / "data")
    many = replace(tiny, schedule=replace(tiny.schedule, epochs=10), optim=replace(tiny.optim, batch_size=1))
    disturbed(monkeypatch, 13, lambda: shutil.rmtree(data / "images"))
    with pytest.raises(InputError, match="no image of 10 consecutive batches can be read"):
        train(many, DataPaths(data, valid=""), tmp_path / "run")
    assert load_checkpoint(tmp_path / "run/last.safetensors").state["iteration"] == 12


def test_train_continues_if_the_best_weights_cannot_be_saved(
    tiny: Experiment, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second saved file is the best of the first epoch; the best of the second epoch can be saved."""
    fail_saves(monkeypatch, lambda call: call == 2)
    measured = replace(
        tiny, run=replace(tiny.run, evaluate_every=1), postprocess=replace(tiny.postprocess, score_threshold=0.0)
    )
    train(measured, DataPaths(shapes), tmp_path / "run")
    assert "NOT SAVED" in capsys.readouterr().out
    assert load_checkpoint(tmp_path / "run/best.safetensors").state["iteration"] == 6
    assert (tmp_path / "run/model.safetensors").exists()
