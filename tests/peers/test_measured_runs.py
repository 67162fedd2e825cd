"""Measured runs: processor time without evaluations, exact across interruptions; settings as `sais train` has them."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("faster_coco_eval")

from peers import measured_runs
from peers.measured_runs import MeasuredData, measure_run, processor_seconds, read_measured_data, train_settings
from sais.config import Experiment
from sais.data.paths import DataPaths
from sais.engine.callbacks import TrainingEvent
from sais.engine.trainer import train
from sais.errors import ConfigError, InputError, ResourceError
from sais.paper.runs import RunPlan, evaluate_run
from sais.recipes.adjust import replace_settings

STEPS = 6
"""Steps of the run `plan`: two epochs of three."""
EVALUATION = 100.0
"""Processor time of an evaluation on the fake clock; a step takes 1."""


class Clock:
    """A fake clock of processor time: a step takes 1 and an evaluation `EVALUATION`.

    `fail_in_evaluation` is the number of the evaluation, from 1, that raises KeyboardInterrupt, and `interrupt_at` the
    iteration after which Ctrl-C is pressed; 0 for none.
    """

    def __init__(self) -> None:
        self.seconds, self.evaluations, self.trainings, self.steps = 0.0, 0, 0, 0
        self.fail_in_evaluation, self.interrupt_at = 0, 0

    def train(self, experiment: Experiment, callbacks: list[Any], **options: Any) -> None:
        """Train as the trainer does, with a clock that advances at each step."""
        self.trainings += 1
        train(experiment, callbacks=[self.step, *callbacks], verbose=False, **options)

    def step(self, event: TrainingEvent) -> None:
        """Advance the clock by a step."""
        if event.kind == "step":
            self.seconds, self.steps = self.seconds + 1, self.steps + 1
            if event.iteration == self.interrupt_at:
                signal.raise_signal(signal.SIGINT)

    def evaluate(self, *arguments: Any, **options: Any) -> Any:
        """Evaluate as a finished run is evaluated."""
        self.evaluations += 1
        if self.evaluations == self.fail_in_evaluation:
            raise KeyboardInterrupt
        self.seconds += EVALUATION
        return evaluate_run(*arguments, **options)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Return the fake clock, by which runs are measured."""
    fake = Clock()
    monkeypatch.setattr(measured_runs, "processor_seconds", lambda: fake.seconds)
    monkeypatch.setattr(measured_runs, "train", fake.train)
    monkeypatch.setattr(measured_runs, "evaluate_run", fake.evaluate)
    return fake


@pytest.fixture(scope="module")
def data(shapes: Path) -> MeasuredData:
    """Return the data set of shapes."""
    return read_measured_data(DataPaths(shapes))


@pytest.fixture
def plan(tiny: Experiment) -> RunPlan:
    """Return a run of two epochs of three steps."""
    experiment = replace_settings(tiny, "run", evaluate_every=0, checkpoint_every=0, checkpoint_minutes=0)
    return RunPlan("tiny", replace_settings(experiment, "model", channels=32, prototype_channels=8))


def test_a_run_is_measured_without_its_evaluations(
    clock: Clock, plan: RunPlan, data: MeasuredData, tmp_path: Path
) -> None:
    run = measure_run(plan, data, tmp_path, each_epoch=True)
    assert (run.core_seconds, run.evaluation_core_seconds) == (STEPS, 2 * EVALUATION)
    assert [(score["epoch"], score["core_seconds"]) for score in run.scores] == [(1, 3.0), (2, 6.0)]
    assert run.scores[-1]["mask_ap"] == run.mask_ap == run.result.metrics["mask"]["AP"]
    assert run.result.iterations == STEPS
    assert measure_run(plan, data, tmp_path, each_epoch=True) == run  # read from its file
    assert clock.trainings == 1
    assert not list(tmp_path.glob("progress/*.json"))
    assert not list(tmp_path.glob("runs/*/last.safetensors"))
    other = measure_run(plan, data, tmp_path / "other", each_epoch=False)
    assert (other.core_seconds, other.evaluation_core_seconds) == (STEPS, EVALUATION)
    assert other.result.metrics == run.result.metrics  # evaluating epochs changes no weight


@pytest.mark.parametrize(
    ("failing_evaluation", "interrupted_iteration"), [(1, 0), (2, 0), (0, 4)], ids=["epoch 1", "the end", "a step"]
)
def test_an_interrupted_run_counts_every_step_once(
    clock: Clock,
    plan: RunPlan,
    data: MeasuredData,
    tmp_path: Path,
    failing_evaluation: int,
    interrupted_iteration: int,
) -> None:
    clock.fail_in_evaluation, clock.interrupt_at = failing_evaluation, interrupted_iteration
    with pytest.raises(KeyboardInterrupt):
        measure_run(plan, data, tmp_path, each_epoch=True)
    clock.interrupt_at = 0
    run = measure_run(plan, data, tmp_path, each_epoch=True)
    assert run.core_seconds == clock.steps == STEPS  # no step is repeated
    assert [(score["epoch"], score["core_seconds"]) for score in run.scores] == [(1, 3.0), (2, 6.0)]
    assert clock.trainings == (1 if failing_evaluation == 2 else 2)


def test_a_run_without_a_record_of_its_checkpoint_starts_again(
    clock: Clock, plan: RunPlan, data: MeasuredData, tmp_path: Path
) -> None:
    clock.interrupt_at = 4
    with pytest.raises(KeyboardInterrupt):
        measure_run(plan, data, tmp_path, each_epoch=False)
    (record,) = tmp_path.glob("progress/*.json")
    assert json.loads(record.read_text())["iteration"] == 4
    record.write_text(record.read_text().replace('"iteration": 4', '"iteration": 3'))  # killed before it was written
    clock.interrupt_at, clock.seconds = 0, 0.0
    run = measure_run(plan, data, tmp_path, each_epoch=False)
    assert clock.seconds - EVALUATION == run.core_seconds == STEPS


def test_machines_and_lists_of_images_have_runs_of_their_own(
    plan: RunPlan, data: MeasuredData, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = data.describe("cpu")
    monkeypatch.setattr(measured_runs, "describe_environment", lambda device: {"name": "another processor"})
    other = data.describe("cpu")
    assert plan.digest(own) != plan.digest(other)
    assert {key: value for key, value in own.items() if key != "machine"} == {
        key: value for key, value in other.items() if key != "machine"
    }


def test_another_process_measures_the_run(plan: RunPlan, data: MeasuredData, tmp_path: Path) -> None:
    from filelock import FileLock

    (tmp_path / "locks").mkdir()
    name = plan.name(data.describe("cpu"), tmp_path)
    with FileLock(tmp_path / "locks" / name), pytest.raises(ResourceError, match="another process measures tiny"):
        measure_run(plan, data, tmp_path, each_epoch=False)


def _compute(connection: Any, seconds: float) -> None:
    """Use processor time, say so, and wait for the end."""
    start = time.process_time()
    while time.process_time() - start < seconds:
        sum(range(1000))
    connection.send("done")
    connection.recv()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processor time of running processes needs /proc")
def test_processor_time_of_a_child_process_counts_once() -> None:
    here, there = multiprocessing.Pipe()
    start = processor_seconds()
    process = multiprocessing.get_context("fork").Process(target=_compute, args=(there, 0.5))
    process.start()
    here.recv()
    running = processor_seconds() - start
    here.send("end")
    process.join()
    ended = processor_seconds() - start
    assert 0.45 < running <= ended + 0.03 < running + 0.4  # clock ticks of 0.01 s; the end of the process is counted


def test_data_without_masks_is_refused(shapes: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(shapes, tmp_path / "shapes")
    path = folder / "annotations" / "valid.json"
    document = json.loads(path.read_text())
    for annotation in document["annotations"]:
        del annotation["segmentation"]
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match="no validation split with masks"):
        read_measured_data(DataPaths(folder))


@pytest.fixture
def settings_file(tmp_path: Path) -> Callable[[dict[str, Any]], str]:
    """Return a function that writes a settings file and returns its path."""

    def write(settings: dict[str, Any]) -> str:
        path = tmp_path / "own.json"
        path.write_text(json.dumps(settings))
        return str(path)

    return write


def test_settings_are_those_of_the_training_command(
    shapes: Path, data: MeasuredData, settings_file: Callable[[dict[str, Any]], str]
) -> None:
    paths = DataPaths(shapes)
    chosen = train_settings("sais-lite", paths, data.train)
    assert chosen.optim.batch_size == 2  # 12 images: by `sais.recipes.from_data`
    assert chosen.schedule.epochs == 50
    assert (chosen.run.evaluate_every, chosen.run.checkpoint_every, chosen.run.checkpoint_minutes) == (0, 0, 0)
    frozen = train_settings("paper-lite0", paths, data.train, ["--device", "cpu", "--workers", "0"])
    assert (frozen.optim.batch_size, frozen.schedule.epochs) == (8, 15)
    assert (frozen.run.device, frozen.run.workers) == ("cpu", 0)
    growing = settings_file({"name": "sais-lite", "augment.initial_size": 0.5, "augment.size_growth_epochs": 12})
    short = train_settings(growing, paths, data.train, ["--epochs", "5"])
    assert (short.schedule.epochs, short.augment.size_growth_epochs) == (5, 4)  # 12 of 15
    with pytest.raises(ConfigError, match="no-such"):
        train_settings("no-such", paths, data.train)
