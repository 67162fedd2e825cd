"""How threads wait: what the command sets before torch is loaded, and what it leaves alone."""

from __future__ import annotations

import subprocess
import sys

import pytest

from sais.commands.threads import WAIT_SETTINGS, let_threads_sleep


def test_let_threads_sleep_sets_the_wait_policy_only() -> None:
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
        "main(['--version'])\nbefore = 'OMP_WAIT_POLICY' in os.environ\n"
        "sys.argv = ['sais', '--version']\nmain()\n"
        "print(before, os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == f"False {WAIT_SETTINGS['OMP_WAIT_POLICY']} False", done.stderr
