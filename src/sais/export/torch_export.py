"""To `torch.export`: an `.pt2` file, for programs that have torch but not this package's code.

The raw graph needs torch alone. The others hold the operator `sais::suppress`: `import sais.export.nms` before
`torch.export.load`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch

from sais.errors import SaisError
from sais.export.graphs import DetectionsGraph, RawGraph
from sais.export.onnx import dynamic_shapes, example_inputs, quiet
from sais.inference.graph_metadata import GraphMetadata

METADATA_FILE = "sais.json"
"""Name of the metadata inside: `torch.export.load(path, extra_files={METADATA_FILE: ""})`."""


def write_torch_export(
    graph: RawGraph | DetectionsGraph, metadata: GraphMetadata, canvas: tuple[int, int] | None, path: Path
) -> None:
    """Write a graph as a `.pt2` file, whole or not at all; arguments as of `write_onnx`.

    Raises:
        SaisError: the file cannot be written.
    """
    with quiet():
        program = torch.export.export(
            graph.eval(), example_inputs(graph, canvas), dynamic_shapes=dynamic_shapes(graph, canvas), strict=False
        )
    temporary = path.with_name(f".{path.stem}.writing.pt2")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with quiet():
            torch.export.save(program, str(temporary), extra_files={METADATA_FILE: json.dumps(metadata.to_text())})
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise SaisError(f"{path}: cannot be written: {error.strerror}") from None
