"""What a run needs of its device: precision and worker processes."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

import torch

from sais.config import Experiment
from sais.device_settings import CUBLAS_WORKSPACE
from sais.engine.auto_batch_size import find_batch_size
from sais.engine.hardware import check_precision, choose_workers
from sais.engine.trainer import train
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


def test_cublas_is_deterministic_before_its_first_use(
    tiny: Experiment, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check of the precision and the measurement of memory multiply matrices before the first step."""
    monkeypatch.delenv(CUBLAS_WORKSPACE, raising=False)
    experiment = replace(tiny, run=replace(tiny.run, deterministic=True))
    seen: list[str | None] = []

    def record(*arguments: Any) -> tuple[int, int]:
        seen.append(os.environ.get(CUBLAS_WORKSPACE))
        return 0, 1

    monkeypatch.setattr("sais.engine.hardware.check_precision", record)
    monkeypatch.setattr("sais.engine.auto_batch_size._count_memory", record)
    find_batch_size(experiment, 3, torch.device("cpu"))
    train(experiment, shapes, tmp_path / "run", random_init=True, max_iterations=1, verbose=False)
    assert seen == [":4096:8", ":4096:8"]
    assert CUBLAS_WORKSPACE not in os.environ


def test_check_precision_does_not_blame_it_for_cublas(monkeypatch: pytest.MonkeyPatch) -> None:
    def used_before(*arguments: object, **options: object) -> None:
        raise RuntimeError(f"Deterministic behavior was enabled, you must set {CUBLAS_WORKSPACE}")

    monkeypatch.setattr(torch, "autocast", used_before)
    with pytest.raises(RuntimeError, match="Deterministic behavior"):
        check_precision("bf16", torch.device("cpu"))
