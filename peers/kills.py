"""Kill a training run at random moments and resume it, again and again: nothing may be lost.

    python -m peers kills --kills 200

A run on synthetic shapes is trained once without disturbance. Then the same run is started in a process that is killed
(SIGKILL) after a random time, resumed in another that is killed too, and so on until it is done; then a new run begins.
After each kill every checkpoint is read, checksum and all. At each end weights, average, optimizer, what was counted
and the log must be those of the undisturbed run, bit for bit. It is saved after every iteration, so that many kills hit
a checkpoint that is being written.
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
from sais.errors import SaisError

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
TIMED = ("time", "seconds", "images_per_second")
"""What differs from run to run in its log."""


@dataclass
class KillReport:
    """What came of the kills."""

    kills: int = 0
    runs: int = 0
    """Runs that reached their end."""
    before_the_first_checkpoint: int = 0
    while_writing: int = 0
    """Kills that left half a checkpoint beside the whole ones."""
    faults: list[str] = field(default_factory=list)
    """What was lost or differs; empty is the promise."""


def kill_and_resume(
    kills: int, folder: Path, seed: int = 0, progress: Callable[[int], None] = lambda kills: None
) -> KillReport:
    """Kill `kills` times in all.

    Args:
        folder: of the data set and the runs; made, and emptied of what an earlier call left.
        seed: of the moments.
        progress: called with the number of kills since the last call.
    """
    shutil.rmtree(folder, ignore_errors=True)
    write_shapes(folder / "shapes", train=12, valid=4, size=(96, 128), seed=3)
    straight, seconds = folder / "straight", time.monotonic()
    _end(_start(folder, straight))
    seconds = time.monotonic() - seconds
    moments, toll = random.Random(seed), KillReport()
    while toll.kills < kills and not toll.faults:
        out = folder / f"run-{toll.runs}"
        while toll.kills < kills:
            process = _start(folder, out)
            process.join(moments.uniform(0.0, 0.6 * seconds))
            if process.exitcode is not None:
                break
            os.kill(int(process.pid or 0), signal.SIGKILL)
            process.join()
            toll.kills += 1
            progress(1)
            _look(out, toll)
        else:
            _end(_start(folder, out))  # the last of them is allowed its end
        toll.faults += differences(out, straight)
        toll.runs += 1
        shutil.rmtree(out)
    return toll


def _start(folder: Path, out: Path) -> Any:
    process = multiprocessing.get_context("fork").Process(target=_train, args=(folder / "shapes", out))
    process.start()
    return process


def _end(process: Any) -> None:
    process.join()
    if process.exitcode:
        raise SaisError(f"a run ended with status {process.exitcode}; what it said stands above")


def _train(data: Path, out: Path) -> None:
    """In a process of its own: start, or go on where something was saved."""
    torch.set_num_threads(1)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
    saved = (out / "last.safetensors").exists()
    if not saved:
        shutil.rmtree(out, ignore_errors=True)
    train(EXPERIMENT, DataPaths(data), out, resume=saved)


def _look(out: Path, toll: KillReport) -> None:
    """Read every checkpoint that the killed process left."""
    files = sorted(out.glob("*.safetensors"))
    toll.before_the_first_checkpoint += not files
    toll.while_writing += any(out.glob(".*.safetensors.writing"))
    for path in files:
        try:
            load_checkpoint(path)
        except SaisError as error:
            toll.faults.append(str(error))


def differences(out: Path, straight: Path) -> list[str]:
    """What of a run is not as in the undisturbed one."""
    found = []
    for name in ("last", "best", "model"):
        one, other = load_checkpoint(out / f"{name}.safetensors"), load_checkpoint(straight / f"{name}.safetensors")
        if one.tensors.keys() != other.tensors.keys():
            found.append(f"{out.name}/{name}: other tensors")
            continue
        different = [key for key, value in other.tensors.items() if not torch.equal(one.tensors[key], value)]
        if different:
            found.append(f"{out.name}/{name}: {len(different)} tensors, such as {different[0]}")
        if one.state | {"seconds": 0} != other.state | {"seconds": 0}:
            found.append(f"{out.name}/{name}: another state")
    for kind in ("iteration", "evaluation"):
        if _entries(out, kind) != _entries(straight, kind):
            found.append(f"{out.name}: another log of kind {kind}")
    return found


def _entries(out: Path, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMED} for line in lines if line["kind"] == kind]
