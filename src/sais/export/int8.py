"""INT8 after training: weights and maps in eight bits, their ranges taken from the user's own pictures.

ONNX Runtime's static quantisation writes QuantizeLinear / DequantizeLinear pairs around the convolutions, which ONNX
Runtime, OpenVINO and TensorRT read. Left in fp32 are

- the first convolutions, before the map is a quarter of the picture: few weights, on which all else depends (in eight
  bits they cost 6 mask AP of a lite model, `docs/log.md`);
- the last ones of the head and the ProtoNet: a distance is an exponential, and a mask's border lies where a sum of
  prototypes is near zero.

Weights take seven of their eight bits: processors with AVX2 but without VNNI add products in 16 bits, which overflow.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sais.export.onnx import save_whole
from sais.images import canvases, read_picture
from sais.runtimes.metadata import GraphMetadata
from sais.structures import MASK_STRIDE, SaisError

STRIDED = ("Conv", "MaxPool", "AveragePool")


def quantise(
    source: Path,
    metadata: GraphMetadata,
    pictures: Sequence[Path],
    path: Path,
    progress: Callable[[int], None] = lambda pictures: None,
) -> None:
    """Write the INT8 version of an `.onnx` file.

    Args:
        source: fp32, as `write_onnx` wrote it.
        metadata: of the file to write.
        pictures: to take the ranges from; some dozens of the kind that the model will see.
        path: where to.
        progress: called with the number of pictures read since the last call.

    Raises:
        SaisError: no pictures, a package is missing, or a picture cannot be read.
    """
    if not pictures:
        raise SaisError(
            "int8 needs pictures of the kind the model will see: --calibrate FOLDER (some dozens are enough)"
        )
    try:
        import onnx
        from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process
    except ImportError as error:
        raise SaisError(f'int8 needs {error.name}: pip install "sais-seg[export]"') from None
    with tempfile.TemporaryDirectory() as folder:
        prepared, written = Path(folder) / "prepared.onnx", Path(folder) / "int8.onnx"
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        model = onnx.load(str(prepared))
        quantize_static(
            str(prepared),
            str(written),
            _Calibration(pictures, metadata, progress),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["Conv"],
            nodes_to_exclude=_first_convolutions(model) + _last_convolutions(model),
            calibrate_method=CalibrationMethod.MinMax,
            reduce_range=True,
        )
        save_whole(onnx.load(str(written)), metadata, path)


class _Calibration:
    """ONNX Runtime asks it for one batch after another."""

    def __init__(
        self, pictures: Sequence[Path], metadata: GraphMetadata, progress: Callable[[int], None] = lambda pictures: None
    ) -> None:
        self._batches = self._read(pictures, metadata)
        self._progress = progress

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next picture's inputs; None after the last."""
        found = next(self._batches, None)
        self._progress(int(found is not None))
        return found

    @staticmethod
    def _read(pictures: Sequence[Path], metadata: GraphMetadata) -> Iterator[dict[str, np.ndarray]]:
        settings = metadata.experiment.input
        for path in pictures:
            for _, placements, stacked in canvases([read_picture(path)], settings.mode, settings.size):
                inputs = {"pictures": np.ascontiguousarray(stacked.transpose(0, 3, 1, 2))}
                if metadata.graph != "raw":
                    inputs["contents"] = np.array([p.content_size for p in placements], np.float32)
                yield inputs


def _first_convolutions(model: Any) -> list[str]:
    """Names of the convolutions that read maps of more than a quarter of the picture's side."""
    shrunk: dict[str, int] = {model.graph.input[0].name: 1}  # value -> pictures pixels for one of its cells
    names = []
    for node in model.graph.node:  # in the order of computation
        before = max((shrunk[name] for name in node.input if name in shrunk), default=None)
        if before is None:
            continue
        if node.op_type == "Conv" and before < MASK_STRIDE:
            names.append(node.name)
        strides = [a.ints[0] for a in node.attribute if a.name == "strides"] if node.op_type in STRIDED else []
        shrunk.update(dict.fromkeys(node.output, before * (strides[0] if strides else 1)))
    return names


def _last_convolutions(model: Any) -> list[str]:
    """Names of the convolutions that no other convolution follows."""
    readers: dict[str, list[Any]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    followed: dict[int, bool] = {}

    def leads_to_convolution(node: Any) -> bool:
        if id(node) not in followed:
            after = [reader for output in node.output for reader in readers.get(output, [])]
            followed[id(node)] = any(one.op_type == "Conv" or leads_to_convolution(one) for one in after)
        return followed[id(node)]

    for node in reversed(model.graph.node):  # from the end, so that the recursion stays flat
        leads_to_convolution(node)
    return [node.name for node in model.graph.node if node.op_type == "Conv" and not leads_to_convolution(node)]
