"""Memory that this process can still allocate: on a GPU, on the machine, and within the limits of its containers."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from sais.errors import ResourceError


def free_memory(device: torch.device, root: Path = Path("/")) -> int:
    """Return the bytes that this process can still allocate, as reported by the device, the system and its containers.

    Args:
        device: device whose memory is meant.
        root: root of the file system that contains `/proc` and `/sys`.

    Raises:
        ResourceError: the system does not report it.
    """
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    limits = [*_container_limits(root), *_system_limits(root)]
    if not limits:
        raise ResourceError(
            f"{device}: the system does not report its free memory. Set the batch size (optim.batch_size)."
        )
    return max(0, min(limits))


def _system_limits(root: Path) -> list[int]:
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        return [1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    except OSError:
        pass
    try:  # macOS reports the total only; half of it is an estimate
        return [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2]
    except (AttributeError, ValueError, OSError):  # Windows
        return []


def _container_limits(root: Path) -> list[int]:
    """Return the free bytes of each control group (version 1 or 2) of this process, including the outer groups."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    limits = []
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            mount, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            mount = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        group = mount / path.lstrip("/")
        for folder in (group, *group.parents):
            free = _free_in_group(folder, *names)
            if free is not None:
                limits.append(free)
            if folder == mount:
                break
    return limits


def _free_in_group(folder: Path, limit_file: str, usage_file: str, cache_key: str) -> int | None:
    """Return the free bytes of one control group; its inactive file cache counts as free. None without a limit."""
    try:
        limit = int((folder / limit_file).read_text())
        usage = int((folder / usage_file).read_text())
    except (OSError, ValueError):  # no such group, or "max"
        return None
    try:
        numbers = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return limit - usage + int(numbers.get(cache_key, 0))
    except (OSError, ValueError):
        return limit - usage
