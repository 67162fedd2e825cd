"""Devices, precisions and threads: from their names in settings to torch's objects."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from typing import TYPE_CHECKING

from sais.errors import ConfigError, ResourceError

if TYPE_CHECKING:
    import torch


PRECISIONS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
"""Precision -> name of torch's data type."""

WAIT_SETTINGS = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "0"}
"""Variable of an OpenMP runtime -> value with which its threads wait for each other without keeping a core busy: GNU's
(torch on Linux), and LLVM's and Intel's (torch on macOS and Windows)."""
WAIT_VARIABLES = ("OMP_WAIT_POLICY", *WAIT_SETTINGS)
"""Variables by which a user chooses how threads wait."""
CPU_WORKERS, MAX_WORKERS = 2, 8
"""Number of processes that read images by default: on a CPU, and the maximum with a GPU."""


def let_threads_sleep(environment: MutableMapping[str, str] | None = None) -> bool:
    """Let the threads of torch sleep while they wait for each other, instead of keeping their cores busy.

    By default a waiting thread repeats a loop for milliseconds. On a machine with other work the thread that it waits
    for has no core meanwhile, and training becomes many times slower (docs/performance.md). Call this before torch is
    imported: its OpenMP runtime reads the variables once. Values that the user has set remain.

    Args:
        environment: variables to change; those of this process if None.

    Returns:
        Whether something was changed.
    """
    environment = os.environ if environment is None else environment
    if any(name in environment for name in WAIT_VARIABLES):
        return False
    environment.update(WAIT_SETTINGS)
    return True


def precision_dtype(precision: str) -> torch.dtype:
    """Return the data type of a precision.

    Raises:
        ConfigError: an unknown precision.
    """
    import torch

    if precision not in PRECISIONS:
        raise ConfigError(f"precision {precision!r}: unknown. Choose one of {', '.join(PRECISIONS)}.")
    dtype: torch.dtype = getattr(torch, PRECISIONS[precision])
    return dtype


def check_precision(precision: str, device: torch.device) -> None:
    """Compute a tiny training step, since what a device supports depends on its model, driver and version of torch.

    Raises:
        ConfigError: the precision is unknown, or the device cannot train with it.
    """
    import torch

    dtype = precision_dtype(precision)
    if dtype == torch.float32:
        return
    try:
        weight = torch.nn.Parameter(torch.ones(8, 8, device=device))
        scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        with torch.autocast(device.type, dtype):
            loss = (weight @ weight).float().sum()
        scaler.scale(loss).backward()
        scaler.unscale_(torch.optim.SGD([weight], lr=0.0))
    except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"run.precision {precision}: not available on {device} ({reason}). Use fp32.") from error


def choose_workers(workers: int | None, device: torch.device) -> int:
    """Return the number of processes that read images for one process that trains.

    Args:
        workers: the setting; None: `CPU_WORKERS` on a CPU, which needs its cores itself, and up to `MAX_WORKERS` for a
            GPU, as many as there are cores for each process on this machine.
        device: device of the network.
    """
    if workers is not None:
        return workers
    if device.type == "cpu":
        return CPU_WORKERS
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(CPU_WORKERS, min(MAX_WORKERS, share - 1))


def choose_device(name: str = "auto") -> torch.device:
    """Return the device of that name; "auto" is CUDA where available, else MPS, else the CPU.

    Raises:
        ResourceError: the machine has no such device.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device).cpu()  # fails on "meta", which stores no numbers
    except (RuntimeError, AssertionError) as error:
        raise ResourceError(f"device {name}: not available on this machine. Use cpu or auto.") from error
    return device
