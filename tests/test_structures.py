"""Copies of batches to a device: asynchronous only where the source is not read after it may have been freed."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch")

import torch

from sais.ops.transfers import move_batch
from sais.structures import Batch, GroundTruth, copies_overlap


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """Record the device and `non_blocking` of each `Tensor.to`, which copies nothing."""
    calls: list[tuple[str, bool]] = []

    def record(tensor: Any, device: Any = None, *arguments: Any, non_blocking: bool = False, **options: Any) -> Any:
        calls.append((str(device), non_blocking))
        return tensor

    monkeypatch.setattr(torch.Tensor, "to", record)
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *size, pin_memory=False, **options: empty(*size, **options))
    return calls


@pytest.mark.parametrize(("device", "overlap"), [("cuda:0", True), ("mps", False), ("xpu", False), ("cpu", False)])
def test_move_batch_copies_without_waiting_only_to_cuda(
    copies: list[tuple[str, bool]], device: str, overlap: bool
) -> None:
    objects = GroundTruth(torch.zeros(1, 4), torch.zeros(1), torch.zeros(1, 4), torch.zeros(1))
    move_batch(Batch(torch.zeros(1, 3, 8, 8), [objects], [1], []), torch.device(device))
    assert copies == [(device, overlap)] * (1 if device == "cpu" else 2)  # the images, all objects together
    assert copies_overlap(torch.device(device)) is overlap


@pytest.mark.parametrize(("device", "overlap"), [("cuda", True), ("mps", False), ("cpu", False)])
def test_torch_backend_copies_without_waiting_only_to_cuda(
    copies: list[tuple[str, bool]], device: str, overlap: bool
) -> None:
    from sais.inference.backends.torch import TorchBackend

    backend = object.__new__(TorchBackend)
    backend.device = torch.device(device)
    backend._to_device(torch.zeros(1, 3, 8, 8))
    assert copies == [(device, overlap)]


def test_no_source_file_copies_without_waiting_to_every_device(root: Any) -> None:
    """`non_blocking=True` reads freed memory on MPS."""
    files = [path for path in (root / "src").rglob("*.py") if "non_blocking=True" in path.read_text(encoding="utf-8")]
    assert not files
