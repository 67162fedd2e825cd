"""Copies of batches to a GPU by a second stream, one batch ahead: the copy overlaps with the step before."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from sais.data.loader import LoadedBatch
from sais.ops.transfers import move_batch, side_stream
from sais.structures import Batch


def copied_ahead(batches: Iterator[LoadedBatch], device: torch.device) -> Iterator[LoadedBatch]:
    """Yield batches on a CUDA device; the copy of the next one has then been started.

    The next batch is taken from the loader before the step of the current one. Its processes read further batches
    meanwhile, so a step waits for the loader only where the loader is slower than the steps.

    Args:
        batches: batches (B, .) in pinned memory.
        device: CUDA device.
    """
    stream = side_stream(device)
    ahead: tuple[LoadedBatch, torch.cuda.Event] | None = None
    for loaded in batches:
        with torch.cuda.stream(stream):
            copy = _start_copy(loaded, device)
            copied = stream.record_event()
        if ahead is not None:
            yield _ready(*ahead, device)
        ahead = copy, copied
    if ahead is not None:
        yield _ready(*ahead, device)


def _start_copy(loaded: LoadedBatch, device: torch.device) -> LoadedBatch:
    """Return a batch (B, .) on a device; the batch itself if memory runs out: its own step copies it then."""
    try:
        return replace(loaded, batch=loaded.batch and move_batch(loaded.batch, device))
    except RuntimeError as error:
        from sais.engine.out_of_memory import is_out_of_memory

        if not is_out_of_memory(error):
            raise
        return loaded


def _ready(loaded: LoadedBatch, copied: torch.cuda.Event, device: torch.device) -> LoadedBatch:
    """Let the current stream wait for a copy, and keep its memory until that stream has used it."""
    stream = torch.cuda.current_stream(device)
    stream.wait_event(copied)
    if loaded.batch is not None:
        _record(loaded.batch, stream)
    return loaded


def _record(batch: Batch, stream: torch.cuda.Stream) -> None:
    for tensor in (batch.images, *(part for objects in batch.ground_truths for part in objects.tensors())):
        if tensor.device.type != "cpu":
            tensor.record_stream(stream)
