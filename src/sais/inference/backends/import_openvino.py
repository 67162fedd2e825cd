"""Import of OpenVINO without its telemetry, which would send an event to its vendor, and its core for this process."""

from __future__ import annotations

import functools
import importlib
import sys
from typing import Any

_TELEMETRY = "openvino_telemetry"
"""A package that OpenVINO replaces by functions that do nothing where it is not installed."""


def import_openvino() -> Any:
    """Import OpenVINO and return it.

    Where a program has imported OpenVINO before, nothing changes; nor does a program's own use of the telemetry.

    Raises:
        ImportError: OpenVINO is not installed.
    """
    hidden = _TELEMETRY not in sys.modules
    if hidden:
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
    try:
        return importlib.import_module("openvino")
    finally:
        if hidden:
            sys.modules.pop(_TELEMETRY, None)


@functools.cache
def openvino_core() -> Any:
    """Return the one core of OpenVINO of this process, which lives as long as the process.

    The CPU plugin of each core registers a signal stack in the thread that compiles its first graph, and unmaps it at
    its end, although another core may register it again later (OpenVINO 2026.4, CPUs with AVX-512). The next handled
    signal, such as SIGCHLD of a data loader's process, would then end this process.

    Raises:
        ImportError: OpenVINO is not installed.
    """
    return import_openvino().Core()
