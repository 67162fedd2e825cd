"""Devices: from a name to a device of this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sais.errors import ResourceError

if TYPE_CHECKING:
    import torch


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
