"""Memory and time of training: activations saved for backward by part of the network, peak memory, time of a step.

A step is network, assignment, losses, backward and optimizer, as in `sais.engine.train_step`. Weights are random, with
the frozen parts of a pretrained network frozen. Candidates run in turns in one process, so that other load on the
machine slows all of them; the memory of each is measured in a fresh process.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from sais.benchmark.candidates import Candidate, TrainingSetup, find_candidates
from sais.benchmark.memory import in_fresh_process, peak_resident
from sais.benchmark.models import DEFAULT_CLASSES, experiment_of, select_by_name
from sais.benchmark.recipe_candidates import recipe_candidate
from sais.benchmark.timing import Conditions, apply_conditions, clock_of
from sais.benchmark.workload import make_workload
from sais.engine.activation_memory import saved_bytes_per_image
from sais.engine.allocator import can_keep_big_blocks
from sais.errors import InputError
from sais.ops.letterbox import letterbox
from sais.recipes.adjust import replace_settings


@dataclass(frozen=True)
class TrainingRequest:
    """Which training steps are measured."""

    models: tuple[str, ...]
    """Recipes, or checkpoints and runs, whose settings are used."""
    activation_checkpointing: tuple[str, ...] = ("none", "norms", "all")
    """Modes of `run.activation_checkpointing`."""
    precisions: tuple[str, ...] = ("fp32",)
    num_objects: int = 10
    """Number of objects of an image; peers have 10."""
    batch_size: int = 2
    """Number of images in a timed step; saved bytes are reported per image."""
    input_size: tuple[int, int] | None = None
    """Height and width that replace those of the models."""
    peers: tuple[str, ...] = ()
    """Functions that return further candidates, each named ``module:function``."""
    only: tuple[str, ...] = ()
    """Names of the candidates to measure; all if empty."""
    trust: bool = False
    """Whether code outside of sais that a model file names is imported and run; see `sais.trust`."""


@dataclass(frozen=True)
class TrainingRow:
    """The measurements of one candidate; None where something was not measured."""

    name: str
    per_image: dict[str, int]
    """Part of the network -> bytes saved for backward for each additional image."""
    per_step: int
    """Bytes saved for backward that do not grow with the batch size."""
    peak: int | None
    """Bytes that the first step adds to the peak above the loaded model: device memory on a GPU, else resident."""
    seconds: float | None = None
    """Median duration of a step with the system's default allocator."""
    retaining_seconds: float | None = None
    """The same with an allocator that retains freed memory, as in `sais train`."""
    cpu_seconds: float | None = None
    """The same in CPU time of all threads, which other load on the machine changes less."""

    @property
    def total_per_image(self) -> int:
        """Bytes saved for backward for each additional image, all parts."""
        return sum(self.per_image.values())


def bench_training(
    request: TrainingRequest,
    repeats: int = 3,
    device: str = "cpu",
    time_steps: bool = True,
    log: Callable[[str], None] = print,
) -> list[TrainingRow]:
    """Measure training steps in fresh processes.

    Args:
        request: the models and their variants.
        repeats: the number of timed steps; the median counts.
        device: the device: cpu, cuda, ...
        time_steps: whether to time the steps (bf16 only where the CPU computes in it natively).
        log: called with each progress message.

    Raises:
        SaisError: a model does not exist, or a measuring process failed.
    """
    names = [candidate.name for candidate in training_candidates(request)]
    if not names:
        raise InputError("benchmark: no candidate has one of the given names. Check the names.")
    conditions = Conditions(request.num_objects, num_classes=DEFAULT_CLASSES, repeats=repeats, device=device)
    rows = []
    for name in names:
        log(f"memory of {name}")
        memory = in_fresh_process("sais.benchmark.training:_memory", asdict(request), asdict(conditions), name)
        rows.append(TrainingRow(name, **memory))
    timed = [name for name in names if is_native_precision(device, name)] if time_steps else []
    if not timed:
        return rows
    log(f"timing {', '.join(timed)}: {repeats + 1} steps each, with both allocators")
    default = _measured_times(request, conditions, timed)
    retaining: dict[str, tuple[float, float]] = {}
    if can_keep_big_blocks():
        retaining = _measured_times(request, replace(conditions, retain_memory=True), timed)
    for i, row in enumerate(rows):
        if row.name in default:
            wall, cpu = retaining.get(row.name, (None, None))
            rows[i] = replace(row, seconds=default[row.name][0], retaining_seconds=wall, cpu_seconds=cpu)
    return rows


def training_table(rows: Sequence[TrainingRow]) -> tuple[list[str], list[list[str]]]:
    """Format measurements as column names and rows: MB (10^6 bytes) of each part and in total, peak, seconds."""
    parts = list(dict.fromkeys(part for row in rows for part in row.per_image))
    cells = []
    for row in rows:
        by_part = [_megabytes(row.per_image.get(part)) for part in parts]
        totals = [_megabytes(value) for value in (row.total_per_image, row.per_step, row.peak)]
        seconds = [_seconds(value) for value in (row.seconds, row.retaining_seconds, row.cpu_seconds)]
        cells.append([row.name, *by_part, *totals, *seconds])
    times = ("s/step", "s/step, retaining allocator", "CPU s/step")
    return ["system", *parts, "total", "per step", "peak", *times], cells


def _megabytes(count: int | None) -> str:
    return "-" if count is None else f"{count / 1e6:.1f}"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def is_native_precision(device: str, name: str) -> bool:
    """Check whether the device computes natively in the precision that a candidate's name ends with.

    Emulated bf16 is so slow that its time is meaningless.
    """
    if not name.endswith(", bf16") or device != "cpu":
        return True
    return bool(torch.cpu._is_avx512_bf16_supported())


def training_candidates(request: TrainingRequest) -> list[Candidate]:
    """Return every model in all precisions and activation-checkpointing modes, then the peers.

    Raises:
        SaisError: a model, size or candidate does not exist.
    """
    candidates = []
    for model in dict.fromkeys(request.models):
        for precision in request.precisions:
            for mode in request.activation_checkpointing:
                experiment = replace_settings(
                    experiment_of(model, request.trust), "run", activation_checkpointing=mode, precision=precision
                )
                if request.input_size is not None:
                    letterbox((1, 1), "fixed", request.input_size)  # raises if the size is invalid
                    experiment = replace_settings(experiment, "input", mode="fixed", size=request.input_size)
                name = f"{model}, {mode}" + ("" if precision == "fp32" else f", {precision}")
                candidates.append(recipe_candidate(name, experiment, training_objects=request.num_objects))
    candidates += [candidate for source in request.peers for candidate in find_candidates(source)]
    return select_by_name(candidates, request.only)


def _measured_times(
    request: TrainingRequest, conditions: Conditions, names: Sequence[str]
) -> dict[str, tuple[float, float]]:
    """Return the median wall time and CPU time of each candidate's step in seconds."""
    settings = asdict(replace(request, only=tuple(names)))
    times = in_fresh_process("sais.benchmark.training:_times", settings, asdict(conditions))
    return {name: (wall, cpu) for name, wall, cpu in times}


def _times(request: dict[str, Any], settings: dict[str, Any]) -> list[tuple[str, float, float]]:
    requested, conditions = TrainingRequest(**request), apply_conditions(settings)
    steps = {
        candidate.name: _make_step(_set_up(candidate, requested, conditions), requested.batch_size)
        for candidate in training_candidates(requested)
    }
    clock = clock_of(conditions.device)
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for turn in range(conditions.repeats + 1):
        for name, step in steps.items():
            wall, cpu = clock(), time.process_time()
            step()
            if turn:  # the first turn is a warm-up
                runs[name].append((clock() - wall, time.process_time() - cpu))
    return [
        (name, statistics.median(wall for wall, _ in times), statistics.median(cpu for _, cpu in times))
        for name, times in runs.items()
    ]


def _memory(request: dict[str, Any], settings: dict[str, Any], name: str) -> dict[str, Any]:
    requested, conditions = TrainingRequest(**request), apply_conditions(settings)
    candidate = next(candidate for candidate in training_candidates(requested) if candidate.name == name)
    training = _set_up(candidate, requested, conditions)
    peak = None
    if is_native_precision(conditions.device, name):
        peak = _peak(_make_step(training, requested.batch_size), conditions.device)
    saved = saved_bytes_per_image(training.model, training.losses, training.parts)
    return {"per_image": saved.per_image, "per_step": saved.per_step, "peak": peak}


def _set_up(candidate: Candidate, request: TrainingRequest, conditions: Conditions) -> TrainingSetup:
    torch.manual_seed(0)
    workload = make_workload(max(request.num_objects, 10), conditions.image_size, conditions.num_classes)
    if candidate.train is None:
        raise InputError(f"{candidate.name}: only its inference can be measured. Leave it out.")
    return candidate.train(workload, conditions.device)


def _make_step(training: TrainingSetup, batch_size: int) -> Callable[[], None]:
    trainable = [parameter for parameter in training.model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trainable, lr=1e-6, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(training.losses(batch_size).values())).sum().backward()
        optimizer.step()

    return step


def _peak(step: Callable[[], None], device: str) -> int | None:
    """Return the bytes that a step adds to the peak memory; None where the system does not report it."""
    if device.startswith("cuda"):
        allocated = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated() - allocated
    before = peak_resident(reset=True)
    step()
    after = peak_resident()
    return None if before is None or after is None else after - before
