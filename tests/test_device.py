"""How threads wait: what the command sets before torch is loaded, and what it leaves alone."""

from __future__ import annotations

import subprocess
import sys

import pytest

from sais.device import WAIT_SETTINGS, check_precision, choose_workers, let_threads_sleep
from sais.errors import ConfigError


def test_let_threads_sleep_sets_the_variables_of_each_runtime() -> None:
    environment = {"PATH": "/bin"}
    assert let_threads_sleep(environment)
    assert environment == {"PATH": "/bin", **WAIT_SETTINGS}


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"])
def test_let_threads_sleep_respects_what_the_user_has_set(name: str) -> None:
    environment = {name: "ACTIVE"}
    assert not let_threads_sleep(environment)
    assert environment == {name: "ACTIVE"}


def test_command_sets_waiting_before_torch_and_a_call_from_python_does_not() -> None:
    code = (
        "import os, sys\nfrom sais.cli import main\n"
        "for name in ('OMP_WAIT_POLICY', 'GOMP_SPINCOUNT', 'KMP_BLOCKTIME'):\n    os.environ.pop(name, None)\n"
        "main(['--version'])\nbefore = 'GOMP_SPINCOUNT' in os.environ\n"
        "sys.argv = ['sais', '--version']\nmain()\n"
        "print(before, os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == f"False {WAIT_SETTINGS['GOMP_SPINCOUNT']} False", done.stderr


def test_choose_workers_follows_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    monkeypatch.setattr("sais.device.os.sched_getaffinity", lambda process: set(range(16)), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert (choose_workers(None, cpu), choose_workers(None, cuda)) == (2, 8)
    assert (choose_workers(0, cuda), choose_workers(5, cpu)) == (0, 5)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert choose_workers(None, cuda) == 3  # four cores for each process, one of them for the network


def test_check_precision_names_the_setting_and_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    cpu = torch.device("cpu")
    for precision in ("fp32", "bf16"):
        check_precision(precision, cpu)

    def unsupported(*arguments: object, **options: object) -> None:
        raise RuntimeError("BFloat16 is not supported\nmore text")

    monkeypatch.setattr(torch, "autocast", unsupported)
    with pytest.raises(ConfigError, match=r"run\.precision bf16: not available on cpu \(BFloat16 is not supported\)\."):
        check_precision("bf16", cpu)
