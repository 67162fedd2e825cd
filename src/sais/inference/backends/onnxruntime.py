"""ONNX Runtime: an exported `.onnx` file, without torch. Needs the extra `onnx`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sais.errors import SaisError
from sais.inference.graph_metadata import from_text


class OnnxSession:
    """An `.onnx` file that `sais export` wrote, opened by ONNX Runtime.

    Args:
        path: the file.
        threads: of one pass; 0 takes all cores.
        device: "cpu", or "cuda" where onnxruntime-gpu is installed.

    Raises:
        SaisError: ONNX Runtime is not installed or lacks the device, or the file is not one of ours.
    """

    name = "ONNX Runtime"

    def __init__(self, path: Path, threads: int = 0, device: str = "cpu") -> None:
        try:
            import onnxruntime
        except ImportError:
            raise SaisError(f'{path}: reading it needs ONNX Runtime: pip install "sais-seg[onnx]"') from None
        provider = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}.get(device)
        if provider not in onnxruntime.get_available_providers():
            raise SaisError(f"--device {device}: the installed ONNX Runtime has no such device; take cpu")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3  # errors; what it warns of (a node left on the CPU) is no fault of the user's
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=[provider])
        except Exception as error:  # its errors have no common ancestor
            reason = str(error).splitlines()[0]
            raise SaisError(f"{path}: ONNX Runtime cannot open it ({reason}); export it again") from error
        self.metadata = from_text(self._session.get_modelmeta().custom_metadata_map, str(path))
        self._outputs = [output.name for output in self._session.get_outputs()]
        self._inputs = [value.name for value in self._session.get_inputs()]

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The graph's outputs by name."""
        given: Any = {name: inputs[name] for name in self._inputs}
        return dict(zip(self._outputs, self._session.run(None, given), strict=True))
