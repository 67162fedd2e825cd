"""How torch computes on a device: set for a block, then as before."""

from __future__ import annotations

import os
from collections.abc import Iterator
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


def precisions() -> dict[str, str]:
    """Return the settings that torch 2.9 introduced."""
    backends: Any = torch.backends
    modules = {"matmul": backends.cuda.matmul, "convolution": backends.cudnn.conv, "rnn": backends.cudnn.rnn}
    modules |= {"mkldnn": backends.mkldnn.matmul, "all": backends}
    return {name: module.fp32_precision for name, module in modules.items()}


@pytest.fixture
def tf32_by_new_settings() -> Iterator[Any]:
    """Yield a function that sets a precision as in torch 2.9: of all operations, matrix products or convolutions."""
    backends: Any = torch.backends
    if not hasattr(backends.cudnn, "conv"):
        pytest.skip("torch before 2.9")
    modules = {"all": backends, "matmul": backends.cuda.matmul, "convolution": backends.cudnn.conv}
    before = precisions()
    yield lambda name, value: setattr(modules[name], "fp32_precision", value)
    backends.fp32_precision = "none"
    torch.set_float32_matmul_precision("highest")
    backends.cudnn.allow_tf32 = True
    backends.cuda.matmul.fp32_precision = before["matmul"]  # "ieee" after a test that set the precision
    backends.mkldnn.matmul.fp32_precision = before["mkldnn"]
    assert precisions() == before


@pytest.mark.parametrize(("name", "value"), [("all", "tf32"), ("matmul", "tf32"), ("convolution", "ieee")])
@pytest.mark.parametrize("tf32", [False, True])
def test_device_settings_work_after_the_new_settings_of_torch(
    name: str, value: str, tf32: bool, tf32_by_new_settings: Any
) -> None:
    tf32_by_new_settings(name, value)
    before, expected = precisions(), "tf32" if tf32 else "ieee"
    with device_settings(CUDA, tf32=tf32):
        assert {precisions()[kind] for kind in ("matmul", "convolution", "rnn")} == {expected}
        assert torch.get_float32_matmul_precision() == ("high" if tf32 else "highest")  # read by torch.compile
        assert torch.backends.cudnn.allow_tf32 is tf32
    assert precisions() == before


def test_device_settings_leave_inherited_precisions_inherited(tf32_by_new_settings: Any) -> None:
    tf32_by_new_settings("all", "tf32")
    with device_settings(CUDA):
        pass
    tf32_by_new_settings("all", "ieee")
    assert precisions()["matmul"] == "ieee"


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
    with (
        pytest.raises(
            ConfigError, match=f"used cuda before without {CUBLAS_WORKSPACE}. Set this environment variable to"
        ),
        device_settings(CUDA, deterministic=True),
    ):
        raise RuntimeError(f"Deterministic behavior was enabled, you must set {CUBLAS_WORKSPACE}=:4096:8")  # as torch
    with pytest.raises(RuntimeError, match="another"), device_settings(CPU, deterministic=True):
        raise RuntimeError("another error")
