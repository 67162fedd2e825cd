"""The fastest safe way to run a prepared network on a device. Measurements are in `docs/performance.md`."""

from __future__ import annotations

import copy
import importlib.util
import os
import shutil
from typing import TypeVar, cast

import torch
from torch import nn

from sais.device import precision_dtype
from sais.errors import ConfigError, MissingDependencyError

Network = TypeVar("Network", bound=nn.Module)
MIN_TORCH_OF_GRAPHS = "2.14"
"""Minimum version of torch whose `torch.compile` makes CUDA graphs for each thread."""


def for_device(prepared: Network, precision: str = "fp32", compile: bool = False) -> Network:
    """Return the prepared network in the form that is fastest on its device: itself, or a copy that cannot be exported.

    Args:
        prepared: network of `for_inference`, on its device.
        precision: "fp32"; "bf16" and "fp16" store weights and maps in half the bytes: faster where the device computes
            in them (GPUs; CPUs with AVX-512 BF16 or AMX), slower elsewhere, and less exact. Exponentials and masks are
            computed in fp32 from the outputs of head and ProtoNet.
        compile: whether `torch.compile` compiles it; the first batch of each shape then takes half a minute. On NVIDIA
            GPUs all operations of the network become one CUDA graph (torch 2.14), whose start costs the host as much
            as that of a single operation. The outputs of a call are then overwritten by the next call of the same
            thread.

    Raises:
        ConfigError: an unknown precision, or one that the device lacks.
        MissingDependencyError: torch.compile lacks a compiler.
    """
    dtype = precision_dtype(precision)
    device = next(prepared.parameters()).device.type
    if precision == "fp16" and device == "cpu":
        raise ConfigError("precision 'fp16': CPUs do not compute in it. Use bf16 or fp32.")
    if precision != "fp32":
        prepared = _in_half_precision(prepared, dtype)
    elif device == "cpu" and not compile:
        from sais.converters.cpu.winograd_inference import for_cpu_inference

        prepared = for_cpu_inference(prepared)
    return _compiled(prepared, device) if compile else prepared


def _in_half_precision(prepared: Network, dtype: torch.dtype) -> Network:
    """Return a copy with weights in half the bytes; images are normalized and distances scaled in fp32 all the same."""
    prepared = copy.deepcopy(prepared)
    buffers = {
        (module, name): value
        for module, names in ((prepared, ("mean", "std")), (getattr(prepared, "head", prepared), ("scales",)))
        for name in names
        if (value := module._buffers.get(name)) is not None
    }
    prepared.to(dtype)
    for (module, name), value in buffers.items():
        module._buffers[name] = value
    return prepared


def _compiled(prepared: Network, device: str) -> Network:
    check_compiler(device)
    # Before torch 2.14 threads share the memory of a CUDA graph's outputs, or fail (pytorch issue 123177).
    with_graphs = device == "cuda" and torch.__version__ >= MIN_TORCH_OF_GRAPHS
    return cast(Network, torch.compile(prepared, mode="reduce-overhead" if with_graphs else None))


def check_compiler(device: str) -> None:
    """Raise MissingDependencyError if `torch.compile` lacks what it needs for a type of device, "cpu" or "cuda"."""
    compilers = [os.environ.get("CXX"), "g++", "c++", "clang++", "cl"]
    if device == "cpu" and not any(name and shutil.which(name) for name in compilers):
        raise MissingDependencyError(
            "compile: torch.compile needs a C++ compiler on a CPU. Install g++, or turn compile off.", "g++"
        )
    if device == "cuda" and importlib.util.find_spec("triton") is None:
        raise MissingDependencyError(
            "compile: torch.compile needs Triton on this GPU. Install triton, or turn compile off.", "triton"
        )
