"""Training runs of which the processor time is measured: the settings of `sais train`, resumed where they stopped.

    OUT/runs/NAME/               a run of `sais train`
    OUT/progress/NAME.json       processor time so far, until the run is finished
    OUT/results/NAME.json        the result

The processor time of training is that of the process and of the processes that read images, from the start of `train`
to its end. Evaluations are measured on their own: after an epoch, the weights that were saved (the moving average, if
the recipe has one) are evaluated as those of a finished run are, and training continues afterwards. A run is kept by a
digest of everything that determines its numbers, the machine included. After an interruption it continues from its last
checkpoint, so that no step counts twice; only the start of the process is counted again.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from sais.checkpoint import load_checkpoint
from sais.commands.recipe_options import open_recipe
from sais.commands.train_command import choose_settings, read_command
from sais.config import Experiment
from sais.data.annotations import DatasetSplit
from sais.data.paths import DataPaths
from sais.device import choose_device
from sais.distributed import SINGLE_PROCESS
from sais.engine.callbacks import TrainingEvent
from sais.engine.environment import describe_environment
from sais.engine.run_folder import LAST, MODEL
from sais.engine.signals import ignore_worker_deaths
from sais.engine.trainer import train
from sais.errors import InputError, ResourceError
from sais.io.atomic import write_text
from sais.paper.runs import RunPlan, RunResult, describe_data, evaluate_run
from sais.recipes.adjust import replace_settings


@dataclass(frozen=True)
class MeasuredData:
    """A data set whose runs are measured."""

    name: str
    train: DatasetSplit
    valid: DatasetSplit

    def describe(self, device: str) -> dict[str, Any]:
        """Return the description of data and machine that a run's digest contains."""
        machine = describe_environment(choose_device(device))
        return describe_data(self.train, self.valid, self.name) | {"machine": machine}


@dataclass(frozen=True)
class MeasuredRun:
    """The result of a finished run."""

    result: RunResult
    core_seconds: float
    """Processor time of training, in seconds of one core."""
    evaluation_core_seconds: float
    """Processor time of the evaluations, in seconds of one core."""
    scores: list[dict[str, Any]]
    """Of each evaluated epoch: "epoch", from 1; "core_seconds" of training until then; "mask_ap", a fraction of 1."""

    @property
    def mask_ap(self) -> float:
        """Mask AP of the last epoch's weights, as a fraction of 1; 0 if it is not defined."""
        return self.metric("mask", "AP")

    def metric(self, kind: str, name: str) -> float:
        """Return a metric of the last epoch's weights, as a fraction of 1; 0 if it is not defined."""
        return float((self.result.metrics[kind] or {}).get(name) or 0.0)


@dataclass
class _Progress:
    """What a run has used until its last checkpoint."""

    iteration: int = 0
    epoch: int = 0
    """Number of completed epochs."""
    core_seconds: float = 0.0
    evaluation_core_seconds: float = 0.0
    scores: list[dict[str, Any]] = field(default_factory=list)


def read_measured_data(data: DataPaths) -> MeasuredData:
    """Read the splits of a data set.

    Raises:
        InputError: no validation split with masks.
    """
    train_split = data.read_train()
    valid_split = data.read_valid(train_split.class_names)
    records = () if valid_split is None else valid_split.images
    if valid_split is None or not any(a.segmentation is not None for record in records for a in record.annotations):
        raise InputError(f"{data.name}: no validation split with masks. Choose a data set that has one.")
    return MeasuredData(data.name, train_split, valid_split)


def train_settings(recipe: str, data: DataPaths, split: DatasetSplit, options: Sequence[str] = ()) -> Experiment:
    """Return the settings with which `sais train RECIPE --data DATA OPTIONS` trains.

    Args:
        recipe: name of a recipe, settings file, or "module:function".
        data: data set in a folder.
        split: training split, from which the recipes of the sais-lite family choose settings.
        options: further words of the command line.

    Raises:
        SaisError: the recipe is unknown, or a setting is out of range.
    """
    words = [recipe, "--data", str(data.data), *options]
    start, remaining = open_recipe(words)
    command, experiment, _ = read_command(start, remaining, words)
    experiment, _ = choose_settings(command, experiment, split, SINGLE_PROCESS)
    # A checkpoint within an epoch, other than at Ctrl-C, would hold steps whose processor time is not yet recorded.
    return replace_settings(experiment, "run", evaluate_every=0, checkpoint_every=0, checkpoint_minutes=0)


def measure_run(plan: RunPlan, data: MeasuredData, out: Path, each_epoch: bool) -> MeasuredRun:
    """Train, or resume, and measure a run that has no result yet.

    Args:
        plan: the run, with settings of `train_settings`.
        data: data set.
        out: folder of runs and results.
        each_epoch: whether every epoch is evaluated, instead of the last one alone.

    Raises:
        SaisError: an error of `train`. The same call resumes.
    """
    description = data.describe(plan.experiment.run.device)
    name = plan.name(description, out)
    path = out / "results" / f"{name}.json"
    stored = _read_json(path)
    if stored is not None:
        return MeasuredRun(**stored | {"result": replace(RunResult(**stored["result"]), row=plan.row)})
    with _locked(out, name):
        meter = _Meter(plan, data, description, out / "runs" / name, out / "progress" / f"{name}.json", each_epoch)
        run = meter.measure()
        write_text(path, json.dumps(asdict(run), indent=1) + "\n")
        meter.finish()
    return run


@contextlib.contextmanager
def _locked(out: Path, name: str) -> Iterator[None]:
    """Lock a run for this process."""
    (out / "locks").mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(out / "locks" / name).acquire(timeout=0)
    except Timeout as error:
        raise ResourceError(f"{out}: another process measures {name}. Wait for its end, or choose another.") from error
    with lock:
        yield


def processor_seconds() -> float:
    """Return the processor time of this process and its child processes, in seconds of one core.

    Without /proc (macOS, Windows), the time of a child process is counted when the process ends.
    """
    running = sum(_seconds_of(child.pid) for child in multiprocessing.active_children())
    return sum(os.times()[:4]) + running


def _seconds_of(pid: int | None) -> float:
    """Return the processor time of a process and of its ended child processes; 0 where it is not known."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0.0
    times = text.rpartition(")")[2].split()[11:15]  # utime, stime, cutime, cstime of proc_pid_stat(5)
    return sum(map(int, times)) / os.sysconf("SC_CLK_TCK")


class _Meter:
    """Train one run, measure its processor time, and evaluate its epochs."""

    def __init__(
        self,
        plan: RunPlan,
        data: MeasuredData,
        description: dict[str, Any],
        folder: Path,
        progress_file: Path,
        each_epoch: bool,
    ) -> None:
        self.plan, self.data, self.description = plan, data, description
        self.folder, self.progress_file, self.each_epoch = folder, progress_file, each_epoch
        self.progress = self._read_progress()
        self.start = 0.0

    def measure(self) -> MeasuredRun:
        """Train or resume the run to its end and evaluate its last weights."""
        if not (self.folder / MODEL).exists():  # otherwise the process was killed before the last evaluation
            if self.progress.epoch > len(self.progress.scores) and self.each_epoch:
                self._evaluate()  # the process was killed in the evaluation of this epoch
            self._train()
        result = self._evaluate()
        progress = self.progress
        return MeasuredRun(result, progress.core_seconds, progress.evaluation_core_seconds, progress.scores)

    def on_epoch(self, event: TrainingEvent) -> None:
        """Record the processor time of an epoch, which is saved, and evaluate its weights; a callback of `train`."""
        self._record(event.iteration)
        self.progress.epoch = event.epoch
        self._write()
        # A signal would wait for an evaluation here, and after the last epoch be lost.
        if self.each_epoch and event.epoch < event.epochs:
            with ignore_worker_deaths():
                self._evaluate()
        self.start = processor_seconds()

    def finish(self) -> None:
        """Remove what only an unfinished run needs, once its result is stored."""
        (self.folder / LAST).unlink(missing_ok=True)
        self.progress_file.unlink(missing_ok=True)

    def _train(self) -> None:
        self.start = processor_seconds()
        resume = (self.folder / LAST).exists()
        try:
            train(self.plan.experiment, out=self.folder, dataset=self.data.train, resume=resume, callbacks=[self])
        except (KeyboardInterrupt, SystemExit):
            iteration = self._saved_iteration()
            if iteration > self.progress.iteration:  # the run was saved when it stopped
                self._record(iteration)
                self._write()
            raise
        self._record(self.progress.iteration)
        self._write()

    def _record(self, iteration: int) -> None:
        """Add the processor time since the last record, until the checkpoint of an iteration."""
        now = processor_seconds()
        self.progress.iteration = iteration
        self.progress.core_seconds += now - self.start
        self.start = now

    def _evaluate(self) -> RunResult:
        """Evaluate the saved weights and record their mask AP."""
        start, progress = processor_seconds(), self.progress
        result = evaluate_run(self.plan, self.data.valid, self.description, self.folder, skip_broken=False)
        if result.iterations != progress.iteration:
            raise ResourceError(f"{self.folder}: epoch {progress.epoch} was not saved. Free disk space and repeat it.")
        progress.evaluation_core_seconds += processor_seconds() - start
        mask_ap = (result.metrics["mask"] or {}).get("AP")
        progress.scores.append({"epoch": progress.epoch, "core_seconds": progress.core_seconds, "mask_ap": mask_ap})
        self._write()
        return result

    def _saved_iteration(self) -> int:
        """Return the iteration of the last checkpoint; 0 without one."""
        path = next((self.folder / name for name in (LAST, MODEL) if (self.folder / name).exists()), None)
        return 0 if path is None else int(load_checkpoint(path).state["iteration"])

    def _read_progress(self) -> _Progress:
        """Read the record of a run that stopped. A run without a record of its checkpoint is removed."""
        stored, iteration = _read_json(self.progress_file), self._saved_iteration()
        progress = _Progress(**stored) if stored and iteration else _Progress()
        if progress.iteration != iteration:
            shutil.rmtree(self.folder)
            return _Progress()
        return progress

    def _write(self) -> None:
        write_text(self.progress_file, json.dumps(asdict(self.progress)) + "\n")


def _read_json(path: Path) -> dict[str, Any] | None:
    """Read a file of this module; None where it is missing or incomplete."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return content
