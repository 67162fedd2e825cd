"""What a run needs of its device: precision and worker processes."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

import torch

from sais.engine.hardware import check_precision, choose_workers
from sais.errors import ConfigError


def test_choose_workers_follows_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    monkeypatch.setattr("sais.engine.hardware.os.sched_getaffinity", lambda process: set(range(16)), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert (choose_workers(None, cpu), choose_workers(None, cuda)) == (2, 8)
    assert (choose_workers(0, cuda), choose_workers(5, cpu)) == (0, 5)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert choose_workers(None, cuda) == 3  # four cores for each process, one of them for the network


def test_check_precision_names_the_setting_and_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    for precision in ("fp32", "bf16"):
        check_precision(precision, cpu)

    def unsupported(*arguments: object, **options: object) -> None:
        raise RuntimeError("BFloat16 is not supported\nmore text")

    monkeypatch.setattr(torch, "autocast", unsupported)
    with pytest.raises(ConfigError, match=r"run\.precision bf16: not available on cpu \(BFloat16 is not supported\)\."):
        check_precision("bf16", cpu)
