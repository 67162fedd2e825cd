"""ONNX Runtime: runs an exported `.onnx` file without torch. Needs the extra `onnx`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np

from sais.errors import CheckpointError, ConfigError, MissingDependencyError, ResourceError
from sais.inference.metadata import metadata_from_text
from sais.inference.options import InferenceOptions

PROVIDERS = {
    "auto": "CPUExecutionProvider",
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
}
"""Device -> execution provider; cuda needs the package onnxruntime-gpu."""

_passive_threads: ContextVar[bool] = ContextVar("passive_threads", default=False)


@contextlib.contextmanager
def passive_threads() -> Iterator[None]:
    """Let the threads of sessions that are opened in the block sleep while they wait, for a process that has others.

    By default they wait actively, which costs processor time that the other threads and processes need.
    """
    token = _passive_threads.set(True)
    try:
        yield
    finally:
        _passive_threads.reset(token)


class OnnxRuntimeSession:
    """An exported `.onnx` file, opened by ONNX Runtime.

    Args:
        path: path of the file.
        options: inference options; of them device, precision (fp32 only) and threads are used.

    Raises:
        CheckpointError: the file cannot be opened or was not exported by sais.
        ConfigError: another precision than the file's.
        MissingDependencyError: ONNX Runtime is not installed.
        ResourceError: ONNX Runtime lacks the device.
    """

    def __init__(self, path: Path, options: InferenceOptions) -> None:
        if options.precision != "fp32":
            raise ConfigError(
                f"{path}: precision {options.precision} is not available, an .onnx file has the precision it was "
                "exported with. Export it with that precision, or to OpenVINO."
            )
        try:
            import onnxruntime
        except ImportError:
            raise MissingDependencyError(
                f'{path}: this model needs ONNX Runtime. Run: pip install "sais-seg[onnx]"', "onnxruntime", "onnx"
            ) from None
        provider = PROVIDERS.get(options.device)
        if provider not in onnxruntime.get_available_providers():
            raise ResourceError(f"device {options.device}: not available in the installed ONNX Runtime. Use cpu.")
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = options.threads
        if _passive_threads.get():
            settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        settings.log_severity_level = 3  # errors only; warnings (a node left on the CPU) need no action by the user
        try:
            self._session = onnxruntime.InferenceSession(str(path), settings, providers=[provider])
        except Exception as error:  # its exceptions have no common base class
            reason = str(error).splitlines()[0]
            raise CheckpointError(f"{path}: ONNX Runtime cannot open it ({reason}). Export it again.") from error
        self.metadata = metadata_from_text(self._session.get_modelmeta().custom_metadata_map, str(path))
        self._inputs = [node.name for node in self._session.get_inputs()]
        self._outputs = [node.name for node in self._session.get_outputs()]

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the graph's outputs (B, ...) by name for inputs (B, ...) by name."""
        feed: Any = {name: inputs[name] for name in self._inputs}
        return dict(zip(self._outputs, self._session.run(None, feed), strict=True))
