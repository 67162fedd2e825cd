"""OpenVINO is imported without its telemetry, and its cores leave no freed signal stack behind."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest

CODE = """
import sys, threading
from sais.inference.backends.import_openvino import import_openvino

openvino = import_openvino()
openvino.Core()
openvino.convert_model
assert threading.active_count() == 1, threading.enumerate()
assert "openvino_telemetry" not in sys.modules
print(openvino.__name__)
"""
SIGNALS = """
import gc, signal
import numpy as np
from sais.inference.backends.import_openvino import import_openvino, openvino_core

openvino = import_openvino()
from openvino import opset13 as ops

def compiled():
    images = ops.parameter([1, 4], np.float32, name="images")
    model = openvino.Model([ops.result(ops.relu(images))], [images], "relu")
    return openvino_core().compile_model(model, "CPU")

first, second = compiled(), compiled()
received = []
signal.signal(signal.SIGUSR1, lambda *_: received.append(1))
del first
gc.collect()
signal.raise_signal(signal.SIGUSR1)
del second
gc.collect()
signal.raise_signal(signal.SIGUSR1)
print(len(received))
"""
pytestmark = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="needs OpenVINO")


def run(code: str) -> str:
    """Run code in a new interpreter and return what it printed."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, (done.returncode, done.stderr)
    return done.stdout


def test_import_openvino_sends_nothing() -> None:
    """A plain import starts a thread that sends an event."""
    assert run(CODE) == "openvino\n"


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such signals")
def test_signals_arrive_after_graphs_were_closed_in_any_order() -> None:
    """With a core for each graph, the process ended with SIGSEGV on CPUs with AVX-512."""
    assert run(SIGNALS) == "2\n"
