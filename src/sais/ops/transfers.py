"""Copies from host memory to a device. Many tensors are copied at once: starting a copy takes longer than its bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from sais.structures import Batch, GroundTruth, copies_overlap


def move_batch(batch: Batch, device: torch.device) -> Batch:
    """Return a copy of a batch (B, .) on a device, which keeps the objects in host memory as well.

    The images are copied in one transfer, all objects of all images in another.
    """
    images = batch.images.to(device, non_blocking=copies_overlap(device))
    return replace(batch, images=images, ground_truths=move_ground_truths(batch.ground_truths, device))


def move_ground_truths(ground_truths: Sequence[GroundTruth], device: torch.device) -> list[GroundTruth]:
    """Return copies of the objects of B images on a device, each with its `GroundTruth.host`; one transfer for all."""
    copies = iter(copy_together([tensor for objects in ground_truths for tensor in objects.tensors()], device))
    moved = [GroundTruth(next(copies), next(copies), next(copies), next(copies)) for _ in ground_truths]
    for copy, objects in zip(moved, ground_truths, strict=True):
        copy.host = None if copy.boxes.device.type == "cpu" else objects.on_host()
    return moved


def copy_together(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Copy tensors of host memory to a device in one transfer, for which the host does not wait.

    Args:
        tensors: tensors of any shape and type.
        device: device to copy to. Where it is that of a tensor, the tensor itself is returned.

    Returns:
        The tensors on the device, as parts of one block of memory.
    """
    if all(tensor.device == device for tensor in tensors):
        return list(tensors)
    # Larger items first: each part then starts at a multiple of its item size.
    order = sorted(range(len(tensors)), key=lambda i: -tensors[i].element_size())
    parts = [tensors[i].contiguous().view(-1).view(torch.uint8) for i in order]
    block = torch.cat(parts)
    if device.type == "cuda":  # a copy from ordinary memory would wait for the work that the device has been given
        block = block.pin_memory()
    block = block.to(device, non_blocking=copies_overlap(device))
    copies = dict(zip(order, block.split([len(part) for part in parts]), strict=True))
    return [copies[i].view(tensor.dtype).view(tensor.shape) for i, tensor in enumerate(tensors)]
