"""Export to `torch.export`: a `.pt2` file, for programs that have torch but not this package.

The raw graph needs torch alone. The others contain the operator `sais::batched_nms`: `import sais.export.nms` before
`torch.export.load`. That function unpickles parts of a file, which can run code: sais itself opens no `.pt2`.
"""

from __future__ import annotations

import io
import json
from pathlib import Path

import torch

from sais.export.conversion import report_failure
from sais.export.graphs import DetectionsGraph, RawGraph
from sais.export.onnx import dynamic_shapes, example_inputs, silence_exporter
from sais.inference.metadata import GraphMetadata
from sais.io.atomic import atomic_write

METADATA_FILE = "sais.json"
"""Name of the metadata inside: `torch.export.load(path, extra_files={METADATA_FILE: ""})`."""


def write_torch_export(
    graph: RawGraph | DetectionsGraph, metadata: GraphMetadata, canvas: tuple[int, int] | None, path: Path
) -> None:
    """Write a graph as a `.pt2` file, atomically; arguments as for `write_onnx`.

    Raises:
        ResourceError: the file cannot be written.
        SaisError: the exporter failed.
    """
    with report_failure("torch.export", metadata), silence_exporter():
        program = torch.export.export(
            graph.eval(), example_inputs(graph, canvas), dynamic_shapes=dynamic_shapes(graph, canvas), strict=False
        )
    with atomic_write(path) as temporary, silence_exporter():
        content = io.BytesIO()  # on a full disk torch would end the process without an exception
        torch.export.save(program, content, extra_files={METADATA_FILE: json.dumps(metadata.to_text())})
        temporary.write_bytes(content.getbuffer())
