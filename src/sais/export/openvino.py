"""Export to OpenVINO: an `.xml` and its `.bin`, converted from ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sais.errors import MissingDependencyError, ResourceError
from sais.inference.metadata import GraphMetadata


def write_openvino(onnx_file: Path, metadata: GraphMetadata, path: Path) -> None:
    """Convert an `.onnx` file to OpenVINO's format, metadata included (`rt_info`, under "sais").

    Args:
        onnx_file: path of a file written by `write_onnx`.
        metadata: metadata to store in the file.
        path: path of the `.xml`; the weights are written next to it as `.bin`, in half precision if
            `metadata.precision` is fp16.

    Raises:
        MissingDependencyError: openvino is not installed.
        ResourceError: the files cannot be written.
    """
    try:
        import openvino
    except ImportError:
        raise MissingDependencyError(
            'export to OpenVINO: openvino is not installed. Run: pip install "sais-seg[export,openvino]"',
            "openvino",
            "openvino",
        ) from None
    model: Any = openvino.convert_model(str(onnx_file))
    for key, value in metadata.to_text().items():
        model.set_rt_info(value, ["sais", key])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        openvino.save_model(model, str(path), compress_to_fp16=metadata.precision == "fp16")
    except (OSError, RuntimeError) as error:
        raise ResourceError(f"{path}: cannot be written ({error}). Choose another folder.") from None
