"""To OpenVINO: an `.xml` and its `.bin`, by way of ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sais.errors import SaisError
from sais.inference.metadata import GraphMetadata


def write_openvino(onnx_file: Path, metadata: GraphMetadata, path: Path) -> None:
    """Turn an `.onnx` file into OpenVINO's own format, metadata included (`rt_info`, under "sais").

    Args:
        onnx_file: what `write_onnx` wrote.
        metadata: goes into the file.
        path: the `.xml`; the weights go beside it, into `.bin`. With precision fp16 they are stored in half precision.

    Raises:
        SaisError: openvino is missing, or the files cannot be written.
    """
    try:
        import openvino
    except ImportError:
        raise SaisError('export to OpenVINO needs openvino: pip install "sais-seg[export,openvino]"') from None
    model: Any = openvino.convert_model(str(onnx_file))
    for key, value in metadata.to_text().items():
        model.set_rt_info(value, ["sais", key])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        openvino.save_model(model, str(path), compress_to_fp16=metadata.precision == "fp16")
    except (OSError, RuntimeError) as error:
        raise SaisError(f"{path}: cannot be written: {error}") from None
