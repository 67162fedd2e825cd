"""Devices: which one a name means on this machine."""

from __future__ import annotations

import torch

from sais.errors import SaisError


def choose_device(name: str = "auto") -> torch.device:
    """The device a name means; "auto" is CUDA where there is one, then MPS, then the CPU.

    Raises:
        SaisError: this machine has no such device.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device).cpu()  # "meta" holds no numbers
    except (RuntimeError, AssertionError) as error:
        raise SaisError(f"--device {name}: not on this machine; take cpu, or leave it on auto") from error
    return device
