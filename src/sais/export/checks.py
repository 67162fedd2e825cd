"""Checks before an export, so that a mistake is reported before the model is read and converted. Needs no torch."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from sais.errors import ConfigError, MissingDependencyError
from sais.export.options import FORMATS, GRAPHS, MIN_OPSET, PRECISIONS, ExportOptions, written_files
from sais.io.outputs import EXPORT, check_outputs, written_by
from sais.ops.letterbox import letterbox
from sais.resolve import resolve

if TYPE_CHECKING:
    from sais.config import Experiment

QUANTIZED_FORMATS = ("onnx", "openvino")
"""Formats with int8."""
ONNX_PACKAGES = ("onnx", "onnxscript")
"""Packages that torch's exporter to ONNX needs."""


def check_options(options: ExportOptions) -> None:
    """Check the options as far as they do not depend on the model.

    Raises:
        ConfigError: an unknown choice, a value out of range, or options that do not go together.
    """
    for name, choices in (("graph", GRAPHS), ("precision", PRECISIONS)):
        if getattr(options, name) not in choices:
            raise ConfigError(f"{name} {getattr(options, name)!r}: unknown. Choose one of {', '.join(choices)}.")
    resolve(options.format, FORMATS, "format")  # raises for an unknown format
    if options.precision == "int8" and options.format not in QUANTIZED_FORMATS:
        raise ConfigError(
            f"precision int8: not available in format {options.format}. Use onnx or openvino, or fp32 or fp16."
        )
    if options.graph == "raw" and options.score is not None:
        raise ConfigError("score: the raw graph drops nothing. Use the graph detections or masks, or no score.")
    for name, value in (("score", options.score), ("nms_iou", options.nms_iou)):
        if value is not None and not 0 <= value <= 1:
            raise ConfigError(f"{name}: {value:g} is not between 0 and 1. Give 0.5, for instance.")
    if options.max_detections is not None and options.max_detections < 1:
        raise ConfigError(f"max_detections: {options.max_detections} is less than 1. Give 100, for instance.")
    if options.opset is not None and options.format != "onnx":
        raise ConfigError(f"opset: format {options.format} has no operator set. Leave it out, or use format onnx.")
    if options.opset is not None and options.opset < MIN_OPSET:
        raise ConfigError(
            f"opset: {options.opset} is older than {MIN_OPSET}, the first that torch's exporter writes. "
            f"Give {MIN_OPSET} or higher."
        )


def check_packages(options: ExportOptions) -> None:
    """Check that the packages are installed that the format and the precision need, and know the operator set.

    Raises:
        MissingDependencyError: a package is not installed.
        ConfigError: the installed onnx is older than the operator set.
    """
    needs: list[tuple[str, str, str, str]] = []  # what needs it, package, extra, extras to install
    if options.format in QUANTIZED_FORMATS:
        needs += [("export to ONNX", package, "export", "export") for package in ONNX_PACKAGES]
    if options.format == "openvino":
        needs.append(("export to OpenVINO", "openvino", "openvino", "export,openvino"))
    if options.precision == "int8":
        needs.append(("int8", "onnxruntime", "export", "export"))
    for where, package, extra, extras in needs:
        if not is_installed(package):
            raise MissingDependencyError(
                f'{where}: {package} is not installed. Run: pip install "sais-seg[{extras}]"', package, extra
            )
    if options.opset is not None:
        _check_newest_opset(options.opset)


def _check_newest_opset(opset: int) -> None:
    """Raise ConfigError for an operator set that the installed onnx does not know."""
    from onnx.defs import onnx_opset_version

    newest = onnx_opset_version()
    if opset > newest:
        raise ConfigError(f"opset: {opset} is newer than {newest}, the newest of the installed onnx. Give {newest}.")


def is_installed(package: str) -> bool:
    """Return whether a package can be imported, without importing it."""
    try:
        return importlib.util.find_spec(package) is not None
    except (ModuleNotFoundError, ValueError):  # import hooks may raise, and `sys.modules` may hold None
        return False


def check_output(path: Path, format_name: str, inputs: Iterable[Path] = (), overwrite: bool = False) -> None:
    """Check that the file of a format can be written. Creates nothing.

    Args:
        path: file to write.
        format_name: name of the format.
        inputs: files that are read.
        overwrite: whether files that sais has not written are replaced.

    Raises:
        ConfigError: the suffix is that of another format.
        InputError: the files of the format must not be written, see `check_outputs`.
    """
    suffix = FORMATS.get(format_name, path.suffix)
    if path.suffix != suffix:
        raise ConfigError(f"{path}: not a file of format {format_name}. Give a name that ends with {suffix}.")
    check_outputs(written_files(path, format_name), inputs, overwrite, own=written_by(EXPORT))


def input_size(options: ExportOptions, experiment: Experiment) -> tuple[int, int]:
    """Return the `input.size` of the exported model.

    Raises:
        ConfigError: the size does not suit the model's input mode, or is no multiple of 32 for a fixed input.
    """
    size, mode = options.size, experiment.input.mode
    if size is None:
        return experiment.input.size
    if isinstance(size, int):
        if mode == "keep_ratio":
            raise ConfigError(
                f"size: one number, {size}, but the model keeps the aspect ratio. Give the short side and the maximum "
                f"long side, as in {' '.join(map(str, experiment.input.size))}."
            )
        size = (size, size)
    letterbox((1, 1), mode, size)  # raises if the size is invalid
    return size


def check_model(options: ExportOptions, experiment: Experiment) -> None:
    """Raise ConfigError for options that do not suit the settings of the model."""
    input_size(options, experiment)
    if options.graph == "masks" and not experiment.model.masks:
        raise ConfigError("graph masks: the model predicts boxes only (model.masks=False). Use raw or detections.")
