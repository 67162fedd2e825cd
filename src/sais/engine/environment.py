"""What a measurement says of the machine it was made on."""

from __future__ import annotations

import os
import platform
from typing import Any

import torch


def describe_environment(device: torch.device) -> dict[str, Any]:
    """Device, processor, cores, threads and versions, ready for JSON and for a sentence."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {
        "device": device.type,
        "name": name,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
    }


def format_environment(machine: dict[str, Any]) -> str:
    """One line for a person."""
    if machine["device"] != "cpu":
        kind = "" if machine["device"] == "cuda" else f" ({machine['device']})"
        return f"{machine['name']}{kind}, torch {machine['torch']}"
    threads = machine["threads"]
    threads_said = f"{threads} thread{'s' if threads != 1 else ''} of {machine['cores']} cores"
    return f"{machine['name']}, {threads_said}, no GPU, torch {machine['torch']}"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
