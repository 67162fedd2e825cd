"""Where the time of a prediction and of a training step goes: kernels by kind, launches, copies and waits."""

from __future__ import annotations

import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from peers.gpu.inference_systems import FROM_IMAGES, SAIS, random_model, sais_stages
from peers.gpu.plan import Check, Plan, Row
from peers.gpu.training_steps import training_system
from sais.benchmark.timing import clock_of

KINDS = {
    "convolution, matrix product": r"conv|gemm|cudnn|cutlass|xmma|wgrad|dgrad|fprop|mm\b|matmul|winograd|nchw.*nhwc",
    "normalization": r"norm|welford",
    "copy": r"memcpy|copy|cat\b|CatArray|_to_|clone",
    "selection, sort, NMS": r"nms|sort|topk|gather|scatter|index|radix|nonzero|searchsorted|where",
    "reduction": r"reduce|sum|cumsum|scan|max|min|any\b",
    "optimizer": r"foreach|multi_tensor|adam|sgd|lerp",
    "elementwise": r"elementwise|relu|sigmoid|exp|add|mul|div|sub|clamp|fill|memset|triton_poi|log|tanh|zero_",
}
"""Kind of a kernel (of an operator on a CPU) -> pattern of its name; the first match counts."""
TOP = 12
"""Number of kernels in the JSON file."""
STEPS = 3
"""Number of profiled calls."""
LAUNCHES, WAITS, COPIES = r"LaunchKernel|GraphLaunch", r"Synchronize", r"Memcpy"


def profile_checks(plan: Plan) -> Iterator[Check]:
    """Yield the profiles of predictions with one image and with a batch, and of a training step."""
    for batch_size in plan.batch_sizes:
        yield Check("profile", f"prediction, batch {batch_size}", partial(profile_prediction, batch_size=batch_size))
    yield Check("profile", "training step", profile_training)


def profile_prediction(plan: Plan, batch_size: int) -> list[Row]:
    """Profile predictions of SAIS-R50-768 in the best precision, from images to masks."""
    model = random_model(plan.experiment(SAIS))
    run = sais_stages(plan, model, plan.best_precision, batch_size)[FROM_IMAGES]
    return [profiled(plan, f"prediction, {SAIS}, {plan.best_precision}, batch {batch_size}", run)]


def profile_training(plan: Plan) -> list[Row]:
    """Profile optimizer steps of SAIS-R50-768 in the best precision."""
    system = training_system(plan, SAIS, plan.best_precision)
    name = f"training step, {SAIS}, {plan.best_precision}, batch {plan.training_batch_size}"
    return [profiled(plan, name, system.step)]


def profiled(plan: Plan, name: str, run: Callable[[], object]) -> Row:
    """Return the row that summarizes a function.

    Args:
        plan: the device.
        name: the name of the row.
        run: the function.
    """
    clock = clock_of(plan.device)
    for _ in range(2):
        run()
    waits = host_waits(plan, run)
    start = clock()
    for _ in range(STEPS):
        run()
    milliseconds = 1000 * (clock() - start) / STEPS  # without the profiler, which slows the host
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if plan.on_cuda else [])]
    with profile(activities=activities, acc_events=True) as recorded:
        for _ in range(STEPS):
            run()
        clock()
    events = recorded.key_averages()
    kernels = {event.key: self_time(event, plan.on_cuda) / STEPS for event in events}
    kernels = {key: value for key, value in kernels.items() if value > 0}
    busy = sum(kernels.values())
    values: dict[str, Any] = {
        "milliseconds": milliseconds,
        "kinds": by_kind(kernels),
        "top": dict(sorted(kernels.items(), key=lambda item: -item[1])[:TOP]),
        "launches": _count(events, LAUNCHES) / STEPS,
        "copies": _count(events, COPIES) / STEPS,
        "host_waits": waits,
    }
    fractions = {kind: time / busy for kind, time in values["kinds"].items()}
    shares = ", ".join(f"{kind} {100 * share:.0f} %" for kind, share in fractions.items() if share >= 0.005)
    text = f"{milliseconds:.2f} ms: {shares}"
    if plan.on_cuda:
        text += (
            f"; device busy {100 * min(1.0, busy / milliseconds):.0f} % of the time, {values['launches']:.0f} "
            f"launches, {values['copies']:.0f} copies, {waits} host waits"
        )
    return Row(name, None, text, values=values)


def self_time(event: Any, on_cuda: bool) -> float:
    """Return the time of a kernel, or of an operator on a CPU without those that it calls, in milliseconds."""
    if on_cuda:
        is_kernel = event.device_type.name == "CUDA" and not getattr(event, "is_user_annotation", False)
        return float(event.self_device_time_total) / 1000 if is_kernel else 0.0
    return float(event.self_cpu_time_total) / 1000


def by_kind(kernels: dict[str, float]) -> dict[str, float]:
    """Add up times (any unit) of kernels by kind, the largest first."""
    sums: defaultdict[str, float] = defaultdict(float)
    for name, value in kernels.items():
        kind = next((kind for kind, pattern in KINDS.items() if re.search(pattern, name, re.IGNORECASE)), "other")
        sums[kind] += value
    return dict(sorted(sums.items(), key=lambda item: -item[1]))


def _count(events: Any, pattern: str) -> int:
    return sum(event.count for event in events if event.key.startswith("cu") and re.search(pattern, event.key))


def host_waits(plan: Plan, run: Callable[[], object]) -> int | None:
    """Return the number of operations of a call for which the host waits for the device; None without CUDA."""
    if not plan.on_cuda:
        return None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            run()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)
