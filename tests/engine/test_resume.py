"""Resuming is exact: a run that is killed by SIGKILL and resumed ends with the weights of an uninterrupted run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import sais.engine.resume
from sais.checkpoint import load_checkpoint
from sais.config import Experiment, to_dict
from sais.data.paths import DataPaths
from sais.engine.resume import RunInputs, start_run
from sais.engine.trainer import train
from sais.errors import ConfigError
from sais.inference.predictor import Predictor
from sais.modeling.architecture import Architecture
from sais.recipes import recipe
from sais.reports.run_record import read_run

CHILD = """
import json, os, signal, sys
from pathlib import Path

import sais.checkpoint as checkpoints
import sais.engine.trainer as engine
from sais.config import Experiment, from_dict
from sais.data.paths import DataPaths

settings, data, out, resume, moment, number = sys.argv[1:]
calls = 0


def dying_step(run, *rest, step=engine.train_step):
    if run.iteration == int(number):
        os.kill(os.getpid(), signal.SIGKILL)
    return step(run, *rest)


def dying_save(tensors, path, metadata, save_file=checkpoints.save_file):
    global calls
    calls += 1
    save_file(tensors, path, metadata)
    if calls == int(number):
        os.truncate(path, os.path.getsize(path) // 2)
        os.kill(os.getpid(), signal.SIGKILL)


if moment == "step":
    engine.train_step = dying_step
else:
    checkpoints.save_file = dying_save
experiment = from_dict(Experiment, json.loads(settings))
engine.train(experiment, DataPaths(Path(data)), Path(out), resume=resume == "resume")
"""


def killed(experiment: Experiment, shapes: Path, out: Path, moment: str, number: int, resume: bool = False) -> None:
    """Train in a process that is killed at the step or in the save with this number."""
    settings = json.dumps(to_dict(experiment))
    words = [settings, str(shapes), str(out), "resume" if resume else "start", moment, str(number)]
    source = str(Path(__file__).resolve().parents[2] / "src")
    environment = os.environ | {"PYTHONPATH": source + os.pathsep + os.environ.get("PYTHONPATH", "")}
    # The same number of threads, since it determines the order of additions.
    environment["OMP_NUM_THREADS"] = str(torch.get_num_threads())
    child = subprocess.run([sys.executable, "-c", CHILD, *words], env=environment, capture_output=True, text=True)
    assert child.returncode == -signal.SIGKILL, child.stderr


def same_run(out: Path, whole: Path) -> None:
    """Check that weights, average, optimizer and counts are equal to the bit, and the log has no gap or repetition."""
    for name in ("last", "best", "model"):
        resumed, straight = load_checkpoint(out / f"{name}.safetensors"), load_checkpoint(whole / f"{name}.safetensors")
        assert resumed.tensors.keys() == straight.tensors.keys()
        different = [n for n, t in straight.tensors.items() if not torch.equal(resumed.tensors[n], t)]
        assert not different, f"{name}: {len(different)} of {len(straight.tensors)}, such as {different[0]}"
        assert resumed.state | {"seconds": 0} == straight.state | {"seconds": 0}
        assert resumed.experiment == straight.experiment
    for kind, number in (("iteration", 18), ("evaluation", 6)):
        steps, wanted = entries(out, kind), entries(whole, kind)
        assert steps == wanted
        assert len(steps) == number


def entries(out: Path, kind: str) -> list[dict[str, Any]]:
    """Return entries of the log without times."""
    timed = {"time", "images_per_second", "seconds"}
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in timed} for line in lines if line["kind"] == kind]


@pytest.fixture(scope="module")
def six_epochs(tiny: Experiment) -> Experiment:
    """Return settings with AdamW, moving average, zoom, mosaic and several input sizes."""
    return replace(
        tiny,
        augment=replace(
            tiny.augment, scale_jitter=(0.7, 1.4), color_jitter=0.2, mosaic=0.5, copy_paste=0.5, multi_scale=(0.5, 1.0)
        ),
        schedule=replace(tiny.schedule, epochs=6, warmup=5),
        run=replace(tiny.run, ema=0.99, evaluate_every=1, checkpoint_every=2),
    )


@pytest.fixture(scope="module")
def straight(six_epochs: Experiment, shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of an uninterrupted run."""
    out = tmp_path_factory.mktemp("straight") / "run"
    train(six_epochs, DataPaths(shapes), out)
    return out


@pytest.mark.slow
def test_resume_after_a_kill_in_the_middle_of_an_epoch(
    six_epochs: Experiment, straight: Path, shapes: Path, tmp_path: Path
) -> None:
    """Killed in iteration 12 of 18, one after the checkpoint in the middle of epoch 4; that iteration is repeated."""
    out = tmp_path / "run"
    killed(six_epochs, shapes, out, "step", 11)
    assert load_checkpoint(out / "last.safetensors").state["iteration"] == 10
    train(six_epochs, DataPaths(shapes), out, resume=True)
    same_run(out, straight)


@pytest.mark.slow
def test_resume_after_a_kill_in_the_middle_of_a_save(
    six_epochs: Experiment, straight: Path, shapes: Path, tmp_path: Path
) -> None:
    """Killed twice with half a checkpoint on the disk: the previous one is intact, and the half does no harm."""
    out = tmp_path / "run"
    killed(six_epochs, shapes, out, "save", 7)
    before = load_checkpoint(out / "last.safetensors").state["iteration"]
    assert 0 < before < 18
    Predictor(out / "last.safetensors")
    halves = list(out.glob(".*.writing"))
    assert len(halves) == 1
    killed(six_epochs, shapes, out, "save", 3, resume=True)
    assert before < load_checkpoint(out / "last.safetensors").state["iteration"] < 18
    train(six_epochs, DataPaths(shapes), out, resume=True)
    same_run(out, straight)


@pytest.mark.slow
def test_resume_restores_the_momentum_of_sgd(tiny: Experiment, shapes: Path, tmp_path: Path) -> None:
    """The paper's SGD without average, killed between epochs 3 and 4."""
    experiment = replace(
        tiny,
        optim=replace(Experiment().optim, batch_size=4, lr=0.0025),  # 0.01 is for 16 images, and diverges with 4
        schedule=replace(Experiment().schedule, epochs=6, milestones=(2, 4)),
        run=replace(tiny.run, evaluate_every=1),
    )
    train(experiment, DataPaths(shapes), tmp_path / "whole")
    killed(experiment, shapes, tmp_path / "run", "step", 9)
    assert load_checkpoint(tmp_path / "run" / "last.safetensors").state["iteration"] == 9
    train(experiment, DataPaths(shapes), tmp_path / "run", resume=True)
    same_run(tmp_path / "run", tmp_path / "whole")


def test_resume_after_a_stop_in_the_middle_of_an_epoch(tiny: Experiment, shapes: Path, tmp_path: Path) -> None:
    """Stopped by `max_iterations` and resumed with worker processes."""
    experiment = replace(tiny, run=replace(tiny.run, ema=0.99, evaluate_every=1))
    train(experiment, DataPaths(shapes), tmp_path / "whole")
    train(experiment, DataPaths(shapes), tmp_path / "run", max_iterations=4)
    more_workers = replace(experiment, run=replace(experiment.run, workers=2))
    train(more_workers, DataPaths(shapes), tmp_path / "run", resume=True)
    resumed, straight = (
        load_checkpoint(tmp_path / "run" / "last.safetensors"),
        load_checkpoint(tmp_path / "whole" / "last.safetensors"),
    )
    assert resumed.tensors.keys() == straight.tensors.keys()
    assert all(torch.equal(resumed.tensors[name], tensor) for name, tensor in straight.tensors.items())
    assert entries(tmp_path / "run", "iteration") == entries(tmp_path / "whole", "iteration")


def test_resume_repeats_an_evaluation_that_was_interrupted(
    tiny: Experiment, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no checkpoint between the end of an epoch and its evaluation."""
    import sais.engine.validation as validation

    experiment = replace(tiny, run=replace(tiny.run, evaluate_every=1, checkpoint_every=1))
    evaluate = validation.evaluate
    monkeypatch.setattr(validation, "evaluate", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        train(experiment, DataPaths(shapes), tmp_path / "run")
    monkeypatch.setattr(validation, "evaluate", evaluate)
    train(experiment, DataPaths(shapes), tmp_path / "run", resume=True)
    assert [e["epoch"] for e in entries(tmp_path / "run", "evaluation")] == [0, 1]


def test_start_run_rejects_imagenet_weights_for_a_network_without_backbone(
    tmp_path: Path, shapes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    architecture = Architecture(
        "bare", lambda experiment, classes: torch.nn.Linear(1, 1), lambda experiment: None, None
    )
    monkeypatch.setattr(sais.engine.resume, "find_architecture", lambda name: architecture)
    inputs = RunInputs(Experiment(), tmp_path, DataPaths(shapes).read_train(), None)
    with pytest.raises(ConfigError, match=r"Set model\.pretrained to False"):
        start_run(inputs, random_init=False, weights=None)


def test_resume_extends_a_stepped_schedule_exactly(tiny: Experiment, shapes: Path, tmp_path: Path) -> None:
    stepped = replace(tiny, schedule=replace(tiny.schedule, epochs=2, kind="steps", milestones=(1,)))
    longer = replace(stepped, schedule=replace(stepped.schedule, epochs=3))
    train(stepped, DataPaths(shapes), tmp_path / "run")
    train(longer, DataPaths(shapes), tmp_path / "run", resume=True, changed_settings=("schedule.epochs",))
    train(longer, DataPaths(shapes), tmp_path / "straight")
    extended, straight = (load_checkpoint(tmp_path / name / "last.safetensors").tensors for name in ("run", "straight"))
    assert extended.keys() == straight.keys()
    assert all(torch.equal(extended[name], straight[name]) for name in straight)
    assert recipe(str(tmp_path / "run/experiment.json")) == longer
    assert read_run(tmp_path / "run").describe_state() == "finished, 3 epochs"


def test_resume_refuses_more_epochs_of_a_cosine_schedule(tiny: Experiment, shapes: Path, tmp_path: Path) -> None:
    train(tiny, DataPaths(shapes), tmp_path / "run", max_iterations=2)
    for epochs, reason in ((9, "cosine schedule ends with the 2 epochs .* as its weights"), (1, "only have more")):
        other = replace(tiny, schedule=replace(tiny.schedule, epochs=epochs))
        with pytest.raises(ConfigError, match=rf"schedule\.epochs: .*{reason}"):
            train(other, DataPaths(shapes), tmp_path / "run", resume=True, changed_settings=("schedule.epochs",))


def test_resume_of_a_complete_run_says_so(
    tiny: Experiment, shapes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(replace(tiny, schedule=replace(tiny.schedule, epochs=1)), DataPaths(shapes), tmp_path / "run")
    assert "the run is complete" not in capsys.readouterr().out
    train(tiny, DataPaths(shapes), tmp_path / "run", resume=True)
    assert "the run is complete: there is nothing left to train" in capsys.readouterr().out
