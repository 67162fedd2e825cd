"""INT8 after training: weights and maps in eight bits, their ranges taken from the user's own images.

ONNX Runtime's static quantization writes QuantizeLinear / DequantizeLinear pairs around the convolutions, which ONNX
Runtime, OpenVINO and TensorRT read. Left in fp32 are

- the first convolutions, before the map is a quarter of the image: few weights, on which all else depends (in eight
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

from sais.errors import SaisError
from sais.export.onnx import save_whole
from sais.inference.metadata import GraphMetadata
from sais.io.images import read_image
from sais.ops.letterbox import group_by_canvas
from sais.structures import MASK_STRIDE

STRIDED = ("Conv", "MaxPool", "AveragePool")


def quantize(
    source: Path,
    metadata: GraphMetadata,
    images: Sequence[Path],
    path: Path,
    progress: Callable[[int], None] = lambda images: None,
) -> None:
    """Write the INT8 version of an `.onnx` file.

    Args:
        source: fp32, as `write_onnx` wrote it.
        metadata: of the file to write.
        images: to take the ranges from; some dozens of the kind that the model will see.
        path: where to.
        progress: called with the number of images read since the last call.

    Raises:
        SaisError: no images, a package is missing, or an image cannot be read.
    """
    if not images:
        raise SaisError("int8 needs images of the kind the model will see: --calibrate FOLDER (some dozens are enough)")
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
            _Calibration(images, metadata, progress),
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
        self, images: Sequence[Path], metadata: GraphMetadata, progress: Callable[[int], None] = lambda images: None
    ) -> None:
        self._batches = self._read(images, metadata)
        self._progress = progress

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next image's inputs; None after the last."""
        found = next(self._batches, None)
        self._progress(int(found is not None))
        return found

    @staticmethod
    def _read(images: Sequence[Path], metadata: GraphMetadata) -> Iterator[dict[str, np.ndarray]]:
        settings = metadata.experiment.input
        for path in images:
            for _, canvas_maps, stacked in group_by_canvas([read_image(path)], settings.mode, settings.size):
                inputs = {"images": np.ascontiguousarray(stacked.transpose(0, 3, 1, 2))}
                if metadata.graph != "raw":
                    inputs["contents"] = np.array([p.content_size for p in canvas_maps], np.float32)
                yield inputs


def _first_convolutions(model: Any) -> list[str]:
    """Names of the convolutions that read maps of more than a quarter of the image's side."""
    shrunk: dict[str, int] = {model.graph.input[0].name: 1}  # value -> images pixels for one of its cells
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
