"""The export of a trained model, step by step, and the table of the functions that write a file.

To add a format, add a row to `EXPORTERS` and its suffix to `sais.export.options.FORMATS`. Without a change here,
``module:function`` names a function of your own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sais.errors import ConfigError
from sais.export.graphs import DetectionsGraph, RawGraph
from sais.export.int8 import quantize
from sais.export.onnx import write_onnx
from sais.export.openvino import write_openvino
from sais.export.options import GRAPHS, PRECISIONS, ExportOptions
from sais.export.torch_export import write_torch_export
from sais.inference.metadata import GraphMetadata
from sais.inference.trained_model import TrainedModel, load_model, prepare_network
from sais.ops.letterbox import letterbox
from sais.resolve import resolve

Exporter = Callable[[Any, GraphMetadata, tuple[int, int] | None, Path], None]
"""(graph, metadata, (height, width) of the input or None if both are dynamic, path) -> None; writes the file."""


def export_model(
    source: str | Path | TrainedModel,
    path: str | Path,
    options: ExportOptions | None = None,
    calibration: Sequence[Path] = (),
    progress: Callable[[int], None] = lambda images: None,
) -> GraphMetadata:
    """Write a trained model as a file that other programs run.

    Args:
        source: path of a checkpoint or a run folder, or a model in memory.
        path: path of the file, with the suffix of its format.
        options: format, graph, precision, ...; the defaults if None.
        calibration: paths of images, for int8.
        progress: function called with the number of calibration images read since its last call.

    Returns:
        Metadata stored in the file.

    Raises:
        CheckpointError: the checkpoint is missing or corrupted.
        ConfigError: an unknown format, options that do not go together, or a model that cannot be exported.
        InputError: a calibration image cannot be read.
        MissingDependencyError: a package that the format needs is not installed.
        ResourceError: the file cannot be written.
    """
    options, path = options or ExportOptions(), Path(path)
    model = source if isinstance(source, TrainedModel) else load_model(source)
    check_options(options, model)
    graph, metadata = _build_graph(model, options)
    canvas = None if metadata.dynamic_shape else metadata.experiment.input.size
    write: Exporter = resolve(options.format, EXPORTERS, "format")
    if options.precision != "int8":
        write(graph, metadata, canvas, path)
        return metadata
    with tempfile.TemporaryDirectory() as folder:
        full_precision, quantized = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        write_onnx(graph, replace(metadata, precision="fp32"), canvas, full_precision)
        quantize(full_precision, metadata, calibration, path if options.format == "onnx" else quantized, progress)
        if options.format == "openvino":
            write_openvino(quantized, metadata, path)
    return metadata


def check_options(options: ExportOptions, model: TrainedModel) -> None:
    """Raise ConfigError for an unknown choice, or where format, graph, precision and model do not go together."""
    for name, choices in (("graph", GRAPHS), ("precision", PRECISIONS)):
        if getattr(options, name) not in choices:
            raise ConfigError(f"{name} {getattr(options, name)!r}: unknown. Choose one of {', '.join(choices)}.")
    if options.precision == "int8" and options.format not in QUANTIZED_FORMATS:
        raise ConfigError(
            f"precision int8: not available in format {options.format}. Use onnx or openvino, or fp32 or fp16."
        )
    if options.graph == "masks" and not model.experiment.model.masks:
        raise ConfigError("graph masks: the model predicts boxes only (model.masks=False). Use raw or detections.")
    if options.input_size is not None:
        letterbox((1, 1), model.experiment.input.mode, options.input_size)  # raises if the size is invalid
    if options.graph == "raw" and options.score is not None:
        raise ConfigError("score: the raw graph drops nothing. Use the graph detections or masks, or no score.")


def _build_graph(model: TrainedModel, options: ExportOptions) -> tuple[RawGraph | DetectionsGraph, GraphMetadata]:
    network = prepare_network(model).cpu()  # a predictor may have moved the model to its device
    experiment = model.experiment
    if options.input_size is not None:
        experiment = replace(experiment, input=replace(experiment.input, size=options.input_size))
    dynamic = experiment.input.mode == "keep_ratio" if options.dynamic_shape is None else options.dynamic_shape
    # Built before the metadata: it raises for a network without dense outputs, which has no strides either.
    graph: RawGraph | DetectionsGraph
    if options.graph == "raw":
        graph = RawGraph(network)
    else:
        masks = options.graph == "masks"
        graph = DetectionsGraph(network, experiment.postprocess, options.score or 0.0, masks)
    metadata = GraphMetadata(
        options.graph,
        experiment,
        model.class_names,
        model.category_ids,
        options.precision,
        dynamic,
        network.strides,
        network.mask_stride,
    )
    if options.precision == "fp16" and options.format != "openvino":  # OpenVINO converts the weights itself
        graph = graph.half()
    return graph, metadata


def _write_openvino_graph(
    graph: RawGraph | DetectionsGraph, metadata: GraphMetadata, canvas: tuple[int, int] | None, path: Path
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        step = Path(folder) / "graph.onnx"
        write_onnx(graph, replace(metadata, precision="fp32"), canvas, step)
        write_openvino(step, metadata, path)


EXPORTERS: dict[str, Exporter] = {
    "onnx": write_onnx,
    "openvino": _write_openvino_graph,
    "torch-export": write_torch_export,
}
"""Format -> the function that writes its file."""
QUANTIZED_FORMATS = ("onnx", "openvino")
"""Formats with int8."""
