"""Kill a training run at random times and resume it, many times, and verify that nothing is lost.

    python -m peers kills --kills 200

A run on synthetic shapes is trained once without interruption. Then the same run is started in a process that is killed
(SIGKILL) after a random time, resumed in another process that is killed as well, and so on until the run is complete;
then the next run starts. After each kill, every checkpoint is read and its checksum verified. At the end of each run,
weights, average, optimizer, counters and log must be equal to those of the uninterrupted run on the CPU, bit for bit.
Checkpoints are written after every iteration, and every second kill waits until one is being written. Every second run
reads images in a process of its own. Five seconds after a kill no process of the run may be left, and after the end of
a run no temporary file, neither in its folder nor in the folder for temporary files.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from sais.checkpoint import load_checkpoint
from sais.config import (
    AugmentConfig,
    CriterionConfig,
    Experiment,
    InputConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    ScheduleConfig,
)
from sais.data.paths import DataPaths
from sais.data.synthetic import write_shapes
from sais.engine.trainer import train
from sais.errors import ResourceError, SaisError

EXPERIMENT = Experiment(
    name="kills",
    input=InputConfig(size=(64, 64)),
    augment=AugmentConfig(scale_jitter=(0.7, 1.4), mosaic=0.3, photometric=0.5),
    model=ModelConfig(backbone="tf_efficientnet_lite0.in1k", channels=64, tower_depth=1, prototype_channels=16),
    criterion=CriterionConfig(box_loss="giou"),
    optim=OptimConfig(name="adamw", lr=1e-3, batch_size=4),
    schedule=ScheduleConfig(epochs=4, kind="cosine", warmup=5, warmup_kind="linear"),
    run=RunConfig(workers=0, device="cpu", ema=0.99, checkpoint_every=1, loggers=()),
)
END_SECONDS = 5.0
"""Time in which every process of a killed run must have ended."""
WRITING = ".*.safetensors*.writing"
"""Names of the temporary folders in which checkpoints are written."""
TIMING_FIELDS = ("time", "seconds", "images_per_second")
"""Fields of the log that differ between runs."""


@dataclass
class KillReport:
    """Counts of the kills, and the faults that they caused."""

    kills: int = 0
    runs: int = 0
    """Completed runs."""
    before_first_checkpoint: int = 0
    while_writing: int = 0
    """Kills that left a partially written checkpoint next to the complete ones."""
    with_workers: int = 0
    """Kills of a run that reads images in a process of its own."""
    faults: list[str] = field(default_factory=list)
    """Everything that was lost or differs from the uninterrupted run; expected to be empty."""


def kill_and_resume(
    kills: int, folder: Path, seed: int = 0, progress: Callable[[int], None] = lambda kills: None
) -> KillReport:
    """Kill and resume training runs.

    Args:
        kills: the number of kills in total.
        folder: the folder of the data set and the runs; created, or emptied if it exists.
        seed: the seed of the times of the kills.
        progress: called with the number of kills since the last call.
    """
    shutil.rmtree(folder, ignore_errors=True)
    write_shapes(folder / "shapes", train=12, valid=4, size=(96, 128), seed=3)
    (folder / "temporary").mkdir()
    reference, start = folder / "reference", time.monotonic()
    _finish(_start(folder, reference, 0))
    seconds = time.monotonic() - start
    times, report = random.Random(seed), KillReport()
    while report.kills < kills and not report.faults:
        out, workers = folder / f"run-{report.runs}", report.runs % 2
        while report.kills < kills:
            process = _start(folder, out, workers)
            process.join(times.uniform(0.0, 0.6 * seconds))
            if report.kills % 2:
                _wait_for_save(process, out, seconds)
            if process.exitcode is not None:
                break
            os.kill(int(process.pid or 0), signal.SIGKILL)
            process.join()
            report.kills += 1
            report.with_workers += workers
            progress(1)
            report.faults += _processes_left(int(process.pid or 0))
            _check_checkpoints(out, report)
        else:
            _finish(_start(folder, out, workers))  # the last run completes
        report.faults += differences(out, reference)
        report.faults += [f"{path}: left behind" for path in (*out.glob(".*"), *(folder / "temporary").iterdir())]
        report.runs += 1
        shutil.rmtree(out)
    return report


def _start(folder: Path, out: Path, workers: int) -> Any:
    process = multiprocessing.get_context("fork").Process(target=_train, args=(folder, out, workers))
    process.start()
    return process


def _wait_for_save(process: Any, out: Path, seconds: float) -> None:
    """Wait until a checkpoint is being written, the run ends, or it has not done so for the duration of a run."""
    end = time.monotonic() + seconds
    while process.exitcode is None and time.monotonic() < end and not any(out.glob(WRITING)):
        time.sleep(0.0005)


def _processes_left(group: int) -> list[str]:
    """Wait until no process of a group is alive, and return a description of those that remain."""
    end = time.monotonic() + END_SECONDS
    while (left := list(_alive(group))) and time.monotonic() < end:
        time.sleep(0.05)
    return [f"process {number} of a killed run was alive {END_SECONDS:g} seconds later" for number in left]


def _alive(group: int) -> Iterator[int]:
    """Yield the numbers of the living processes of a group, as Linux lists them."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its_group = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:  # it has ended since
            continue
        if int(its_group) == group and state not in "ZX":
            yield int(path.parent.name)


def _finish(process: Any) -> None:
    process.join()
    if process.exitcode:
        raise ResourceError(f"kills: a run exited with status {process.exitcode}. See its output above.")


def _train(folder: Path, out: Path, workers: int) -> None:
    """Start the run in this process and its own group, or resume it if it has a checkpoint."""
    os.setpgid(0, 0)
    tempfile.tempdir = str(folder / "temporary")
    torch.set_num_threads(1)
    with open(os.devnull, "w") as sink:
        os.dup2(sink.fileno(), 1)
    resume = (out / "last.safetensors").exists()
    if not resume:
        shutil.rmtree(out, ignore_errors=True)
    experiment = replace(EXPERIMENT, run=replace(EXPERIMENT.run, workers=workers))
    train(experiment, DataPaths(folder / "shapes"), out, resume=resume)


def _check_checkpoints(out: Path, report: KillReport) -> None:
    """Read every checkpoint of a killed run."""
    files = sorted(out.glob("*.safetensors"))
    report.before_first_checkpoint += not files
    report.while_writing += any(out.glob(WRITING))
    for path in files:
        try:
            load_checkpoint(path)
        except SaisError as error:
            report.faults.append(str(error))


def differences(out: Path, reference: Path) -> list[str]:
    """Return descriptions of the differences between a run and the uninterrupted one."""
    faults = []
    for name in ("last", "best", "model"):
        checkpoint = load_checkpoint(out / f"{name}.safetensors")
        expected = load_checkpoint(reference / f"{name}.safetensors")
        if checkpoint.tensors.keys() != expected.tensors.keys():
            faults.append(f"{out.name}/{name}: different tensor names")
            continue
        different = [key for key, value in expected.tensors.items() if not torch.equal(checkpoint.tensors[key], value)]
        if different:
            faults.append(f"{out.name}/{name}: {len(different)} different tensors, such as {different[0]}")
        if checkpoint.state | {"seconds": 0} != expected.state | {"seconds": 0}:
            faults.append(f"{out.name}/{name}: different state")
    for kind in ("iteration", "evaluation"):
        if _entries(out, kind) != _entries(reference, kind):
            faults.append(f"{out.name}: different log entries of kind {kind}")
    return faults


def _entries(out: Path, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMING_FIELDS} for line in lines if line["kind"] == kind]
