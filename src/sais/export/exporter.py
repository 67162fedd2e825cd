"""From a checkpoint to an exported file, step by step."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from sais.checkpoint import Checkpoint, load_checkpoint, load_weights
from sais.converters.fuse import for_inference
from sais.errors import SaisError
from sais.export.graphs import DetectionsGraph, RawGraph
from sais.export.int8 import quantize
from sais.export.onnx import write_onnx
from sais.export.openvino import write_openvino
from sais.export.torch_export import write_torch_export
from sais.inference.metadata import GraphMetadata, GraphName
from sais.modeling.sais import build_model
from sais.ops.letterbox import letterbox

FORMATS = {"onnx": ".onnx", "openvino": ".xml", "torch-export": ".pt2"}
"""Format -> suffix of its file."""


@dataclass(frozen=True)
class ExportOptions:
    """How a model is exported."""

    format: Literal["onnx", "openvino", "torch-export"] = "onnx"
    graph: GraphName = "detections"
    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    score: float | None = None
    """Least class x centerness of what comes out; None: none beyond the experiment's `postprocess.score_threshold`."""
    size: tuple[int, int] | None = None
    """Another input size than the model was trained with."""
    any_size: bool | None = None
    """Whether height and width stay open; None: where the model keeps the ratio."""


def export_model(
    source: Path,
    path: Path,
    options: ExportOptions,
    calibration: Sequence[Path] = (),
    progress: Callable[[int], None] = lambda images: None,
) -> GraphMetadata:
    """Write a checkpoint as a file for other programs.

    Args:
        source: a checkpoint.
        path: the file to write, with the suffix of its format.
        options: format, graph, precision.
        calibration: images, for int8.
        progress: called with the number of these that were read since the last call.

    Returns:
        What the file says of itself.

    Raises:
        SaisError: a combination that does not exist, a missing package, or a file that cannot be read or written.
    """
    checkpoint = load_checkpoint(source)
    check_options(options, checkpoint)
    metadata = _metadata(checkpoint, options)
    graph = _graph(source, checkpoint, metadata, options)
    settings = metadata.experiment.input
    any_size = settings.mode == "keep_ratio" if options.any_size is None else options.any_size
    canvas = None if any_size else settings.size
    if options.format == "torch-export":
        write_torch_export(graph, metadata, canvas, path)
    elif options.format == "onnx" and options.precision != "int8":
        write_onnx(graph, metadata, canvas, path)
    else:
        with tempfile.TemporaryDirectory() as folder:
            step = Path(folder) / "fp32.onnx"
            write_onnx(graph, replace(metadata, precision="fp32"), canvas, step)
            if options.precision == "int8":
                quantized = path if options.format == "onnx" else Path(folder) / "int8.onnx"
                quantize(step, metadata, calibration, quantized, progress)
                step = quantized
            if options.format == "openvino":
                write_openvino(step, metadata, path)
    return metadata


def check_options(options: ExportOptions, checkpoint: Checkpoint) -> None:
    """Raise SaisError where format, graph, precision and model do not go together."""
    if options.format == "torch-export" and options.precision == "int8":
        raise SaisError("--precision int8 goes with --format onnx or openvino; torch-export takes fp32 and fp16")
    if options.graph == "masks" and not checkpoint.experiment.model.masks:
        raise SaisError("--graph masks: this model finds boxes only (model.masks=False); take raw or detections")
    if options.size is not None:
        letterbox((1, 1), checkpoint.experiment.input.mode, options.size)  # says what is wrong with it
    if options.graph == "raw" and options.score is not None:
        raise SaisError("--score goes with --graph detections or masks; the raw graph drops nothing")


def _metadata(checkpoint: Checkpoint, options: ExportOptions) -> GraphMetadata:
    experiment = checkpoint.experiment
    if options.size is not None:
        experiment = replace(experiment, input=replace(experiment.input, size=options.size))
    return GraphMetadata(options.graph, experiment, checkpoint.class_names, checkpoint.category_ids, options.precision)


def _graph(
    source: Path, checkpoint: Checkpoint, metadata: GraphMetadata, options: ExportOptions
) -> RawGraph | DetectionsGraph:
    model = build_model(checkpoint.experiment.model, len(checkpoint.class_names))
    load_weights(model, checkpoint.part("model"), source)
    prepared = for_inference(model)
    if options.precision == "fp16" and options.format != "openvino":  # OpenVINO stores the weights so by itself
        prepared = prepared.half()
    if options.graph == "raw":
        return RawGraph(prepared)
    return DetectionsGraph(prepared, metadata.experiment.postprocess, options.score or 0.0, options.graph == "masks")
