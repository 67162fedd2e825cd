"""To ONNX: one file with the weights, the names, the rules and the classes inside."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from sais.errors import SaisError
from sais.export.graphs import DetectionsGraph, RawGraph
from sais.inference.metadata import GraphMetadata
from sais.io.atomic import atomic_write

OPSET = 20


def write_onnx(
    graph: RawGraph | DetectionsGraph, metadata: GraphMetadata, canvas: tuple[int, int] | None, path: Path
) -> None:
    """Write a graph as an `.onnx` file, whole or not at all.

    Args:
        graph: in fp32, or in fp16 (`.half()`): what the network computes in; its outputs are fp32.
        metadata: goes into the file.
        canvas: (height, width) that the graph is made for; None leaves both open (multiples of 32). The number of
            images is always open.
        path: where to.

    Raises:
        SaisError: onnx or onnxscript is missing, or the file cannot be written.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401, torch's exporter needs it
    except ImportError as error:
        raise SaisError(f'export to ONNX needs {error.name}: pip install "sais-seg[export]"') from None
    program = _exported(graph, canvas)
    model: onnx.ModelProto = program.model_proto
    _name_dimensions(model, canvas)
    model.producer_name = "sais"
    save_whole(model, metadata, path)


def save_whole(model: Any, metadata: GraphMetadata, path: Path) -> None:
    """Write an ONNX model with `metadata` instead of what it says of itself; whole or not at all.

    Raises:
        SaisError: the file cannot be written.
    """
    import onnx

    del model.metadata_props[:]
    for key, value in metadata.to_text().items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.checker.check_model(model)
    with atomic_write(path, exclusive=True) as temporary:
        onnx.save(model, str(temporary))


def example_inputs(graph: RawGraph | DetectionsGraph, canvas: tuple[int, int] | None) -> tuple[torch.Tensor, ...]:
    """What a graph is traced with: two images, so that their number is not taken for a constant."""
    height, width = canvas or (256, 320)
    images = torch.zeros(2, 3, height, width, dtype=torch.uint8)
    if isinstance(graph, RawGraph):
        return (images,)
    return images, torch.tensor([[height, width]] * 2, dtype=torch.float32)


def dynamic_shapes(graph: RawGraph | DetectionsGraph, canvas: tuple[int, int] | None) -> tuple[dict[int, Any], ...]:
    """For each input, which of its sides are left open."""
    batch = torch.export.Dim("batch", min=1, max=1024)
    images: dict[int, Any] = {0: batch}
    if canvas is None:
        for axis, name in ((2, "rows"), (3, "columns")):
            images[axis] = 32 * torch.export.Dim(name, min=2, max=512)
    return (images,) if isinstance(graph, RawGraph) else (images, {0: batch})


def input_names(graph: RawGraph | DetectionsGraph) -> list[str]:
    """Of a graph, in order."""
    return ["images"] if isinstance(graph, RawGraph) else ["images", "contents"]


def _exported(graph: RawGraph | DetectionsGraph, canvas: tuple[int, int] | None) -> Any:
    with quiet():
        return torch.onnx.export(
            graph.eval(),
            example_inputs(graph, canvas),
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=dynamic_shapes(graph, canvas),
            input_names=input_names(graph),
            output_names=list(graph.outputs),
            custom_translation_table={torch.ops.sais.suppress.default: _suppression},
            verbose=False,
        )


def _suppression(boxes: Any, scores: Any, iou: float, detections: int) -> Any:
    """`suppress` in ONNX's own operators, called by the exporter where the graph has it."""
    from onnxscript import opset20

    op: Any = opset20
    most, overlap, nothing = (
        op.Constant(value_int=detections),
        op.Constant(value_float=iou),
        op.Constant(value_float=0.0),
    )
    chosen = op.NonMaxSuppression(boxes, scores, most, overlap, nothing)  # (M, 3) image, class, place
    return op.ScatterND(op.Mul(scores, nothing), chosen, op.GatherND(scores, chosen))


def _name_dimensions(model: Any, canvas: tuple[int, int] | None) -> None:
    """Plain names for the sides left open, where the exporter wrote formulas."""
    for value in (*model.graph.input, *model.graph.output):
        shape = value.type.tensor_type.shape
        for axis, side in enumerate(shape.dim):
            if not side.HasField("dim_param"):
                continue
            if axis == 0:
                side.dim_param = "batch"
            elif value.name == "images":
                side.dim_param = ("", "", "height", "width")[axis]
            elif value.name in ("prototypes", "mask_logits"):
                side.dim_param = ("", "", "grid_height", "grid_width")[axis]
            else:
                side.dim_param = "locations"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Torch's exporters talk a lot about themselves."""
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger("torch.onnx").setLevel(level)
