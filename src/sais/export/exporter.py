"""The export of a trained model, step by step, and the table of the functions that write a file.

To add a format, add a row to `EXPORTERS` and its suffix to `sais.export.options.FORMATS`. Without a change here,
``module:function`` names a function of your own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from sais.config import Experiment
from sais.errors import InputError
from sais.export.checks import check_model, check_options, check_output, check_packages, input_size
from sais.export.graphs import DetectionsGraph, RawGraph
from sais.export.int8 import quantize
from sais.export.onnx import write_onnx
from sais.export.openvino import write_openvino
from sais.export.options import OPSET, ExportOptions, choose_format, merge_options
from sais.export.torch_export import write_torch_export
from sais.inference.metadata import GraphMetadata
from sais.inference.options import InferenceOptions
from sais.inference.score_thresholds import override_settings
from sais.inference.trained_model import TrainedModel, load_model, prepare_network
from sais.io.sources import find_images
from sais.io.temporary import temporary_folder
from sais.resolve import resolve

Exporter = Callable[[Any, GraphMetadata, tuple[int, int] | None, Path], None]
"""(graph, metadata, (height, width) of the input or None if both are dynamic, path) -> None; writes the file."""


def export_model(
    source: str | Path | TrainedModel,
    path: str | Path,
    options: ExportOptions | None = None,
    calibration: str | Path | Sequence[Path] = (),
    progress: Callable[[int], None] = lambda images: None,
    **changes: Any,
) -> GraphMetadata:
    """Write a trained model as a file that other programs run.

        sais.export("runs/cats", "cats.onnx", graph="masks")

    Args:
        source: path of a checkpoint or a run folder, or a model in memory.
        path: path of the file, with the suffix of its format.
        options: export options; the defaults if None.
        calibration: images for int8: a folder, a glob, or paths; some dozens of the kind that the model will see.
        progress: function called with the number of calibration images read since its last call.
        changes: single options by name, replacing those of `options`: format, graph, precision, size, ...; see
            `ExportOptions`.

    Returns:
        Metadata stored in the file.

    Raises:
        CheckpointError: the checkpoint is missing or corrupted.
        ConfigError: an unknown format, options that do not go together, or a model that cannot be exported.
        InputError: no calibration images, one that cannot be read, or a path that cannot be written or holds a file
            that sais has not written.
        MissingDependencyError: a package that the format needs is not installed.
        ResourceError: the file cannot be written.
        SaisError: a converter failed.
    """
    path = Path(path)
    options = choose_format(merge_options(options, changes), path)
    check_options(options)
    check_packages(options)
    images = find_images(calibration) if isinstance(calibration, (str, Path)) else calibration
    inputs = [*images, *(() if isinstance(source, TrainedModel) else _model_files(Path(source)))]
    check_output(path, options.format, inputs, options.overwrite)
    if options.precision == "int8" and not images:
        raise InputError("int8: no calibration images. Give some dozens of the kind that the model will see.")
    model = source if isinstance(source, TrainedModel) else load_model(source, options.trust)
    check_model(options, model.experiment)
    graph, metadata = _build_graph(model, options)
    canvas = None if metadata.dynamic_shape else metadata.experiment.input.size
    if options.precision != "int8":
        write: Exporter = resolve(options.format, EXPORTERS, "format")
        if options.format == "onnx":
            write = partial(write_onnx, opset=options.opset or OPSET)
        write(graph, metadata, canvas, path)
        return metadata
    with temporary_folder() as folder:
        full_precision, quantized = folder / "fp32.onnx", folder / "int8.onnx"
        write_onnx(graph, replace(metadata, precision="fp32"), canvas, full_precision, options.opset or OPSET)
        quantize(full_precision, metadata, images, path if options.format == "onnx" else quantized, progress)
        if options.format == "openvino":
            write_openvino(quantized, metadata, path)
    return metadata


def _model_files(source: Path) -> list[Path]:
    return sorted(source.glob("*.safetensors")) if source.is_dir() else [source]


def _build_graph(model: TrainedModel, options: ExportOptions) -> tuple[RawGraph | DetectionsGraph, GraphMetadata]:
    network = prepare_network(model).cpu()  # a predictor may have moved the model to its device
    experiment = _exported_experiment(model.experiment, options)
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
        options.dynamic_shape or experiment.input.mode == "keep_ratio",
        network.strides,
        network.mask_stride,
        model.thresholds,
        model.origin,
    )
    if options.precision == "fp16" and options.format != "openvino":  # OpenVINO converts the weights itself
        graph = graph.half()
    return graph, metadata


def _exported_experiment(experiment: Experiment, options: ExportOptions) -> Experiment:
    """Return the settings of a model with the input size and the post-processing of the options."""
    overrides = InferenceOptions(nms_iou=options.nms_iou, max_detections=options.max_detections)
    settings = override_settings(experiment.postprocess, overrides)
    size = input_size(options, experiment)
    return replace(experiment, input=replace(experiment.input, size=size), postprocess=settings)


def _write_openvino_graph(
    graph: RawGraph | DetectionsGraph, metadata: GraphMetadata, canvas: tuple[int, int] | None, path: Path
) -> None:
    with temporary_folder() as folder:
        step = folder / "graph.onnx"
        write_onnx(graph, replace(metadata, precision="fp32"), canvas, step)
        write_openvino(step, metadata, path)


EXPORTERS: dict[str, Exporter] = {
    "onnx": write_onnx,
    "openvino": _write_openvino_graph,
    "torch-export": write_torch_export,
}
"""Format -> the function that writes its file."""
