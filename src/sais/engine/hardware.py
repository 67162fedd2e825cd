"""What a run needs of its device: the precision, torch's settings, and processes that read images fast enough."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager

import torch

from sais.config import Experiment
from sais.device import precision_dtype
from sais.device_settings import CUBLAS_WORKSPACE, device_settings
from sais.errors import ConfigError

CPU_WORKERS, MAX_WORKERS = 2, 8
"""Number of processes that read images by default: on a CPU, and the maximum with a GPU."""


def check_precision(precision: str, device: torch.device) -> None:
    """Compute a tiny training step, since what a device supports depends on its model, driver and version of torch.

    Raises:
        ConfigError: the precision is unknown, or the device cannot train with it.
    """
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
        if CUBLAS_WORKSPACE in str(error):
            raise  # not the precision: see `device_settings`
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"run.precision {precision}: not available on {device} ({reason}). Use fp32.") from error


def training_settings(experiment: Experiment, device: torch.device) -> AbstractContextManager[None]:
    """Return a context in which torch computes on a device as `run.tf32` and `run.deterministic` state."""
    run = experiment.run
    fixed_shapes = has_fixed_canvas(experiment)
    return device_settings(device, tf32=run.tf32, fixed_shapes=fixed_shapes, deterministic=run.deterministic)


def has_fixed_canvas(experiment: Experiment) -> bool:
    """Return whether all batches of a run have canvases of the same size."""
    from sais.data.transforms.multi_scale import has_one_size

    return experiment.input.mode == "fixed" and has_one_size(experiment.augment)


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
