"""Export to ONNX: one file with the weights, the names of inputs and outputs, and the metadata."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from sais.errors import ConfigError
from sais.export.conversion import report_failure
from sais.export.graphs import DetectionsGraph, RawGraph
from sais.export.options import OPSET
from sais.inference.graph_checksum import ENTRY, placeholder, seal
from sais.inference.metadata import GraphMetadata
from sais.io.atomic import atomic_write


def write_onnx(
    graph: RawGraph | DetectionsGraph,
    metadata: GraphMetadata,
    canvas: tuple[int, int] | None,
    path: Path,
    opset: int = OPSET,
) -> None:
    """Write a graph as an `.onnx` file, atomically.

    Args:
        graph: graph in fp32, or in fp16 (`.half()`); its outputs are fp32.
        metadata: metadata to store in the file.
        canvas: (height, width) of the graph's input; None leaves both dynamic (multiples of 32). The batch size is
            always dynamic.
        path: path of the file.
        opset: version of the ONNX operator set.

    Raises:
        ConfigError: the installed exporter does not write this operator set.
        ResourceError: the file cannot be written.
        SaisError: the exporter failed.
    """
    with report_failure("ONNX", metadata):
        model: Any = _export(graph, canvas, opset).model_proto
    written = next(entry.version for entry in model.opset_import if not entry.domain)
    if written != opset:
        raise ConfigError(f"opset: the installed exporter writes {written} instead of {opset}. Give {written}.")
    _name_dimensions(model)
    save_onnx(model, metadata, path)


def save_onnx(model: Any, metadata: GraphMetadata, path: Path) -> None:
    """Write an ONNX model with `metadata` in place of its own, atomically.

    Raises:
        ResourceError: the file cannot be written.
        SaisError: the model is not valid.
    """
    import onnx

    model.producer_name = "sais"  # by which `sais.io.outputs` recognizes the file
    del model.metadata_props[:]
    for key, value in (metadata.to_text() | {ENTRY: placeholder(".onnx")}).items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    with report_failure("ONNX", metadata):
        onnx.checker.check_model(model)
    with atomic_write(path) as temporary:
        onnx.save(model, str(temporary))
        seal(temporary)


def example_inputs(graph: RawGraph | DetectionsGraph, canvas: tuple[int, int] | None) -> tuple[torch.Tensor, ...]:
    """Return inputs to trace a graph with: images (2, 3, height, width) uint8 and, if it has them, image sizes (2, 2).

    Two images, because a batch of 1 would be taken for a constant.
    """
    height, width = canvas or (256, 320)
    images = torch.zeros(2, 3, height, width, dtype=torch.uint8)
    if isinstance(graph, RawGraph):
        return (images,)
    return images, torch.tensor([[height, width]] * 2, dtype=torch.float32)


def dynamic_shapes(graph: RawGraph | DetectionsGraph, canvas: tuple[int, int] | None) -> tuple[dict[int, Any], ...]:
    """Return the dynamic dimensions of each input."""
    batch = torch.export.Dim("batch", min=1, max=1024)
    images: dict[int, Any] = {0: batch}
    if canvas is None:
        for axis, name in ((2, "rows"), (3, "columns")):
            images[axis] = 32 * torch.export.Dim(name, min=2, max=512)
    return (images,) if isinstance(graph, RawGraph) else (images, {0: batch})


def input_names(graph: RawGraph | DetectionsGraph) -> list[str]:
    """Return the names of a graph's inputs, in order."""
    return ["images"] if isinstance(graph, RawGraph) else ["images", "image_sizes"]


def _export(graph: RawGraph | DetectionsGraph, canvas: tuple[int, int] | None, opset: int) -> Any:
    with silence_exporter():
        return torch.onnx.export(
            graph.eval(),
            example_inputs(graph, canvas),
            dynamo=True,
            opset_version=opset,
            dynamic_shapes=dynamic_shapes(graph, canvas),
            input_names=input_names(graph),
            output_names=list(graph.outputs),
            custom_translation_table={torch.ops.sais.batched_nms.default: _nms_operators},
            verbose=False,
        )


def _nms_operators(boxes: Any, scores: Any, iou: float, max_detections: int) -> Any:
    """Translate `sais::batched_nms` into ONNX operators; called by the exporter."""
    from onnxscript import opset18

    op: Any = opset18  # the oldest that is exported; newer versions of these operators are the same
    limit, threshold = op.Constant(value_int=max_detections), op.Constant(value_float=iou)
    zero = op.Constant(value_float=0.0)
    selected = op.NonMaxSuppression(boxes, scores, limit, threshold, zero)  # (M, 3) image, class, box
    return op.ScatterND(op.Mul(scores, zero), selected, op.GatherND(scores, selected))


def _name_dimensions(model: Any) -> None:
    """Replace the exporter's formulas by plain names of the dynamic dimensions.

    Torch 2.6 states the two images of the example as the batch of what follows NMS; the operators take any batch.
    """
    states_batch = False
    for value in (*model.graph.input, *model.graph.output):
        for axis, dimension in enumerate(value.type.tensor_type.shape.dim):
            if axis == 0:
                states_batch |= dimension.HasField("dim_value")
                dimension.dim_param = "batch"
            elif not dimension.HasField("dim_param"):
                continue
            elif value.name == "images":
                dimension.dim_param = ("", "", "height", "width")[axis]
            elif value.name in ("prototypes", "mask_logits"):
                dimension.dim_param = ("", "", "grid_height", "grid_width")[axis]
            else:
                dimension.dim_param = "locations"
    if states_batch:
        del model.graph.value_info[:]  # shapes of tensors between, which would contradict


@contextlib.contextmanager
def silence_exporter() -> Iterator[None]:
    """Suppress the progress texts and warnings of torch's exporters."""
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger("torch.onnx").setLevel(level)
