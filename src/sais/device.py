"""Devices and precisions: from their names in settings to torch's objects. `device_settings`: how torch computes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sais.errors import ConfigError, ResourceError

if TYPE_CHECKING:
    import torch


PRECISIONS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
"""Precision -> name of torch's data type."""


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
