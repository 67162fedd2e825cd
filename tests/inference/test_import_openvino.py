"""OpenVINO is imported without its telemetry, which would connect to its vendor's server."""

from __future__ import annotations

import importlib.util
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


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="needs OpenVINO")
def test_import_openvino_sends_nothing() -> None:
    """A plain import starts a thread that sends an event."""
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "openvino\n"
