"""The environment of a run or a measurement: device, processor, threads and versions."""

from __future__ import annotations

import os
import platform
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn


def describe_environment(device: torch.device) -> dict[str, Any]:
    """Return device, processor, cores, threads and versions as a dictionary for JSON."""
    import torch

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name()
    return {
        "device": device.type,
        "name": name,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
    }


def describe_convolutions(network: nn.Module) -> str:
    """Return how the 3x3 convolutions of a network in training are computed: "winograd" or "direct"."""
    from sais.converters.cpu.training_convolution import FastConvolution

    is_winograd = any(isinstance(module, FastConvolution) for module in network.modules())
    return "winograd" if is_winograd else "direct"


def format_environment(environment: dict[str, Any]) -> str:
    """Format a dictionary of `describe_environment` as one line of text."""
    device, name, threads = (environment.get(key, "?") for key in ("device", "name", "threads"))
    version = f"torch {environment.get('torch', '?')}"
    if device != "cpu":
        return f"{name}{'' if device == 'cuda' else f' ({device})'}, {version}"
    threads_text = f"{threads} thread{'s' if threads != 1 else ''} of {environment.get('cores', '?')} cores"
    return f"{name}, {threads_text}, no GPU, {version}"


def processor_name() -> str:
    """Return the name of the processor as the system reports it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
