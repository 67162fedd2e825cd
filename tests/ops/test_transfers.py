"""Tensors that are copied to a device together."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from sais.ops.transfers import HostCopy, _is_there, copy_together
from tests.simulated_device import DEVICE, SimulatedDevice, to_host


def test_copy_together_keeps_values_shapes_and_types() -> None:
    tensors = [
        torch.tensor([True, False, True]),
        torch.arange(5, dtype=torch.uint8),
        torch.rand(3, 7)[:, ::2],  # not contiguous
        torch.arange(6).view(2, 3),
        torch.zeros(0, 4),
        torch.tensor(2.5, dtype=torch.float64),
        torch.tensor(7, dtype=torch.int64),
        torch.rand(1, 1, 3).half(),
    ]
    with SimulatedDevice() as device:
        copies = copy_together(tensors, DEVICE)
        assert device.copies_to_device == 1
        assert device.waits.total() == 0
    for copy, tensor in zip(copies, tensors, strict=True):
        assert copy.device == DEVICE
        assert copy.dtype == tensor.dtype
        assert copy.shape == tensor.shape
        assert torch.equal(to_host(copy), tensor)


def test_copy_together_returns_tensors_that_are_there() -> None:
    """Also on "cuda", the name of the current GPU, where tensors are on "cuda:0"."""
    assert _is_there(SimpleNamespace(device=torch.device("cuda:0")), torch.device("cuda"))  # type: ignore[arg-type]
    assert not _is_there(SimpleNamespace(device=torch.device("cuda:0")), torch.device("cuda:1"))  # type: ignore[arg-type]
    tensors = [torch.rand(2), torch.arange(3)]
    assert all(a is b for a, b in zip(copy_together(tensors, torch.device("cpu")), tensors, strict=True))


def test_host_copy_is_one_transfer_of_values_shapes_and_types() -> None:
    tensors = [
        torch.arange(5, dtype=torch.uint8),
        torch.rand(3, 7).t(),
        torch.arange(6).view(2, 3),
        torch.zeros(0, 4),
        torch.tensor(True),
    ]
    with SimulatedDevice() as device:
        copies = copy_together(tensors, DEVICE, overlap=True)
        copy = HostCopy([copies[0] + 1, *copies[1:]])
        assert +device.waits == {"copy to the host": 1}
        assert device.copies_to_device == 1
        returned = copy.tensors()
        assert device.waits.total() == 1
    for values, expected in zip(returned, [tensors[0] + 1, *tensors[1:]], strict=True):
        assert values.dtype == expected.dtype
        assert torch.equal(values, expected)
