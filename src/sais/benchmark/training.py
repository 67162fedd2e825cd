"""`sais bench training`: bytes kept for backward, part by part, and the time and the peak of a training step.

A step is everything that `engine.train.step` does: network, targets, losses, backward, optimizer. Weights are random
and frozen as if they were pretrained; the image has as many objects as asked for. Systems take turns in one process,
so that a busy machine slows all of them; each one's memory is measured in a process of its own.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from sais.benchmark.candidates import Candidate, TrainingSetup, find_candidates, recipe_candidate
from sais.benchmark.memory import in_fresh_process, peak_resident
from sais.benchmark.models import DEFAULT_CLASSES, experiment_of
from sais.benchmark.timing import Conditions, clock_of, conditions_of
from sais.benchmark.workload import make_workload
from sais.engine.activation_memory import saved_bytes_per_image
from sais.engine.allocator import can_keep_big_blocks
from sais.errors import SaisError
from sais.ops.letterbox import letterbox
from sais.recipes.adjust import changed
from sais.resolve import suggest


@dataclass(frozen=True)
class TrainingRequest:
    """What is measured."""

    models: tuple[str, ...]
    """Recipes, or trained models and runs, whose settings are read."""
    recompute: tuple[str, ...] = ("none", "norms", "all")
    precisions: tuple[str, ...] = ("fp32",)
    objects: int = 10
    """On an image; peers have 10."""
    batch: int = 2
    """Images in the step that is timed; bytes are given for one."""
    input: tuple[int, int] | None = None
    """Another input size than the models'."""
    peers: tuple[str, ...] = ()
    """module:function of other candidates."""
    only: tuple[str, ...] = ()
    """Names of those that are to take part; all where none is given."""


@dataclass(frozen=True)
class TrainingRow:
    """One candidate's figures; None where something was not measured."""

    name: str
    per_image: dict[str, int]
    """Part -> bytes kept for backward for one more image."""
    per_step: int
    """Bytes kept that do not grow with the number of images."""
    peak: int | None
    """Bytes that the first step adds to the peak over the loaded model: on a GPU the device's, else resident ones."""
    seconds: float | None = None
    """Median of a step, allocator as shipped."""
    kept_seconds: float | None = None
    """The same with an allocator that keeps big blocks, as `sais train` sets it."""
    processor_seconds: float | None = None
    """The same in seconds of the processor, of all threads: what others do on the machine counts for less."""

    @property
    def total(self) -> int:
        """Bytes kept for one more image."""
        return sum(self.per_image.values())


def bench_training(
    request: TrainingRequest,
    repeats: int = 3,
    device: str = "cpu",
    times: bool = True,
    say: Callable[[str], None] = print,
) -> list[TrainingRow]:
    """Measure, in processes of their own.

    Args:
        times: also time the steps (but for bf16 where the processor has to emulate it).

    Raises:
        SaisError: a model that does not exist, or a measuring process failed.
    """
    names = [one.name for one in training_candidates(request)]
    if not names:
        raise SaisError("nobody to measure: no candidate has one of the names given")
    conditions = Conditions(request.objects, classes=DEFAULT_CLASSES, repeats=repeats, device=device)
    rows = []
    for name in names:
        say(f"memory of {name}")
        found = in_fresh_process("sais.benchmark.training:_memory", asdict(request), asdict(conditions), name)
        rows.append(TrainingRow(name, **found))
    quick = [name for name in names if computes(device, name)] if times else []
    if quick:
        say(f"timing {', '.join(quick)}: {repeats + 1} turns each, twice")
        shipped = _measured_times(request, conditions, quick)
        keeping = replace(conditions, retain_memory=True)
        kept = _measured_times(request, keeping, quick) if can_keep_big_blocks() else {}
        for i, row in enumerate(rows):
            if row.name in shipped:
                wall, processor = kept.get(row.name, (None, None))
                rows[i] = replace(row, seconds=shipped[row.name][0], kept_seconds=wall, processor_seconds=processor)
    return rows


def training_table(rows: Sequence[TrainingRow]) -> tuple[list[str], list[list[str]]]:
    """Column names and rows: MB (10^6 bytes) of each part and in all, peak, seconds of a step."""
    parts = list(dict.fromkeys(part for row in rows for part in row.per_image))
    lines = []
    for row in rows:
        each = [_million(row.per_image.get(part)) for part in parts]
        seconds = [_number(s) for s in (row.seconds, row.kept_seconds, row.processor_seconds)]
        lines.append([row.name, *each, _million(row.total), _million(row.per_step), _million(row.peak), *seconds])
    times = ("s a step", "blocks kept", "of the processor")
    return ["system", *parts, "all", "once a step", "peak", *times], lines


def _million(count: int | None) -> str:
    return "-" if count is None else f"{count / 1e6:.1f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def computes(device: str, name: str) -> bool:
    """Whether the device computes in the precision that a candidate's name ends with; emulated, it says nothing."""
    if not name.endswith(", bf16") or device != "cpu":
        return True
    return bool(torch.cpu._is_avx512_bf16_supported())


def training_candidates(request: TrainingRequest) -> list[Candidate]:
    """Every model with every choice of what is computed again, in every precision; then the peers.

    Raises:
        SaisError: there is no such model, size or candidate.
    """
    found = []
    for model in dict.fromkeys(request.models):
        for precision in request.precisions:
            for kind in request.recompute:
                experiment = changed(experiment_of(model), "run", activation_checkpointing=kind, precision=precision)
                if request.input is not None:
                    letterbox((1, 1), "fixed", request.input)  # says what is wrong with it
                    experiment = changed(experiment, "input", mode="fixed", size=request.input)
                name = f"{model}, {kind}" + ("" if precision == "fp32" else f", {precision}")
                found.append(recipe_candidate(name, experiment, trained_objects=request.objects))
    found += [one for source in request.peers for one in find_candidates(source)]
    known = [one.name for one in found]
    for name in request.only:
        if name not in known:
            raise SaisError(f"--only '{name}': nobody of that name{suggest(name, known)}")
    return [one for one in found if not request.only or one.name in request.only]


def _measured_times(
    request: TrainingRequest, conditions: Conditions, names: Sequence[str]
) -> dict[str, tuple[float, float]]:
    asked = asdict(replace(request, only=tuple(names)))
    found = in_fresh_process("sais.benchmark.training:_times", asked, asdict(conditions))
    return {name: (wall, processor) for name, wall, processor in found}


def _times(request: dict[str, Any], conditions: dict[str, Any]) -> list[tuple[str, float, float]]:
    """(name, median seconds, median seconds of the processor) of each, in turns."""
    asked, shared = TrainingRequest(**request), conditions_of(conditions)
    steps = {one.name: _step_of(_training(one, asked, shared), asked.batch) for one in training_candidates(asked)}
    clock = clock_of(shared.device)
    turns: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for turn in range(shared.repeats + 1):
        for name, step in steps.items():
            wall, processor = clock(), time.process_time()
            step()
            if turn:  # the first makes what libraries set up once
                turns[name].append((clock() - wall, time.process_time() - processor))
    return [(name, *(statistics.median(one) for one in zip(*each, strict=True))) for name, each in turns.items()]


def _memory(request: dict[str, Any], conditions: dict[str, Any], name: str) -> dict[str, Any]:
    asked, shared = TrainingRequest(**request), conditions_of(conditions)
    candidate = next(one for one in training_candidates(asked) if one.name == name)
    training = _training(candidate, asked, shared)
    peak = _peak(_step_of(training, asked.batch), shared.device) if computes(shared.device, name) else None
    saved = saved_bytes_per_image(training.model, training.losses, training.parts)
    return {"per_image": saved.per_image, "per_step": saved.per_step, "peak": peak}


def _training(candidate: Candidate, request: TrainingRequest, conditions: Conditions) -> TrainingSetup:
    torch.manual_seed(0)
    workload = make_workload(max(request.objects, 10), conditions.image_size, conditions.num_classes)
    if candidate.train is None:
        raise SaisError(f"{candidate.name} does not train")
    return candidate.train(workload, conditions.device)


def _step_of(training: TrainingSetup, batch: int) -> Callable[[], None]:
    trained = [p for p in training.model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1e-6, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(training.losses(batch).values())).sum().backward()
        optimizer.step()

    return step


def _peak(step: Callable[[], None], device: str) -> int | None:
    if device.startswith("cuda"):
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated() - before
    resident = peak_resident(reset=True)
    step()
    after = peak_resident()
    return None if resident is None or after is None else after - resident
