"""OpenVINO: runs an exported `.xml` with its `.bin`, or an `.onnx` file, without torch. Needs the extra `openvino`."""

from __future__ import annotations

import contextlib
import queue
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sais.errors import CheckpointError, ConfigError, MissingDependencyError, ResourceError
from sais.inference.backends.import_openvino import openvino_core
from sais.inference.metadata import metadata_from_text
from sais.inference.options import InferenceOptions

PRECISIONS = {"fp32": "f32", "bf16": "bf16"}
"""Our name -> OpenVINO's. OpenVINO would choose bf16 by itself where the processor has it; here it is an option."""
MIN_REQUESTS = 2
"""Minimum size of the pool of infer requests: while one computes, another thread's inputs and outputs are copied."""


class OpenVinoSession:
    """An exported graph, compiled by OpenVINO. Threads may share it.

    An infer request holds the inputs and outputs of one call, and OpenVINO's compiled graph has one of its own, so that
    a second thread would overwrite the results of the first. Here each call has a request of a pool for itself.

    Args:
        path: path of the `.xml` (its `.bin` next to it) or of an `.onnx` file.
        options: inference options; of them device (cpu, gpu, ... as OpenVINO names them), precision (fp32, bf16) and
            threads are used.

    Raises:
        CheckpointError: the file cannot be opened or was not exported by sais.
        ConfigError: a precision that OpenVINO does not have here.
        MissingDependencyError: OpenVINO is not installed.
        ResourceError: OpenVINO lacks the device.
    """

    def __init__(self, path: Path, options: InferenceOptions) -> None:
        try:
            core = openvino_core()
        except ImportError:
            raise MissingDependencyError(
                f'{path}: this model needs OpenVINO. Run: pip install "sais-seg[openvino]"', "openvino", "openvino"
            ) from None
        if options.precision not in PRECISIONS:
            raise ConfigError(
                f"precision {options.precision}: OpenVINO has {' and '.join(PRECISIONS)}. Use one of them."
            )
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": PRECISIONS[options.precision],
            "PERFORMANCE_HINT": "LATENCY",
        }
        if options.threads:
            settings["INFERENCE_NUM_THREADS"] = options.threads
        device = "cpu" if options.device == "auto" else options.device
        try:
            model = core.read_model(str(path))
        except Exception as error:  # its errors are plain RuntimeErrors of many kinds
            reason = _last_line(error)
            raise CheckpointError(f"{path}: OpenVINO cannot open it ({reason}). Export it again.") from error
        self.metadata = metadata_from_text(_metadata(model), str(path))
        try:
            self._compiled: Any = core.compile_model(model, device.upper(), settings)
        except Exception as error:
            raise ResourceError(
                f"{path}: OpenVINO cannot run it on {device} ({_last_line(error)}). Use cpu."
            ) from error
        self._inputs = [port.get_any_name() for port in self._compiled.inputs]
        self._outputs = [port.get_any_name() for port in self._compiled.outputs]
        self._requests = _Pool(self._compiled.create_infer_request, _pool_size(self._compiled))

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the graph's outputs (B, ...) by name for inputs (B, ...) by name.

        May be called by several threads at once; each call has its own outputs.
        """
        with self._requests.borrow() as request:
            # The outputs are copies, so that the next call with this request cannot change them. OpenVINO checks shared
            # inputs; of copied ones it cuts surplus channels without an error.
            results = request.infer([inputs[name] for name in self._inputs], share_inputs=True, share_outputs=False)
        return {name: results[i] for i, name in enumerate(self._outputs)}


class _Pool:
    """Objects that are created on demand, up to a maximum number, and used by one thread at a time.

    Args:
        create: function that creates an object.
        size: maximum number of objects.
    """

    def __init__(self, create: Callable[[], Any], size: int) -> None:
        self._create = create
        self._idle: queue.LifoQueue[Any] = queue.LifoQueue()  # the last one used first: a single thread needs only one
        for _ in range(size):
            self._idle.put(None)  # not created yet

    @contextlib.contextmanager
    def borrow(self) -> Iterator[Any]:
        """Yield an object that no other thread has; waits until one is returned if all are in use."""
        item = self._idle.get()
        try:
            if item is None:
                item = self._create()
            yield item
        finally:
            self._idle.put(item)


def _pool_size(compiled: Any) -> int:
    """Return the number of infer requests that OpenVINO runs at once on the device, at least `MIN_REQUESTS`.

    More would wait for each other inside OpenVINO and need memory for their inputs and outputs.
    """
    return max(MIN_REQUESTS, int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")))


def _metadata(model: Any) -> dict[str, str]:
    """Return the entries of `GraphMetadata`: at the top level of an .xml, under "framework" if read from ONNX."""
    for path in (["sais"], ["framework"]):
        if model.has_rt_info(path):
            group = model.get_rt_info(path)
            entries = group.astype(dict) if hasattr(group, "astype") else dict(group)
            return {str(key): str(value.value if hasattr(value, "value") else value) for key, value in entries.items()}
    return {}


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
