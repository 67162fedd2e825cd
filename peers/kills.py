"""Kill a training run at random times and resume it, many times, and verify that nothing is lost.

    python -m peers kills --kills 200

A run on synthetic shapes is trained once without interruption. Then the same run is started in a process that is killed
(SIGKILL) after a random time, resumed in another process that is killed as well, and so on until the run is complete;
then the next run starts. After each kill, every checkpoint is read and its checksum verified. At the end of each run,
weights, average, optimizer, counters and log must be equal to those of the uninterrupted run on the CPU, bit for bit.
Checkpoints are written after every iteration, so that many kills interrupt the writing of a checkpoint.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
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
    reference, start = folder / "reference", time.monotonic()
    _finish(_start(folder, reference))
    seconds = time.monotonic() - start
    times, report = random.Random(seed), KillReport()
    while report.kills < kills and not report.faults:
        out = folder / f"run-{report.runs}"
        while report.kills < kills:
            process = _start(folder, out)
            process.join(times.uniform(0.0, 0.6 * seconds))
            if process.exitcode is not None:
                break
            os.kill(int(process.pid or 0), signal.SIGKILL)
            process.join()
            report.kills += 1
            progress(1)
            _check_checkpoints(out, report)
        else:
            _finish(_start(folder, out))  # the last run completes
        report.faults += differences(out, reference)
        report.runs += 1
        shutil.rmtree(out)
    return report


def _start(folder: Path, out: Path) -> Any:
    process = multiprocessing.get_context("fork").Process(target=_train, args=(folder / "shapes", out))
    process.start()
    return process


def _finish(process: Any) -> None:
    process.join()
    if process.exitcode:
        raise ResourceError(f"kills: a run exited with status {process.exitcode}. See its output above.")


def _train(data: Path, out: Path) -> None:
    """Start the run in this process, or resume it if it has a checkpoint."""
    torch.set_num_threads(1)
    with open(os.devnull, "w") as sink:
        os.dup2(sink.fileno(), 1)
    resume = (out / "last.safetensors").exists()
    if not resume:
        shutil.rmtree(out, ignore_errors=True)
    train(EXPERIMENT, DataPaths(data), out, resume=resume)


def _check_checkpoints(out: Path, report: KillReport) -> None:
    """Read every checkpoint of a killed run."""
    files = sorted(out.glob("*.safetensors"))
    report.before_first_checkpoint += not files
    report.while_writing += any(out.glob(".*.safetensors.writing"))
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
