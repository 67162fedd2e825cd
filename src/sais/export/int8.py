"""INT8 post-training quantization: weights and activations in eight bits, with ranges from calibration images.

ONNX Runtime's static quantization writes QuantizeLinear / DequantizeLinear pairs around the convolutions, which ONNX
Runtime, OpenVINO and TensorRT read. Not quantized are

- the first convolutions, before the feature map is a quarter of the image: few weights, on which everything depends
  (quantized they cost 6 mask AP of a lite model, `docs/log.md`);
- the last convolutions of the head and the ProtoNet: a distance is an exponential, and a mask's border is where a sum
  of prototypes is near zero.

Weights use seven of their eight bits: processors with AVX2 but without VNNI add products in 16 bits, which overflow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sais.export.conversion import report_failure
from sais.export.onnx import save_onnx
from sais.inference.metadata import GraphMetadata
from sais.io.images import read_image
from sais.io.temporary import temporary_folder
from sais.ops.letterbox import group_by_canvas

STRIDED_OPERATORS = ("Conv", "MaxPool", "AveragePool")
FIRST_STRIDE = 4
"""Convolutions whose input has a smaller stride than this are not quantized."""


def quantize(
    source: Path,
    metadata: GraphMetadata,
    images: Sequence[Path],
    path: Path,
    progress: Callable[[int], None] = lambda images: None,
) -> None:
    """Write the INT8 version of an `.onnx` file.

    Args:
        source: path of the fp32 file written by `write_onnx`.
        metadata: metadata to store in the new file.
        images: paths of calibration images, some dozens of the kind that the model will see.
        path: path of the new file.
        progress: function called with the number of images read since its last call.

    Raises:
        InputError: an image cannot be read.
        SaisError: the quantization failed.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with temporary_folder() as folder, report_failure("int8", metadata):
        prepared, quantized = folder / "prepared.onnx", folder / "int8.onnx"
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        model = onnx.load(str(prepared))
        quantize_static(
            str(prepared),
            str(quantized),
            _CalibrationReader(images, metadata, progress),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["Conv"],
            nodes_to_exclude=_first_convolutions(model) + _last_convolutions(model),
            calibrate_method=CalibrationMethod.MinMax,
            reduce_range=True,
        )
        save_onnx(onnx.load(str(quantized)), metadata, path)


class _CalibrationReader:
    """ONNX Runtime's interface to calibration data: it calls `get_next` for one batch after another."""

    def __init__(self, images: Sequence[Path], metadata: GraphMetadata, progress: Callable[[int], None]) -> None:
        self._batches = _read_batches(images, metadata)
        self._progress = progress

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the inputs (1, ...) of the next image; None after the last."""
        batch = next(self._batches, None)
        self._progress(int(batch is not None))
        return batch


def _read_batches(images: Sequence[Path], metadata: GraphMetadata) -> Iterator[dict[str, np.ndarray]]:
    settings = metadata.experiment.input
    for path in images:
        image = read_image(path, white_level=settings.white_level)
        for _, canvas_maps, stacked in group_by_canvas([image], settings.mode, settings.size):
            inputs = {"images": np.ascontiguousarray(stacked.transpose(0, 3, 1, 2))}
            if metadata.graph != "raw":
                inputs["image_sizes"] = np.array([canvas_map.content_size for canvas_map in canvas_maps], np.float32)
            yield inputs


def _first_convolutions(model: Any) -> list[str]:
    """Return the names of the convolutions whose input has a stride below `FIRST_STRIDE`."""
    strides: dict[str, int] = {model.graph.input[0].name: 1}  # value -> image pixels for one of its cells
    names = []
    for node in model.graph.node:  # in the order of computation
        stride = max((strides[name] for name in node.input if name in strides), default=None)
        if stride is None:
            continue
        if node.op_type == "Conv" and stride < FIRST_STRIDE:
            names.append(node.name)
        own = [a.ints[0] for a in node.attribute if a.name == "strides"] if node.op_type in STRIDED_OPERATORS else []
        strides.update(dict.fromkeys(node.output, stride * (own[0] if own else 1)))
    return names


def _last_convolutions(model: Any) -> list[str]:
    """Return the names of the convolutions that no other convolution follows."""
    readers: dict[str, list[Any]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    followed: dict[int, bool] = {}

    def leads_to_convolution(node: Any) -> bool:
        if id(node) not in followed:
            successors = [reader for output in node.output for reader in readers.get(output, [])]
            followed[id(node)] = any(s.op_type == "Conv" or leads_to_convolution(s) for s in successors)
        return followed[id(node)]

    for node in reversed(model.graph.node):  # from the end, so that the recursion stays shallow
        leads_to_convolution(node)
    return [node.name for node in model.graph.node if node.op_type == "Conv" and not leads_to_convolution(node)]
