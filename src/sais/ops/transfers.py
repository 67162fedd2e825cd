"""Copies between host memory and a device.

Many tensors are copied at once: starting a copy takes longer than its bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

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


def copy_together(tensors: Sequence[Tensor], device: torch.device, overlap: bool = False) -> list[Tensor]:
    """Copy tensors to a device in one transfer, for which the host does not wait where they are in its memory.

    Args:
        tensors: tensors of any shape and type, all on one device.
        device: device to copy to. Where it is that of all tensors, they are returned themselves.
        overlap: whether the copy may run while the device computes what it was given before, on a CUDA device.

    Returns:
        The tensors on the device, as parts of one block of memory.
    """
    if all(_is_there(tensor, device) for tensor in tensors):
        return list(tensors)
    parts = [part.contiguous().view(-1).view(torch.uint8) for part in _largest_items_first(tensors)]
    if parts[0].device.type != "cpu":
        return _split(torch.cat(parts).to(device), _forms(tensors))
    # A copy from ordinary memory would wait for the work that the device has been given.
    block = torch.empty(sum(map(len, parts)), dtype=torch.uint8, pin_memory=device.type == "cuda")
    torch.cat(parts, out=block)
    if overlap and device.type == "cuda":
        return _split(_copy_on_side_stream(block, device), _forms(tensors))
    return _split(block.to(device, non_blocking=copies_overlap(device)), _forms(tensors))


class HostCopy:
    """A copy of tensors of a device in host memory, in one transfer; a CUDA device makes it while the host goes on.

    Args:
        tensors: tensors of any shape and type, on one device.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        block = torch.cat([part.contiguous().view(-1).view(torch.uint8) for part in _largest_items_first(tensors)])
        self._forms = _forms(tensors)
        self._done: torch.cuda.Event | None = None
        if block.device.type == "cuda":
            self._block = torch.empty(len(block), dtype=torch.uint8, pin_memory=True)
            self._block.copy_(block, non_blocking=copies_overlap(block.device))
            self._done = torch.cuda.Event()
            self._done.record(torch.cuda.current_stream(block.device))
        else:
            self._block = block.cpu()

    def tensors(self) -> list[Tensor]:
        """Wait for the copy and return the tensors, of the same shape, as parts of one block of host memory."""
        if self._done is not None:
            self._done.synchronize()
        return _split(self._block, self._forms)


def _largest_items_first(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return the tensors in an order in which each starts at a multiple of its item size."""
    return sorted(tensors, key=lambda tensor: -tensor.element_size())


def _forms(tensors: Sequence[Tensor]) -> list[tuple[torch.dtype, torch.Size]]:
    return [(tensor.dtype, tensor.shape) for tensor in tensors]


def _split(block: Tensor, forms: Sequence[tuple[torch.dtype, torch.Size]]) -> list[Tensor]:
    """Return the parts of a block (n,) uint8 as tensors of these types and shapes."""
    order = sorted(range(len(forms)), key=lambda i: -forms[i][0].itemsize)
    sizes = [forms[i][1].numel() * forms[i][0].itemsize for i in order]
    parts = dict(zip(order, block.split(sizes), strict=True))
    return [parts[i].view(dtype).view(shape) for i, (dtype, shape) in enumerate(forms)]


def _copy_on_side_stream(block: Tensor, device: torch.device) -> Tensor:
    """Copy pinned memory while the device computes; what it is given from now on waits for the copy."""
    stream = side_stream(device)
    with torch.cuda.stream(stream):
        copy = block.to(device, non_blocking=copies_overlap(device))
    current = torch.cuda.current_stream(device)
    current.wait_stream(stream)
    copy.record_stream(current)  # its memory is not used again before `current` has finished with it
    return copy


@lru_cache(maxsize=16)
def side_stream(device: torch.device) -> torch.cuda.Stream:
    """Return the stream of the copies to a CUDA device: one, as the memory of a stream is kept for this stream."""
    return torch.cuda.Stream(device)


def _is_there(tensor: Tensor, device: torch.device) -> bool:
    """Return whether a tensor of any shape is on a device; "cuda" is any GPU, as it is that of `Tensor.to`."""
    return tensor.device.type == device.type and device.index in (None, tensor.device.index)
