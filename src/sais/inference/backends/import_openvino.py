"""Import of OpenVINO without its telemetry: importing it would send an event to its vendor over the network."""

from __future__ import annotations

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
