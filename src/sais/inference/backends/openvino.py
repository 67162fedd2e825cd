"""OpenVINO: an exported `.xml` with its `.bin`, or an `.onnx` file, without torch. Needs the extra `openvino`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sais.errors import SaisError
from sais.inference.graph_metadata import from_text


class OpenVinoSession:
    """A graph that `sais export` wrote, compiled by OpenVINO.

    Args:
        path: the `.xml` (its `.bin` beside it) or an `.onnx` file.
        threads: of one pass; 0 takes all cores.
        device: "cpu", "gpu", ... as OpenVINO names them.
        precision: "fp32" computes as training did; "bf16" is faster where the processor has it, and less exact
            (OpenVINO takes it by itself there: here it is never taken unasked).

    Raises:
        SaisError: OpenVINO is not installed or lacks the device, or the file is not one of ours.
    """

    name = "OpenVINO"

    def __init__(self, path: Path, threads: int = 0, device: str = "cpu", precision: str = "fp32") -> None:
        try:
            import openvino
        except ImportError:
            raise SaisError(f'{path}: reading it needs OpenVINO: pip install "sais-seg[openvino]"') from None
        core: Any = openvino.Core()
        names = {"fp32": "f32", "bf16": "bf16"}
        if precision not in names:
            raise SaisError(f"precision {precision!r}: OpenVINO has fp32 and bf16 here")
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": names[precision], "PERFORMANCE_HINT": "LATENCY"}
        if threads:
            settings["INFERENCE_NUM_THREADS"] = threads
        try:
            model = core.read_model(str(path))
        except Exception as error:  # its errors are plain RuntimeErrors of many kinds
            raise SaisError(f"{path}: OpenVINO cannot open it ({_first_line(error)}); export it again") from error
        self.metadata = from_text(_metadata(model), str(path))
        try:
            self._compiled: Any = core.compile_model(model, device.upper(), settings)
        except Exception as error:
            raise SaisError(f"{path}: OpenVINO cannot run it on {device} ({_first_line(error)}); take cpu") from error
        self._inputs = [port.get_any_name() for port in self._compiled.inputs]
        self._outputs = [port.get_any_name() for port in self._compiled.outputs]

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The graph's outputs by name."""
        found = self._compiled([inputs[name] for name in self._inputs])
        return {name: np.array(found[i]) for i, name in enumerate(self._outputs)}


def _metadata(model: Any) -> dict[str, str]:
    """Of a graph of ours, wherever it lies: at the top in an .xml, under "framework" when read from ONNX."""
    for path in (["sais"], ["framework"]):
        if model.has_rt_info(path):
            group = model.get_rt_info(path)
            found = group.astype(dict) if hasattr(group, "astype") else dict(group)
            return {str(key): str(value.value if hasattr(value, "value") else value) for key, value in found.items()}
    return {}


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
