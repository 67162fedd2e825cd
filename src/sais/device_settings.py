"""How torch computes on a device: TF32, cuDNN's timing of algorithms, deterministic algorithms; for a block of code."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch

from sais.errors import ConfigError

CUBLAS_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
"""Environment variable of cuBLAS, which is deterministic with a workspace of fixed size."""


@contextlib.contextmanager
def device_settings(
    device: torch.device, *, tf32: bool = False, fixed_shapes: bool = False, deterministic: bool = False
) -> Iterator[None]:
    """Set how torch computes on a device for the duration of the block, then restore the settings of the process.

    These are settings of the whole process, so a block changes what other threads compute on a GPU meanwhile.

    Args:
        device: device that the block computes on.
        tf32: whether NVIDIA GPUs may round the factors of fp32 convolutions and matrix products to 10 bits (TF32),
            which is several times as fast; if not, fp32 is exact to rounding. Without effect on other devices.
        fixed_shapes: whether inputs keep their shape, so that cuDNN may time its algorithms once for each shape.
        deterministic: whether to use deterministic algorithms only. A process that has used cuBLAS before needs the
            environment variable `CUBLAS_WORKSPACE` from its start.

    Raises:
        ConfigError: `deterministic`, and an operation has no deterministic version on the device, or cuBLAS was used
            before.
    """
    with contextlib.ExitStack() as restore:
        if device.type == "cuda":
            _set_tf32(tf32, restore)
            restore.callback(setattr, torch.backends.cudnn, "benchmark", torch.backends.cudnn.benchmark)
            torch.backends.cudnn.benchmark = fixed_shapes and not deterministic
        if not deterministic:
            yield
            return
        _be_deterministic(restore)
        try:
            yield
        except RuntimeError as error:
            if CUBLAS_WORKSPACE in str(error):  # torch reads it once, in the first matrix product of a process
                raise ConfigError(
                    f"deterministic: this process has used {device} before without {CUBLAS_WORKSPACE}. Set this "
                    "environment variable to :4096:8 before the process starts."
                ) from error
            operation, found, _ = str(error).partition(" does not have a deterministic implementation")
            if not found:
                raise
            raise ConfigError(
                f"deterministic: {operation} has no deterministic version on {device}. Turn run.deterministic off, or "
                "train on the cpu."
            ) from error


def _set_tf32(tf32: bool, restore: contextlib.ExitStack) -> None:
    """Turn TF32 on or off; `restore` receives what undoes it.

    The settings before torch 2.9 and those since are two views of one state. After a process has used the new ones,
    reading the old ones may raise RuntimeError, but other parts of torch read them: both are set, and restored.
    """
    backends: Any = torch.backends
    cudnn = backends.cudnn
    new = [backends.cuda.matmul, cudnn.conv, cudnn.rnn] if hasattr(cudnn, "conv") else []
    for module in [*new, *([backends.mkldnn.matmul] if new else [])]:  # restored after the old settings
        restore.callback(_restore_precision, module, module.fp32_precision)
    matmul, convolutions = "highest", True  # torch's defaults, where a process has used the new settings only
    with contextlib.suppress(RuntimeError):
        matmul = torch.get_float32_matmul_precision()
    with contextlib.suppress(RuntimeError):
        convolutions = cudnn.allow_tf32
    restore.callback(torch.set_float32_matmul_precision, matmul)
    restore.callback(setattr, cudnn, "allow_tf32", convolutions)
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    cudnn.allow_tf32 = tf32
    for module in new:  # the old settings leave room for `torch.backends.fp32_precision`
        module.fp32_precision = "tf32" if tf32 else "ieee"


def _restore_precision(module: Any, precision: str) -> None:
    """Set the precision of a kind of operation to what it was; inherited, if that is the same."""
    module.fp32_precision = "none"
    if module.fp32_precision != precision:
        module.fp32_precision = precision


def _be_deterministic(restore: contextlib.ExitStack) -> None:
    """Make torch use deterministic algorithms; `restore` receives what undoes it."""
    cudnn = torch.backends.cudnn
    filling: Any = torch.utils.deterministic
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
