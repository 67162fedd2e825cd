"""Export options, declared once for Python and `sais export`. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from sais.inference.metadata import GraphName

FORMATS = {"onnx": ".onnx", "openvino": ".xml", "torch-export": ".pt2"}
"""Built-in format -> suffix of its file; `sais.export.exporter.EXPORTERS` has the functions that write them."""

PrecisionName = Literal["fp32", "fp16", "int8"]
GRAPHS: tuple[str, ...] = get_args(GraphName)
PRECISIONS: tuple[str, ...] = get_args(PrecisionName)


@dataclass(frozen=True)
class ExportOptions:
    """How a model is exported."""

    format: str = "onnx"
    """Format of the file: onnx, openvino (.xml), torch-export (.pt2), or your own as module:function."""
    graph: GraphName = "detections"
    """Outputs of the file. raw: dense outputs. detections: after NMS. masks: after NMS, with mask logits."""
    precision: PrecisionName = "fp32"
    """fp16: half the size, for GPUs. int8: a quarter of the size, faster on many CPUs; needs calibration images."""
    score: float | None = None
    """Minimum score of a detection; not with the raw graph. None: all above the model's class threshold."""
    input_size: tuple[int, int] | None = None
    """Input size (height width), if it is not the one the model was trained with."""
    dynamic_shape: bool | None = None
    """Accept any height and width (multiples of 32). None: only for models that keep the aspect ratio."""
