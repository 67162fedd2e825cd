"""Time functions in turns, and peak memory of one of them."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

import torch

from peers.gpu.plan import Plan
from sais.benchmark.memory import peak_resident
from sais.benchmark.timing import clock_of

Name = TypeVar("Name", bound=Hashable)
WARM_UP_RUNS = 3


def interleaved(plan: Plan, functions: Mapping[Name, Callable[[], int]], batch_size: int = 1) -> dict[Name, float]:
    """Time functions in turns after a warm-up, so that changes of the clock rate affect all of them.

    Args:
        plan: device and number of runs.
        functions: functions that return the number of images that they have processed.
        batch_size: the number of images in a batch, on which the number of runs depends.

    Returns:
        Median milliseconds per image of each function.
    """
    clock = clock_of(plan.device)
    times: dict[Name, list[float]] = {name: [] for name in functions}
    warm_up = 1 if plan.small else WARM_UP_RUNS
    gc.collect()
    for turn in range(warm_up + plan.repeats(batch_size)):
        for name, function in functions.items():
            start = clock()
            images = function()
            if turn >= warm_up:
                times[name].append(1000 * (clock() - start) / images)
    return {name: statistics.median(values) for name, values in times.items()}


def peak_memory(plan: Plan, function: Callable[[], object], allocated_before: int = 0) -> int | None:
    """Return the peak memory in bytes while a function runs: of the device on CUDA, else of this process.

    Args:
        plan: the device.
        function: the function; it has run before, so that it allocates nothing for good.
        allocated_before: device memory in bytes that other systems hold, which does not count.

    Returns:
        The number of bytes; None where the system does not report it.
    """
    if plan.on_cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        function()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - allocated_before
    if plan.device != "cpu":
        return None
    peak_resident(reset=True)
    function()
    return peak_resident()


def allocated(plan: Plan) -> int:
    """Return the device memory in bytes that tensors hold at the moment; 0 without CUDA."""
    if not plan.on_cuda:
        return 0
    gc.collect()
    return torch.cuda.memory_allocated()


def gibibytes(count: int | None) -> str:
    """Format a number of bytes."""
    return "not known" if count is None else f"{count / 2**30:.2f} GiB"
