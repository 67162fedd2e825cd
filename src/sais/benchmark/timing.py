"""Time and memory of whole systems, measured one next to the other.

All candidates get the same image, the same number of objects, the same threads and the same allocator setting. They run
in turns, so that other load on the machine slows all of them. Times are medians. Compare only figures of one call.
"""

from __future__ import annotations

import gc
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

from sais.benchmark.candidates import Candidate, PreparedCandidate, TrainingSetup, find_candidates
from sais.benchmark.memory import in_fresh_process, peak_resident
from sais.benchmark.workload import Workload, make_workload
from sais.engine.allocator import keep_big_blocks
from sais.errors import InputError, SaisError

STAGES = ("preprocess", "network", "postprocess", "dense_masks")
OWN = "sais.benchmark.recipe_candidates:own_candidates"


@dataclass(frozen=True)
class Conditions:
    """The conditions that all candidates share."""

    num_objects: int = 100
    image_size: tuple[int, int] = (960, 1280)
    """Height and width of the image in pixels."""
    num_classes: int = 80
    repeats: int = 5
    """Number of timed runs of each candidate, after one warm-up run."""
    device: str = "cpu"
    retain_memory: bool = False
    """Whether the allocator retains freed memory (`sais.engine.allocator`); False: the system's default."""

    def workload(self) -> Workload:
        """Create the image and its objects."""
        return make_workload(self.num_objects, self.image_size, self.num_classes)


@dataclass(frozen=True)
class Timing:
    """The median latencies of one candidate in milliseconds per image."""

    name: str
    preprocess: float
    network: float
    postprocess: float
    """From the raw outputs to the results that the system returns, masks included."""
    dense_masks: float
    """From these results to masks (D, H, W), if they are something else."""
    num_detections: int
    p95: float = 0.0
    """95th percentile of the end-to-end latency."""

    @property
    def end_to_end(self) -> float:
        """Latency from the image to the results that the system returns."""
        return self.preprocess + self.network + self.postprocess


@dataclass(frozen=True)
class Memory:
    """The memory of one candidate in bytes; None where it cannot be measured."""

    name: str
    inference: int | None
    """Peak of a fresh process above the loaded model, from image to masks (host memory; device memory on a GPU)."""
    training: dict[str, int] | None
    """Activations saved for backward for each additional training image, by part of the network."""
    training_per_step: int | None
    """Activations saved for backward once per step."""
    training_peak: int | None = None
    """Peak device memory of a training step of `batch_size` images; GPU only."""
    batch_size: int = 2


def measure_times(sources: Sequence[str], names: Sequence[str], conditions: Conditions) -> list[Timing]:
    """Time candidates in a fresh process, since the allocator's setting applies to a whole process.

    Args:
        sources: functions that return candidates, each named ``module:function``.
        names: the names of the candidates to time; all if empty.
        conditions: the conditions that they share.
    """
    timings = in_fresh_process("sais.benchmark.timing:_times", list(sources), list(names), asdict(conditions))
    return [Timing(**timing) for timing in timings]


def measure_memory(
    sources: Sequence[str], names: Sequence[str], conditions: Conditions, inference: bool = True
) -> list[Memory]:
    """Measure the memory of candidates, each in fresh processes.

    Args:
        sources: functions that return candidates, each named ``module:function``.
        names: the names of the candidates to measure; all if empty.
        conditions: the conditions that they share.
        inference: whether to measure inference as well as training.
    """
    results = []
    for source in sources:
        for candidate in find_candidates(source):
            if names and candidate.name not in names:
                continue
            arguments = (source, candidate.name, asdict(conditions))
            peak = in_fresh_process("sais.benchmark.timing:_inference_memory", *arguments) if inference else None
            training: dict[str, Any] = {}
            if candidate.train is not None:
                training = in_fresh_process("sais.benchmark.timing:_training_memory", *arguments)
            results.append(
                Memory(
                    candidate.name,
                    peak,
                    training.get("per_image"),
                    training.get("per_step"),
                    training.get("peak"),
                    training.get("batch_size", 2),
                )
            )
    return results


def run_once(
    prepared: PreparedCandidate, workload: Workload, clock: Callable[[], float] = time.perf_counter
) -> tuple[dict[str, float], int]:
    """Run all stages from the image to dense masks once.

    Returns:
        The seconds of each stage, and the number of detections.
    """
    seconds = {}
    with _inference_mode():
        start = clock()
        canvases = prepared.preprocess(workload.image)
        seconds["preprocess"] = clock() - start
        start = clock()
        outputs = prepared.network(canvases)
        seconds["network"] = clock() - start
        outputs = prepared.inject(outputs)
        start = clock()
        results = prepared.postprocess(outputs)
        seconds["postprocess"] = clock() - start
        start = clock()
        masks = prepared.dense_masks(results)
        seconds["dense_masks"] = clock() - start
    return seconds, len(masks)


def _inference_mode() -> AbstractContextManager[Any]:
    """Return torch's inference mode; nothing where no candidate has loaded torch."""
    if "torch" not in sys.modules:
        return nullcontext()
    import torch

    return torch.inference_mode()


def time_candidates(candidates: Sequence[Candidate], workload: Workload, conditions: Conditions) -> list[Timing]:
    """Time candidates in turns in this process, whatever its allocator's setting is.

    Raises:
        InputError: there is no candidate.
        SaisError: a candidate returns another number of detections than the workload has objects.
    """
    if not candidates:
        raise InputError("benchmark: no candidate has one of the given names. Check the names.")
    prepared = {candidate.name: candidate.prepare(workload, conditions.device) for candidate in candidates}
    batch_sizes = {candidate.name: candidate.batch_size for candidate in candidates}
    clock = clock_of(conditions.device)
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in prepared}
    counts: dict[str, int] = {}
    for turn in range(conditions.repeats + 1):
        for name, system in prepared.items():
            seconds, counts[name] = run_once(system, workload, clock)
            if turn:  # the first turn is a warm-up
                runs[name].append({stage: 1000 * value / batch_sizes[name] for stage, value in seconds.items()})
            gc.collect()
    if wrong := {name: count for name, count in counts.items() if count != conditions.num_objects}:
        raise SaisError(
            f"benchmark: {conditions.num_objects} objects injected, but detected {wrong}. Use fewer objects."
        )
    return [_timing(name, runs[name], counts[name]) for name in prepared]


def _timing(name: str, runs: Sequence[dict[str, float]], num_detections: int) -> Timing:
    medians = {stage: statistics.median(run[stage] for run in runs) for stage in STAGES}
    end_to_end = sorted(run["preprocess"] + run["network"] + run["postprocess"] for run in runs)
    p95 = end_to_end[math.ceil(0.95 * len(end_to_end)) - 1]
    return Timing(name, **medians, num_detections=num_detections, p95=p95)


def _times(sources: list[str], names: list[str], settings: dict[str, Any]) -> list[dict[str, Any]]:
    conditions = apply_conditions(settings)
    available = [candidate for source in sources for candidate in find_candidates(source)]
    candidates = [candidate for candidate in available if not names or candidate.name in names]
    return [asdict(timing) for timing in time_candidates(candidates, conditions.workload(), conditions)]


def _inference_memory(source: str, name: str, settings: dict[str, Any]) -> int | None:
    conditions = apply_conditions(settings)
    return inference_memory(_candidate(source, name), conditions.workload(), conditions.device)


def inference_memory(candidate: Candidate, workload: Workload, device: str) -> int | None:
    """Measure the bytes that the first run adds to the peak memory of this process, or of the device on a GPU.

    Returns:
        The number of bytes; None where the system does not report it.
    """
    prepared = candidate.prepare(workload, device)
    if device.startswith("cuda"):
        import torch

        allocated = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run_once(prepared, workload)
        return torch.cuda.max_memory_allocated() - allocated
    before = peak_resident(reset=True)
    run_once(prepared, workload)
    after = peak_resident()
    return None if before is None or after is None else after - before


def _training_memory(source: str, name: str, settings: dict[str, Any], batch_size: int = 2) -> dict[str, Any]:
    import torch

    from sais.engine.activation_memory import saved_bytes_per_image

    conditions = apply_conditions(settings)
    train = _candidate(source, name).train
    assert train is not None
    training: TrainingSetup = train(conditions.workload(), conditions.device)
    saved = saved_bytes_per_image(training.model, training.losses, training.parts)
    result: dict[str, Any] = {"per_image": saved.per_image, "per_step": saved.per_step, "batch_size": batch_size}
    if conditions.device.startswith("cuda"):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        optimizer = torch.optim.SGD([p for p in training.model.parameters() if p.requires_grad], lr=1e-6, momentum=0.9)
        for _ in range(2):  # momentum buffers exist from the second step on
            torch.stack(list(training.losses(batch_size).values())).sum().backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        result["peak"] = torch.cuda.max_memory_allocated()
    return result


def _candidate(source: str, name: str) -> Candidate:
    return next(candidate for candidate in find_candidates(source) if candidate.name == name)


def apply_conditions(settings: dict[str, Any]) -> Conditions:
    """Rebuild `Conditions` from its fields, and set the device and the allocator of this process accordingly."""
    conditions = Conditions(**settings)
    if conditions.device.startswith("cuda"):
        import torch

        torch.cuda.set_device(torch.device(conditions.device).index or 0)  # clock and memory refer to this device
    if conditions.retain_memory:
        keep_big_blocks()
    return conditions


def clock_of(device: str) -> Callable[[], float]:
    """Return a clock in seconds that synchronizes the device before each reading."""
    kind = device.partition(":")[0]
    if kind not in ("cuda", "mps"):
        return time.perf_counter
    import torch

    synchronize = {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}[kind]

    def read() -> float:
        synchronize()
        return time.perf_counter()

    return read
