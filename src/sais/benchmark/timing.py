"""Whole systems side by side: network, post-processing with full-size masks, memory in use and in training.

Everybody gets the same image, the same threads, the same allocator setting, the same number of objects to find, and
turns one after the other, so that a busy machine slows all of them. Times are medians. Nothing is compared that was
not measured in the same call.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from sais.benchmark.candidates import Candidate, PreparedCandidate, TrainingSetup, find_candidates
from sais.benchmark.memory import in_fresh_process, peak_resident
from sais.benchmark.workload import Workload, make_workload
from sais.engine.activation_memory import saved_bytes_per_image
from sais.engine.allocator import keep_big_blocks
from sais.errors import SaisError

STAGES = ("fit", "network", "finish", "dense")
OWN = "sais.benchmark.candidates:own_candidates"


@dataclass(frozen=True)
class Conditions:
    """What all contestants share."""

    objects: int = 100
    size: tuple[int, int] = (960, 1280)
    """(H, W) of the image."""
    classes: int = 80
    repeats: int = 5
    device: str = "cpu"
    keep_blocks: bool = False
    """Let the allocator keep big blocks (`engine.allocator`), for everybody; otherwise the system's default."""


@dataclass(frozen=True)
class Timing:
    """One contestant's medians in milliseconds an image."""

    name: str
    fit: float
    network: float
    finish: float
    """Post-processing: from raw outputs to what a user of the system holds, its masks among it."""
    dense: float
    """From there to a (D, H, W) stack, where that is something else."""
    found: int
    """Objects that came out; the scene's number, unless something is wrong."""
    slow: float = 0.0
    """End to end, the slowest twentieth begins here (p95)."""

    @property
    def end_to_end(self) -> float:
        """From the image to what the system's user holds."""
        return self.fit + self.network + self.finish


@dataclass(frozen=True)
class Memory:
    """One contestant's memory; bytes, None where it cannot be measured here."""

    name: str
    inference: int | None
    """Peak of a fresh process over the loaded model, image to masks (host memory; on a GPU the device's peak)."""
    training: dict[str, int] | None
    """Kept for backward for one more training image, part by part."""
    training_per_step: int | None
    """Kept for backward once a step."""
    training_peak: int | None = None
    """Peak device memory of one training step of `batch` images; on a GPU only."""
    batch: int = 2


def measure_times(sources: Sequence[str], names: Sequence[str], conditions: Conditions) -> list[Timing]:
    """Time the contestants of `sources` that are named (all where none is), in a process of its own: the allocator's
    setting holds for a whole process."""
    found = in_fresh_process("sais.benchmark.timing:_times", list(sources), list(names), asdict(conditions))
    return [Timing(**one) for one in found]


def measure_memory(
    sources: Sequence[str], names: Sequence[str], conditions: Conditions, inference: bool = True
) -> list[Memory]:
    """Memory of the contestants, each in processes of its own; without `inference`, in training alone."""
    results = []
    for source in sources:
        for one in find_candidates(source):
            if names and one.name not in names:
                continue
            arguments = (source, one.name, asdict(conditions))
            added = in_fresh_process("sais.benchmark.timing:_inference_memory", *arguments) if inference else None
            training = in_fresh_process("sais.benchmark.timing:_training_memory", *arguments) if one.train else {}
            results.append(
                Memory(
                    one.name,
                    added,
                    training.get("per_image"),
                    training.get("per_step"),
                    training.get("peak"),
                    training.get("batch", 2),
                )
            )
    return results


def run_once(
    ready: PreparedCandidate, scene: Workload, clock: Callable[[], float] = time.perf_counter
) -> tuple[dict[str, float], int]:
    """One pass from the image to full-size masks: seconds of each station, and how many objects came out."""
    seconds = {}
    with torch.inference_mode():
        then = clock()
        canvas = ready.fit(scene.image)
        seconds["fit"] = clock() - then
        then = clock()
        raw = ready.network(canvas)
        seconds["network"] = clock() - then
        raw = ready.plant(raw)
        then = clock()
        found = ready.finish(raw)
        seconds["finish"] = clock() - then
        then = clock()
        masks = ready.dense(found)
        seconds["dense"] = clock() - then
    return seconds, len(masks)


def _times(sources: list[str], names: list[str], settings: dict[str, Any]) -> list[dict[str, Any]]:
    conditions = conditions_of(settings)
    scene = make_workload(conditions.objects, conditions.size, conditions.classes)
    contestants = [one for source in sources for one in find_candidates(source) if not names or one.name in names]
    return [asdict(one) for one in timed(contestants, scene, conditions)]


def timed(contestants: Sequence[Candidate], scene: Workload, conditions: Conditions) -> list[Timing]:
    """Time contestants in this process, whatever its allocator's setting; they take turns.

    Raises:
        SaisError: nobody to measure, or somebody finds another number of objects than the scene has.
    """
    if not contestants:
        raise SaisError("nobody to measure: no contestant has one of the names given")
    ready = {one.name: one.prepare(scene, conditions.device) for one in contestants}
    images = {one.name: one.images for one in contestants}
    clock = clock_of(conditions.device)
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in ready}
    found: dict[str, int] = {}
    for turn in range(conditions.repeats + 1):
        for name, system in ready.items():
            seconds, found[name] = run_once(system, scene, clock)
            if turn:  # the first makes what libraries set up once
                turns[name].append({station: 1000 * value / images[name] for station, value in seconds.items()})
            gc.collect()
    if wrong := {name: count for name, count in found.items() if count != conditions.objects}:
        raise SaisError(
            f"{conditions.objects} objects were planted, but found were {wrong}: the work is not comparable"
        )
    results = []
    for name, each in turns.items():
        medians = {station: statistics.median(turn[station] for turn in each) for station in STAGES}
        whole = sorted(turn["fit"] + turn["network"] + turn["finish"] for turn in each)
        slow = whole[math.ceil(0.95 * len(whole)) - 1]
        results.append(Timing(name, **medians, found=found[name], slow=slow))
    return results


def _inference_memory(source: str, name: str, settings: dict[str, Any]) -> int | None:
    conditions = conditions_of(settings)
    scene = make_workload(conditions.objects, conditions.size, conditions.classes)
    return inference_memory(_one(source, name), scene, conditions.device)


def inference_memory(contestant: Candidate, scene: Workload, device: str) -> int | None:
    """Bytes that the first pass from the image to its masks adds to this process's peak, on a GPU to the device's;
    None where the system does not tell."""
    ready = contestant.prepare(scene, device)
    if device.startswith("cuda"):
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run_once(ready, scene)
        return torch.cuda.max_memory_allocated() - before
    before_peak = peak_resident(reset=True)
    run_once(ready, scene)
    after = peak_resident()
    return None if before_peak is None or after is None else after - before_peak


def _training_memory(source: str, name: str, settings: dict[str, Any], batch: int = 2) -> dict[str, Any]:
    conditions = conditions_of(settings)
    scene = make_workload(conditions.objects, conditions.size, conditions.classes)
    train = _one(source, name).train
    assert train is not None
    training: TrainingSetup = train(scene, conditions.device)
    saved = saved_bytes_per_image(training.model, training.losses, training.parts)
    result: dict[str, Any] = {"per_image": saved.per_image, "per_step": saved.per_step, "batch": batch}
    if conditions.device.startswith("cuda"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        optimizer = torch.optim.SGD([p for p in training.model.parameters() if p.requires_grad], lr=1e-6, momentum=0.9)
        for _ in range(2):  # the second has the momentum too
            torch.stack(list(training.losses(batch).values())).sum().backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        result["peak"] = torch.cuda.max_memory_allocated()
    return result


def _one(source: str, name: str) -> Candidate:
    return next(one for one in find_candidates(source) if one.name == name)


def conditions_of(settings: dict[str, Any]) -> Conditions:
    """From `asdict`, for this process: its device is set, and its allocator."""
    conditions = Conditions(**settings)
    if conditions.device.startswith("cuda"):
        torch.cuda.set_device(torch.device(conditions.device).index or 0)  # whose clock and memory are then looked at
    if conditions.keep_blocks:
        keep_big_blocks()
    return conditions


def clock_of(device: str) -> Callable[[], float]:
    """A clock in seconds that waits for the device first."""
    waits = {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}
    wait = waits.get(torch.device(device).type)
    if wait is None:
        return time.perf_counter

    def synchronized() -> float:
        wait()
        return time.perf_counter()

    return synchronized
