"""To `torch.export`: an `.pt2` file, for programs that have torch but not this package's code.

The raw graph needs torch alone. The others hold the operator `sais::suppress`: `import sais.export.nms` before
`torch.export.load`.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from sais.export.graphs import DetectionsGraph, RawGraph
from sais.export.onnx import dynamic_shapes, example_inputs, quiet
from sais.inference.metadata import GraphMetadata
from sais.io.atomic import atomic_write

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
    with atomic_write(path, exclusive=True) as temporary, quiet(), temporary.open("wb") as file:
        torch.export.save(program, file, extra_files={METADATA_FILE: json.dumps(metadata.to_text())})
