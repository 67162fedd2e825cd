"""Running out of memory in training: how it is recognized, and the error that names the settings to change."""

from __future__ import annotations

import torch

from sais.config import Experiment
from sais.errors import ResourceError

_OUT_OF_MEMORY_TEXTS = (
    "out of memory",  # CUDA, MPS, XPU
    "can't allocate memory",  # CPU
    "not enough memory",  # CPU on Windows
    "alloc_failed",  # cuBLAS and cuDNN
    "could not create a memory object",  # oneDNN
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception means that memory ran out. torch has a class for GPUs only; libraries differ."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error).lower() for text in _OUT_OF_MEMORY_TEXTS)


def out_of_memory_error(experiment: Experiment, device: torch.device, images: int | None = None) -> ResourceError:
    """Return the error to raise when memory runs out in training.

    Args:
        experiment: settings of the run.
        device: device of the run.
        images: number of images in the step; `optim.batch_size` if None.
    """
    images = experiment.optim.batch_size if images is None else images
    size = " x ".join(map(str, experiment.input.size))
    return ResourceError(
        f"{device}: out of memory with {images} image{'s' * (images > 1)} of {size} in a step. "
        + memory_remedies(experiment, device, images)
    )


def memory_remedies(experiment: Experiment, device: torch.device, images: int) -> str:
    """Return the settings that reduce memory as a sentence, the cheapest first.

    Args:
        experiment: settings of the run.
        device: device of the run.
        images: number of images in the step.
    """
    remedies = []
    if images > 1:
        remedies.append(f"optim.micro_batch {images // 2} (same result)")
    if experiment.run.activation_checkpointing != "all":
        remedies.append("run.activation_checkpointing all")
    if experiment.run.precision == "fp32" and _supports_bf16(device):
        remedies.append("run.precision bf16")
    return f"Try {', '.join([*remedies, 'a smaller input.size'])}."


def _supports_bf16(device: torch.device) -> bool:
    """Return whether bf16 is computed in hardware; emulated bf16 is ten times slower."""
    return device.type == "cuda" or (device.type == "cpu" and torch.cpu._is_avx512_bf16_supported())
