"""Inference: end to end against the network alone and against the peers, the paper's Table IV, compiled networks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial

from peers.gpu.inference_systems import (
    COMPARISONS,
    FROM_CANVASES,
    FROM_IMAGES,
    MASK_RCNN,
    NETWORK,
    SAIS,
    SLIM,
    STREAMED,
    YOLACT,
    Comparison,
    Stages,
    peer_stages,
    random_model,
    sais_stages,
)
from peers.gpu.plan import Check, Plan, Row
from peers.gpu.timing import allocated, gibibytes, interleaved, peak_memory

TABLE_IV = ("sais-r50-640", "sais-r50-768", "sais-r101-768", "sais-x101-768", "sais-lite", "sais-r50-640-slim")
"""The recipes of the paper's Table IV, and two smaller ones."""
MAX_NETWORK_RATIOS = (1.3, 1.1)
"""Maximum end-to-end time relative to the network alone, for one image and for the larger batch."""


def comparisons(plan: Plan) -> Iterator[Check]:
    """Yield the comparisons with the peers; the most important one first."""
    precisions = [plan.best_precision, *(p for p in ("tf32", "fp32") if plan.on_cuda)]
    for precision in precisions:
        for batch_size in plan.batch_sizes:
            run = partial(compare_systems, precision=precision, batch_size=batch_size)
            yield Check("end to end", f"{precision}, batch {batch_size}", run)


def table_iv(plan: Plan) -> Iterator[Check]:
    """Yield a check for each recipe and batch size (one image on a CPU); all precisions of a check in turns."""
    for name in TABLE_IV:
        for batch_size in plan.batch_sizes[:1] if plan.small else plan.batch_sizes:
            run = partial(measure_precisions, name=name, batch_size=batch_size)
            yield Check("latency", f"{name}, batch {batch_size}", run)


def compiled(plan: Plan) -> Iterator[Check]:
    """Yield a check for each recipe and batch size; on a CPU for one, because compilation takes a minute."""
    if plan.small:
        yield Check("compiled", "sais-lite, batch 1", partial(measure_compiled, name="sais-lite", batch_size=1))
        return
    for name in (SAIS, *(name for name in TABLE_IV if name != SAIS)):
        for batch_size in plan.batch_sizes:
            run = partial(measure_compiled, name=name, batch_size=batch_size)
            yield Check("compiled", f"{name}, batch {batch_size}", run)


def compare_systems(plan: Plan, precision: str, batch_size: int) -> list[Row]:
    """Time SAIS and the peers in turns, and apply the limits."""
    systems: dict[str, Stages] = {}
    memory: dict[str, int | None] = {}
    for name in (SAIS, MASK_RCNN, SLIM, YOLACT):
        before = allocated(plan)
        if name in (SAIS, SLIM):
            systems[name] = sais_stages(plan, random_model(plan.experiment(name)), precision, batch_size)
        else:
            systems[name] = peer_stages(plan, name, precision, batch_size)
        memory[name] = peak_memory(plan, systems[name][FROM_CANVASES], before)
    functions = {(name, stage): run for name, stages in systems.items() for stage, run in stages.items()}
    times = interleaved(plan, functions, batch_size)
    by_system = {name: {stage: times[name, stage] for stage in stages} for name, stages in systems.items()}
    rows = [latency_row(name, by_system[name], memory[name]) for name in systems]
    rows += [faster_row(plan, by_system, pair) for pair in COMPARISONS]
    if precision == plan.best_precision:
        limit = MAX_NETWORK_RATIOS[plan.batch_sizes.index(batch_size)]
        rows += [network_ratio_row(plan, by_system[SAIS], stage, limit) for stage in (FROM_CANVASES, STREAMED)]
    return [replace(row, name=f"{row.name}, {precision}, batch {batch_size}") for row in rows]


def latency_row(name: str, times: Mapping[str, float], memory: int | None = None) -> Row:
    """Return the row of a system: milliseconds per image of each stage, images/s of the last one."""
    last = list(times)[-1]
    text = ", ".join(f"{stage} {time:.2f}" for stage, time in times.items())
    text = f"ms per image: {text}; {1000 / times[last]:.0f} images/s"
    if memory is not None:
        text += f"; peak {gibibytes(memory)}"
    return Row(name, None, text, values={"milliseconds": dict(times), "peak_bytes": memory})


def faster_row(plan: Plan, times: Mapping[str, Mapping[str, float]], pair: Comparison) -> Row:
    """Return the row that demands that the first system of a pair is the faster from images to masks."""
    ratio = times[pair.first][FROM_IMAGES] / times[pair.second][FROM_IMAGES]
    text = f"{ratio:.2f} times as long, from images to masks"
    return Row(f"{pair.first} / {pair.second}", plan.judged(ratio < 1), text, "< 1", {"ratio": ratio})


def network_ratio_row(plan: Plan, times: Mapping[str, float], stage: str, limit: float) -> Row:
    """Return the row that limits the time of a stage relative to the network alone."""
    ratio = times[stage] / times[NETWORK]
    name = f"{SAIS}, {stage} / {NETWORK}"
    return Row(name, plan.judged(ratio <= limit), f"{ratio:.2f}", f"<= {limit}", {"ratio": ratio})


def measure_precisions(plan: Plan, name: str, batch_size: int) -> list[Row]:
    """Time a recipe in all precisions in turns."""
    model = random_model(plan.experiment(name))
    systems: dict[str, Stages] = {}
    memory: dict[str, int | None] = {}
    for precision in plan.precisions:
        before = allocated(plan)
        systems[precision] = sais_stages(plan, model, precision, batch_size)
        memory[precision] = peak_memory(plan, systems[precision][FROM_CANVASES], before)
    times = timed_stages(plan, systems, batch_size)
    return [
        latency_row(f"{name}, {precision}, batch {batch_size}", times[precision], memory[precision])
        for precision in systems
    ]


def measure_compiled(plan: Plan, name: str, batch_size: int) -> list[Row]:
    """Time a recipe with and without `torch.compile` in turns, in the best precision."""
    model, precision = random_model(plan.experiment(name)), plan.best_precision
    systems = {
        label: sais_stages(plan, model, precision, batch_size, compile)
        for label, compile in (("not compiled", False), ("compiled", True))
    }
    times = timed_stages(plan, systems, batch_size)
    return [latency_row(f"{name}, {precision}, batch {batch_size}, {label}", times[label]) for label in systems]


def timed_stages(plan: Plan, systems: Mapping[str, Stages], batch_size: int) -> dict[str, dict[str, float]]:
    """Time the network, canvases to masks, and streamed images of systems in turns: ms per image by system, stage."""
    stages = (NETWORK, FROM_CANVASES, STREAMED)
    times = interleaved(plan, {(name, stage): systems[name][stage] for name in systems for stage in stages}, batch_size)
    return {name: {stage: times[name, stage] for stage in stages} for name in systems}
