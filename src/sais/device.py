"""Devices and precisions: from their names in settings to torch's objects, and how torch computes on them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from sais.errors import ConfigError, ResourceError

if TYPE_CHECKING:
    import torch


PRECISIONS = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
"""Precision -> name of torch's data type."""
CUBLAS_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
"""Environment variable of cuBLAS, which is deterministic with a workspace of fixed size."""


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


@contextlib.contextmanager
def device_settings(
    device: torch.device, *, tf32: bool = False, fixed_shapes: bool = False, deterministic: bool = False
) -> Iterator[None]:
    """Set how torch computes on a device for the duration of the block, then restore the settings of the process.

    These are settings of the whole process, so a block changes what other threads compute on a GPU meanwhile.

    Args:
        device: device that the block computes on.
        tf32: whether NVIDIA GPUs may round the factors of fp32 convolutions and matrix products to 10 bits (TF32), which
            is several times as fast; if not, fp32 is exact to rounding. Without effect on other devices.
        fixed_shapes: whether inputs keep their shape, so that cuDNN may time its algorithms once for each shape.
        deterministic: whether to use deterministic algorithms only. cuBLAS follows this if the process has not used it
            before.

    Raises:
        ConfigError: `deterministic`, and an operation has no deterministic version on the device.
    """
    import torch

    with contextlib.ExitStack() as restore:
        if device.type == "cuda":
            cudnn = torch.backends.cudnn
            restore.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
            for name in ("allow_tf32", "benchmark"):
                restore.callback(setattr, cudnn, name, getattr(cudnn, name))
            torch.set_float32_matmul_precision("high" if tf32 else "highest")
            cudnn.allow_tf32 = tf32
            cudnn.benchmark = fixed_shapes and not deterministic
        if not deterministic:
            yield
            return
        _be_deterministic(restore)
        try:
            yield
        except RuntimeError as error:
            operation, found, _ = str(error).partition(" does not have a deterministic implementation")
            if not found:
                raise
            raise ConfigError(
                f"deterministic: {operation} has no deterministic version on {device}. Turn run.deterministic off, or "
                "train on the cpu."
            ) from error


def _be_deterministic(restore: contextlib.ExitStack) -> None:
    """Make torch use deterministic algorithms; `restore` receives what undoes it."""
    import torch

    cudnn, filling = torch.backends.cudnn, torch.utils.deterministic
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    restore.callback(torch.use_deterministic_algorithms, before[0], warn_only=before[1])
    restore.callback(setattr, cudnn, "deterministic", cudnn.deterministic)
    restore.callback(setattr, filling, "fill_uninitialized_memory", filling.fill_uninitialized_memory)
    torch.use_deterministic_algorithms(True)
    cudnn.deterministic = True
    filling.fill_uninitialized_memory = False  # takes time, and nothing here reads memory before writing it
    if CUBLAS_WORKSPACE not in os.environ:
        os.environ[CUBLAS_WORKSPACE] = ":4096:8"
        restore.callback(os.environ.pop, CUBLAS_WORKSPACE, None)
