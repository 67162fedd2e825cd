"""Export options, declared once for Python and `sais export`. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from sais.errors import ConfigError
from sais.inference.metadata import GraphName
from sais.resolve import suggest

FORMATS = {"onnx": ".onnx", "openvino": ".xml", "torch-export": ".pt2"}
"""Built-in format -> suffix of its file; `sais.export.exporter.EXPORTERS` has the functions that write them."""

PrecisionName = Literal["fp32", "fp16", "int8"]
GRAPHS: tuple[str, ...] = get_args(GraphName)
PRECISIONS: tuple[str, ...] = get_args(PrecisionName)
OPSET = 20
"""Operator set of ONNX files by default."""
MIN_OPSET = 18
"""Oldest operator set that torch's exporter writes."""


@dataclass(frozen=True)
class ExportOptions:
    """How a model is exported."""

    format: str = "auto"
    """Format: onnx (.onnx), openvino (.xml), torch-export (.pt2), or your own as module:function. auto: by the suffix
    of the file, else onnx."""
    graph: GraphName = "detections"
    """Outputs of the file. raw: dense outputs. detections: after NMS. masks: after NMS, with mask logits."""
    precision: PrecisionName = "fp32"
    """fp16: half the size, for GPUs. int8: a quarter of the size, faster on many CPUs; needs calibration images."""
    score: float | None = None
    """Minimum score of a detection; not with the raw graph. None: all above the model's class threshold."""
    nms_iou: float | None = None
    """IoU above which NMS drops the lower-scoring of two boxes, 0 to 1. None: the setting of the model."""
    max_detections: int | None = None
    """Maximum number of detections of an image. None: the setting of the model."""
    size: int | tuple[int, int] | None = None
    """Input size in pixels: height and width, or one number for both. None: the size of the training."""
    dynamic_shape: bool = False
    """Accept any height and width (multiples of 32), as exports of models that keep the aspect ratio always do."""
    opset: int | None = None
    """Version of the ONNX operator set, 18 or higher; format onnx only. None: 20."""
    trust: bool = False
    """Import and run code outside of sais that the model file names, such as a head of your own. The environment
    variable SAIS_TRUST lists modules that are always trusted."""
    overwrite: bool = False
    """Replace any existing file, not only an earlier export; never one that is read."""


def written_files(path: Path, format_name: str) -> list[Path]:
    """Return the files that an export to `path` writes."""
    return [path, path.with_suffix(".bin")] if format_name == "openvino" else [path]


def choose_format(options: ExportOptions, path: Path | None) -> ExportOptions:
    """Replace the format "auto" by the one that the suffix of `path` names, or by onnx without a path.

    Raises:
        ConfigError: no format has this suffix.
    """
    if options.format != "auto":
        return options
    if path is None:
        return replace(options, format="onnx")
    for name, suffix in FORMATS.items():
        if path.suffix == suffix:
            return replace(options, format=name)
    raise ConfigError(f"{path}: no format has this suffix. Give a name that ends with {', '.join(FORMATS.values())}.")


def merge_options(options: ExportOptions | None, changes: dict[str, Any]) -> ExportOptions:
    """Return `options` (or the defaults) with `changes` by field name.

    Raises:
        TypeError: no such option.
    """
    names = [field.name for field in fields(ExportOptions)]
    for name in changes:
        if name not in names:
            raise TypeError(f"unknown export option {name!r}{suggest(name, names)}")
    return replace(options or ExportOptions(), **changes)
