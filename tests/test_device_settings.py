"""How torch computes on a device: set for a block, then as before."""

from __future__ import annotations

import os
from typing import Any

import pytest

pytest.importorskip("torch")

import torch

from sais.device_settings import CUBLAS_WORKSPACE, device_settings
from sais.errors import ConfigError

CPU, CUDA = torch.device("cpu"), torch.device("cuda")  # settings of CUDA can be changed on a machine without it


def state() -> dict[str, Any]:
    """Return the settings of the process."""
    return {
        "matmul": torch.get_float32_matmul_precision(),
        "tf32": torch.backends.cudnn.allow_tf32,
        "benchmark": torch.backends.cudnn.benchmark,
        "cudnn": torch.backends.cudnn.deterministic,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warn_only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "fill": torch.utils.deterministic.fill_uninitialized_memory,
        "cublas": os.environ.get(CUBLAS_WORKSPACE),
    }


@pytest.fixture
def before(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.delenv(CUBLAS_WORKSPACE, raising=False)
    return state()


def test_device_settings_say_what_fp32_means_on_cuda(before: dict[str, Any]) -> None:
    with device_settings(CUDA):
        assert state() == before | {"matmul": "highest", "tf32": False, "benchmark": False}
    assert state() == before
    with device_settings(CUDA, tf32=True, fixed_shapes=True):
        assert state() == before | {"matmul": "high", "tf32": True, "benchmark": True}
        with device_settings(CUDA):
            assert state()["tf32"] is False
        assert state()["tf32"] is True
    assert state() == before


def test_device_settings_leave_a_cpu_as_it_is(before: dict[str, Any]) -> None:
    with device_settings(CPU, tf32=True, fixed_shapes=True):
        assert state() == before


@pytest.mark.parametrize("device", [CPU, CUDA])
def test_device_settings_are_deterministic_for_the_block_only(device: torch.device, before: dict[str, Any]) -> None:
    expected = {"cudnn": True, "deterministic": True, "warn_only": False, "fill": False, "cublas": ":4096:8"}
    with device_settings(device, fixed_shapes=True, deterministic=True):
        assert {name: state()[name] for name in expected} == expected
        assert torch.backends.cudnn.benchmark is False  # timing would choose another algorithm in each run
    assert state() == before
    with pytest.raises(ZeroDivisionError), device_settings(device, deterministic=True):
        raise ZeroDivisionError
    assert state() == before


def test_device_settings_keep_what_the_process_has_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CUBLAS_WORKSPACE, ":16:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        chosen = state()
        with device_settings(CUDA, deterministic=True):
            assert state()["warn_only"] is False
            assert state()["cublas"] == ":16:8"
        assert state() == chosen
    finally:
        torch.use_deterministic_algorithms(False)


def test_device_settings_name_the_operation_without_a_deterministic_algorithm(before: dict[str, Any]) -> None:
    """`put_` is such an operation on a CPU too."""
    values = torch.zeros(3)
    with (
        pytest.raises(ConfigError, match=r"deterministic: put_ has no deterministic version on cpu\. Turn") as caught,
        device_settings(CPU, deterministic=True),
    ):
        values.put_(torch.tensor([0]), torch.tensor([1.0]))
    assert "\n" not in str(caught.value)
    assert state() == before
    with pytest.raises(RuntimeError, match="another"), device_settings(CPU, deterministic=True):
        raise RuntimeError("another error")
