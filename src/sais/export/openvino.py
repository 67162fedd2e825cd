"""Export to OpenVINO: an `.xml` and its `.bin`, converted from ONNX."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from sais.errors import ResourceError
from sais.export.conversion import report_failure
from sais.inference.backends.import_openvino import import_openvino
from sais.inference.graph_checksum import ENTRY, placeholder, seal
from sais.inference.metadata import GraphMetadata
from sais.io.temporary import temporary_folder


def write_openvino(onnx_file: Path, metadata: GraphMetadata, path: Path) -> None:
    """Convert an `.onnx` file to OpenVINO's format, metadata included (`rt_info`, under "sais").

    Args:
        onnx_file: path of a file written by `write_onnx`.
        metadata: metadata to store in the file.
        path: path of the `.xml`; the weights are written next to it as `.bin`, in half precision if
            `metadata.precision` is fp16.

    Raises:
        ResourceError: the files cannot be written.
        SaisError: the converter failed.
    """
    openvino = import_openvino()
    with report_failure("OpenVINO", metadata):
        model: Any = openvino.convert_model(str(onnx_file))
        for key, value in (metadata.to_text() | {ENTRY: placeholder(".xml")}).items():
            model.set_rt_info(value, ["sais", key])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary_folder(path.parent, f".{path.name}") as folder:
            temporary = folder / "graph.xml"
            openvino.save_model(model, str(temporary), compress_to_fp16=metadata.precision == "fp16")
            seal(temporary)
            path.unlink(missing_ok=True)  # a killed process leaves no .xml with the weights of another model
            for suffix in (".bin", ".xml"):
                os.replace(temporary.with_suffix(suffix), path.with_suffix(suffix))
    except (OSError, RuntimeError) as error:
        raise ResourceError(f"{path}: cannot be written ({error}). Choose another folder.") from None
