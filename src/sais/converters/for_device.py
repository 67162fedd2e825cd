"""The fastest safe way to run a prepared network on a device. What was measured stands in `docs/performance.md`."""

from __future__ import annotations

import copy
import importlib.util
import os
import shutil
from typing import cast

import torch

from sais.converters.cpu.winograd_inference import nnpack_is_faster, with_winograd
from sais.converters.fuse import FusedHead
from sais.errors import SaisError
from sais.modeling.sais import SAIS

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def for_device(prepared: SAIS, precision: str = "fp32", compiled: bool = False) -> SAIS:
    """The prepared network as it is fastest where it lies: itself, or a copy, which is not to be exported.

    Args:
        prepared: of `for_inference`, on its device.
        precision: "fp32"; "bf16" and "fp16" keep weights and maps in half the bytes: faster where the device computes
            in them (GPUs; CPUs with AVX-512 BF16 or AMX), slower elsewhere, and less exact. What the head and the
            ProtoNet say is turned into fp32 before exponentials and masks are made of it.
        compiled: let `torch.compile` fuse what it can. The first image of each size then takes half a minute.

    Raises:
        SaisError: no such precision on the device, or torch.compile lacks what it needs.
    """
    if precision not in PRECISIONS:
        raise SaisError(f"precision {precision!r}: take one of {', '.join(PRECISIONS)}")
    device = prepared.mean.device.type
    winograd = precision == "fp32" and device == "cpu" and not compiled and nnpack_is_faster()
    if precision == "fp16" and device == "cpu":
        raise SaisError("precision fp16: CPUs do not compute in it; take bf16 or fp32")
    if precision == "fp32" and not winograd:
        return _compiled(prepared, device) if compiled else prepared
    quick = copy.deepcopy(prepared)  # the caller's stays as it is
    if precision != "fp32":
        _halve(quick, PRECISIONS[precision])
    if winograd:
        for part in (quick.fpn, quick.head, quick.protonet):
            if part is not None:
                with_winograd(part)
    return _compiled(quick, device) if compiled else quick


def _halve(prepared: SAIS, dtype: torch.dtype) -> None:
    """Weights in half the bytes; images are normalized, and distances scaled, in fp32 all the same."""
    head = cast(FusedHead, prepared.head)
    kept = prepared.mean, prepared.std, head.scales
    prepared.to(dtype)
    prepared.mean, prepared.std, head.scales = kept


def _compiled(prepared: SAIS, device: str) -> SAIS:
    names = [os.environ.get("CXX"), "g++", "c++", "clang++", "cl"]
    if device == "cpu" and not any(name and shutil.which(name) for name in names):
        raise SaisError("torch.compile needs a C++ compiler on a CPU, and there is none; install g++, or leave it out")
    if device == "cuda" and importlib.util.find_spec("triton") is None:
        raise SaisError("torch.compile needs Triton on this GPU, and it is not installed; leave --compiled out")
    return cast(SAIS, torch.compile(prepared))
