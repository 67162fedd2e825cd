"""What may go wrong in a run that nobody watches: signals, full disks, spoilt files, dead workers, broken images."""

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
import sais.data.dataset as samples
import sais.engine.trainer as engine
from sais.checkpoint import load_checkpoint
from sais.config import Experiment
from sais.data.paths import DataPaths
from sais.engine.signals import StopRequest
from sais.engine.trainer import train
from sais.errors import SaisError


def entries(out: Path, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def same_weights(out: Path, other: Path, name: str = "model") -> bool:
    a, b = (load_checkpoint(folder / f"{name}.safetensors").tensors for folder in (out, other))
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture(scope="module")
def often(tiny: Experiment) -> Experiment:
    """Six iterations, saved after each."""
    return replace(tiny, run=replace(tiny.run, checkpoint_every=1))


@pytest.fixture(scope="module")
def straight(tiny: Experiment, shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that nothing disturbs."""
    out = tmp_path_factory.mktemp("straight") / "run"
    train(tiny, DataPaths(shapes), out)
    return out


def disturbed(monkeypatch: pytest.MonkeyPatch, number: int, disturb: Callable[[], None]) -> None:
    """Call `disturb` in the middle of the step that makes iteration `number`."""
    step = engine.train_step

    def disturbing(run: Any, *rest: Any) -> Any:
        if run.iteration + 1 == number:
            disturb()
        return step(run, *rest)

    monkeypatch.setattr(engine, "train_step", disturbing)


@pytest.mark.parametrize(("number", "ends_with"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_signal_lets_the_step_finish_and_saves(
    tiny: Experiment,
    straight: Path,
    shapes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
    ends_with: type[BaseException],
) -> None:
    """In the middle of an epoch, where no checkpoint is due; afterwards the old handlers stand again."""
    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        disturbed(patch, 2, lambda: signal.raise_signal(number))
        with pytest.raises(ends_with) as caught:
            train(tiny, DataPaths(shapes), tmp_path / "run")
    if isinstance(caught.value, SystemExit):
        assert caught.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(number) is before
    assert "stopped and saved at iteration 2; go on with --resume" in capsys.readouterr().out
    assert load_checkpoint(tmp_path / "run/last.safetensors").state["iteration"] == 2
    train(tiny, DataPaths(shapes), tmp_path / "run", resume=True)
    assert same_weights(tmp_path / "run", straight)


def test_a_second_interrupt_ends_at_once() -> None:
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.signal == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    with StopRequest() as stop, stop.at_once(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(SystemExit), stop.at_once():
            raise AssertionError("what can be lost is over, and a signal came before")


def failing(monkeypatch: pytest.MonkeyPatch, fails: Callable[[int], bool]) -> None:
    """A disk that is full at those calls of safetensors' `save_file`, counted from 1; half a file is left each time."""
    save_file, count = checkpoints.save_file, iter(range(1, 1000))

    def full(tensors: Any, path: Path, metadata: Any) -> None:
        save_file(tensors, path, metadata)
        if fails(next(count)):
            os.truncate(path, os.path.getsize(path) // 2)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoints, "save_file", full)


def test_a_disk_that_is_full_for_a_while_costs_nothing(
    often: Experiment,
    straight: Path,
    shapes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """From the third call to the sixth: the previous checkpoint makes room, the last one stands, training goes on."""
    seen: list[tuple[int, bool]] = []

    def look() -> None:
        state = load_checkpoint(tmp_path / "run/last.safetensors").state
        seen.append((state["iteration"], (tmp_path / "run/previous.safetensors").exists()))

    failing(monkeypatch, lambda call: 3 <= call <= 6)
    disturbed(monkeypatch, 5, look)
    train(often, DataPaths(shapes), tmp_path / "run")
    assert seen == [(2, False)]
    said = capsys.readouterr().out
    assert "NOT SAVED: " in said
    assert "No space left on device" in said
    assert "Training goes on, the next checkpoint tries again" in said
    assert not list((tmp_path / "run").glob(".*"))  # no halves
    assert same_weights(tmp_path / "run", straight)


def test_a_disk_that_stays_full_is_an_error_and_the_last_checkpoint_stands(
    often: Experiment, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, lambda call: call >= 3)
    with pytest.raises(SaisError, match="cannot write the checkpoint .*free some space"):
        train(often, DataPaths(shapes), tmp_path / "run")
    assert load_checkpoint(tmp_path / "run/last.safetensors").state["iteration"] == 2


def spoil(path: Path) -> None:
    """Another bit in the middle of the file: still a safetensors file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_spoilt_checkpoint_is_known_and_the_one_before_goes_on(
    often: Experiment, straight: Path, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    train(often, DataPaths(shapes), out, max_iterations=4)
    assert load_checkpoint(out / "previous.safetensors").state["iteration"] == 3
    spoil(out / "last.safetensors")
    with pytest.raises(SaisError, match=r"last\.safetensors: spoilt since it was written"):
        load_checkpoint(out / "last.safetensors")
    train(often, DataPaths(shapes), out, resume=True)
    assert "Going on from previous.safetensors" in capsys.readouterr().out
    assert (out / "last.safetensors.spoilt").exists()  # and in nobody's way
    assert same_weights(out, straight)
    assert [step["iteration"] for step in entries(out, "iteration")] == [1, 2, 3, 4, 5, 6]
    assert not (out / "previous.safetensors").exists()  # of no use to a finished run


@pytest.mark.slow
def test_a_killed_worker_is_replaced(
    tiny: Experiment,
    straight: Path,
    shapes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As the system kills one for want of memory: here each at its third image, but only three times."""
    read, main, deaths = samples.read_image, os.getpid(), tmp_path / "deaths"
    deaths.mkdir()
    count = iter(range(1, 1000))

    def dying(path: Path) -> Any:
        if os.getpid() != main and next(count) == 3 and len(list(deaths.iterdir())) < 3:
            (deaths / str(os.getpid())).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return read(path)

    monkeypatch.setattr(samples, "read_image", dying)
    with_workers = replace(tiny, run=replace(tiny.run, workers=1))
    train(with_workers, DataPaths(shapes), tmp_path / "run")
    assert "a process that reads images was killed" in capsys.readouterr().out
    assert len(list(deaths.iterdir())) == 3
    assert same_weights(tmp_path / "run", straight)


@pytest.mark.slow
def test_a_worker_that_dies_in_the_middle_of_a_step_disturbs_nothing(
    tiny: Experiment, straight: Path, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch would raise there and then; half a step would be made twice."""
    build = engine.train_step

    def killing(run: Any, *rest: Any) -> Any:
        terms = build(run, *rest)
        if run.iteration + 1 == 3:  # the update is made, and not yet counted
            for worker in multiprocessing.active_children():
                number = int(worker.pid or 0)
                os.kill(number, signal.SIGKILL)
                os.waitid(os.P_PID, number, os.WEXITED | os.WNOWAIT)  # dead, and left for torch to find
        return terms

    monkeypatch.setattr(engine, "train_step", killing)
    with_workers = replace(tiny, run=replace(tiny.run, workers=1))
    train(with_workers, DataPaths(shapes), tmp_path / "run")
    assert same_weights(tmp_path / "run", straight)


def test_a_image_that_turns_unreadable_later_is_left_out(
    tiny: Experiment, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the first epoch it would be a mistake of the data set, and stop the run."""
    data = shutil.copytree(shapes, tmp_path / "data")
    victim = sorted((data / "images/train").iterdir())[5]
    disturbed(monkeypatch, 3, lambda: os.truncate(victim, 100))
    three = replace(tiny, schedule=replace(tiny.schedule, epochs=3))
    result = train(three, DataPaths(data), tmp_path / "run")
    assert result.iterations == 9
    assert len(result.unreadable_images) == 1
    assert victim.name in next(iter(result.unreadable_images))
    said = capsys.readouterr().out
    assert said.count("left out: ") == 1
    assert "left out 1 unreadable images" in said
    with pytest.raises(SaisError, match=f"{victim.name}.*--skip-broken"):
        train(three, DataPaths(data), tmp_path / "again")


def test_a_resumed_run_takes_some_settings_anew_and_refuses_others(
    tiny: Experiment, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    train(tiny, DataPaths(shapes), out, max_iterations=2)
    lower = replace(tiny, optim=replace(tiny.optim, lr=1e-4, batch_size=2))
    with pytest.raises(SaisError, match="--optim.batch-size: the run was started with 4, and a resumed run keeps it"):
        train(lower, DataPaths(shapes), out, resume=True, changed_settings=("optim.lr", "optim.batch_size"))
    train(lower, DataPaths(shapes), out, resume=True, max_iterations=4, changed_settings=("optim.lr",))
    assert "optim.lr is 0.0001 from here on, it was 0.002" in capsys.readouterr().out
    rates = [step["lr"] for step in entries(out, "iteration")]
    assert rates[2] < rates[1] / 10
    assert load_checkpoint(out / "last.safetensors").experiment.optim.lr == 1e-4


@pytest.mark.parametrize("resumes", [False, True])
def test_a_run_without_progress_ends_early(
    resumes: bool,
    tiny: Experiment,
    shapes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """AP rises once and then never: with a patience of 2 the fourth epoch is the last, and the second one's weights are
    the model."""
    evaluate, scores = engine.evaluate, iter([0.1, 0.2, 0.2, 0.15, 0.9])

    def told(*arguments: Any, **options: Any) -> Any:
        evaluation = evaluate(*arguments, **options)
        assert evaluation.metrics is not None
        mask = replace(evaluation.metrics.mask, AP=next(scores))  # type: ignore[type-var]
        return replace(evaluation, metrics=replace(evaluation.metrics, mask=mask))

    monkeypatch.setattr(engine, "evaluate", told)
    many = replace(
        tiny,
        schedule=replace(tiny.schedule, epochs=9, patience=2),
        run=replace(tiny.run, evaluate_every=1),
    )
    if resumes:
        train(many, DataPaths(shapes), tmp_path / "run", max_iterations=9)
    result = train(many, DataPaths(shapes), tmp_path / "run", resume=resumes)
    assert result.iterations == 12
    assert "no better AP in 2 evaluations (--schedule.patience): the run ends here" in capsys.readouterr().out
    best, model = (load_checkpoint(tmp_path / f"run/{name}.safetensors") for name in ("best", "model"))
    assert best.state["iteration"] == model.state["iteration"] == 6  # what is predicted with is the best
    assert all(torch.equal(tensor, best.tensors[name]) for name, tensor in model.tensors.items())
    if resumes:  # `sais report` makes up for it
        assert result.evaluation is None
    else:
        assert result.evaluation is not None
        assert result.evaluation.metrics is not None
        assert result.evaluation.metrics.mask is not None
        assert result.evaluation.metrics.mask.AP == 0.2


def test_a_run_is_saved_by_time_too(
    tiny: Experiment, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit that has always passed: what fails in the second step leaves the checkpoint of the first."""

    def fail() -> None:
        raise ValueError("a fault of ours")

    disturbed(monkeypatch, 2, fail)
    by_time = replace(tiny, run=replace(tiny.run, checkpoint_minutes=1e-9))
    with pytest.raises(ValueError, match="a fault of ours"):
        train(by_time, DataPaths(shapes), tmp_path / "run")
    assert load_checkpoint(tmp_path / "run/last.safetensors").state["iteration"] == 1


def test_memory_that_runs_out_is_told_in_one_line(
    tiny: Experiment, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disturbed(monkeypatch, 1, lambda: torch.empty(2**60, dtype=torch.uint8))
    with pytest.raises(SaisError, match=r"out of memory on cpu with 4 images of 64 x 64.*--optim.micro-batch 2"):
        train(tiny, DataPaths(shapes), tmp_path / "run")


def test_a_data_set_that_goes_away_ends_the_run_and_leaves_the_checkpoint(
    tiny: Experiment, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the second of ten epochs, as a network drive does: the rest of them must not pass without training."""
    data = shutil.copytree(shapes, tmp_path / "data")
    many = replace(tiny, schedule=replace(tiny.schedule, epochs=10), optim=replace(tiny.optim, batch_size=1))
    disturbed(monkeypatch, 13, lambda: shutil.rmtree(data / "images"))
    with pytest.raises(SaisError, match="no image of 10 batches in a row can be read.*--resume when it is back"):
        train(many, DataPaths(data, valid=""), tmp_path / "run")
    assert load_checkpoint(tmp_path / "run/last.safetensors").state["iteration"] == 12


def test_best_weights_that_find_no_room_do_not_end_the_run(
    tiny: Experiment, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second file that is written is the best of the first epoch; the second epoch's finds room."""
    failing(monkeypatch, lambda call: call == 2)
    measured = replace(
        tiny, run=replace(tiny.run, evaluate_every=1), postprocess=replace(tiny.postprocess, score_threshold=0.0)
    )
    train(measured, DataPaths(shapes), tmp_path / "run")
    assert "NOT SAVED" in capsys.readouterr().out
    assert load_checkpoint(tmp_path / "run/best.safetensors").state["iteration"] == 6
    assert (tmp_path / "run/model.safetensors").exists()
