"""Batches copied one step ahead by a second stream: their order, and what waits for what. CUDA is recorded only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

import sais.engine.prefetch as prefetch
from sais.data.loader import LoadedBatch
from sais.structures import Batch

CUDA = torch.device("cuda")


class Recorder:
    """Streams, events and copies of a GPU that only records them."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.current = "main"
        self.events = 0

    @contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        self.current = "side"
        yield
        self.current = "main"

    def record_event(self) -> int:
        self.events += 1
        return self.events

    def wait_event(self, event: int) -> None:
        self.calls.append(f"{self.current} waits for {event}")

    def move_batch(self, batch: Batch, device: torch.device) -> Batch:
        self.calls.append(f"{self.current} copies {batch.image_ids[0]}")
        return Batch(batch.images, [], batch.image_ids, [])


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr(prefetch, "side_stream", lambda device: recorder)
    monkeypatch.setattr(torch.cuda, "stream", recorder.stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: recorder)
    monkeypatch.setattr(prefetch, "move_batch", recorder.move_batch)
    return recorder


@pytest.fixture
def keeping(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Record which batches' memory is kept."""
    monkeypatch.setattr(prefetch, "_record", lambda batch, stream: recorder.calls.append(f"keeps {batch.image_ids[0]}"))


@pytest.mark.usefixtures("keeping")
def test_copied_ahead_copies_the_next_batch_before_a_step_and_waits_for_its_own(recorder: Recorder) -> None:
    def loaded() -> Iterator[LoadedBatch]:
        yield LoadedBatch(Batch(torch.zeros(1), [], [1], []))
        yield LoadedBatch(None, ["an unreadable image"])
        yield LoadedBatch(Batch(torch.zeros(1), [], [3], []))

    steps = []
    for batch in prefetch.copied_ahead(loaded(), CUDA):
        recorder.calls.append("step")
        steps.append((batch.batch and batch.batch.image_ids, batch.unreadable_images))
    assert steps == [([1], []), (None, ["an unreadable image"]), ([3], [])]
    assert recorder.calls == [
        *("side copies 1", "main waits for 1", "keeps 1", "step"),
        *("side copies 3", "main waits for 2", "step"),
        *("main waits for 3", "keeps 3", "step"),
    ]


def test_copied_ahead_raises_what_the_loader_raises_before_the_step(recorder: Recorder) -> None:
    """The batch that was copied is loaded again: the run counts the steps, not the copies."""

    def loaded() -> Iterator[LoadedBatch]:
        yield LoadedBatch(Batch(torch.zeros(1), [], [1], []))
        raise RuntimeError("DataLoader worker (pid 7) is killed")

    with pytest.raises(RuntimeError, match="worker"):
        next(prefetch.copied_ahead(loaded(), CUDA))
    assert list(prefetch.copied_ahead(iter(()), CUDA)) == []


def test_copied_ahead_leaves_a_batch_to_its_step_where_memory_runs_out(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step then has the memory of the step before, or ends with the remedies for too little memory."""
    errors = [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("CUDA error: an illegal memory access")]

    def move(batch: Batch, device: torch.device) -> Batch:
        raise errors[batch.image_ids[0]]

    monkeypatch.setattr(prefetch, "move_batch", move)
    batches = [LoadedBatch(Batch(torch.zeros(1), [], [number], [])) for number in (0, 1)]
    assert list(prefetch.copied_ahead(iter(batches[:1]), CUDA)) == batches[:1]
    with pytest.raises(RuntimeError, match="illegal memory access"):
        list(prefetch.copied_ahead(iter(batches[1:]), CUDA))


def test_all_epochs_copy_by_one_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch keeps the freed memory of a stream for this stream: that of each further one would be lost."""
    created: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "Stream", created.append)
    prefetch.side_stream.cache_clear()
    for _ in range(3):
        assert list(prefetch.copied_ahead(iter(()), CUDA)) == []
    prefetch.side_stream.cache_clear()
    assert created == [CUDA]
