"""`sais export MODEL`: write a trained model as a file for other programs and check it against PyTorch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from sais.commands.arguments import FLAT, Count, need_torch, parse, prepare_torch, progress_bar
from sais.commands.input_files import model_files
from sais.commands.open_predictor import BOXES_ONLY, check_model
from sais.errors import ConfigError, InputError, MissingDependencyError
from sais.export.checks import check_options, check_output, check_packages, is_installed
from sais.export.options import FORMATS, ExportOptions, choose_format, written_files
from sais.hub import name_in_cache
from sais.inference.options import EXPORTED_SUFFIXES
from sais.text import print_text


@dataclass(frozen=True)
class ExportArguments:
    """Write a trained model as one file that other programs run, and compare its detections with PyTorch's.

    Outputs (D detections, padded with score 0; K prototypes; h w: a quarter of the canvas):
    raw: class_logits, quality_logits, distances, coefficients, prototypes of all locations.
    detections: boxes (B, D, 4) in canvas pixels, scores, labels, coefficients (B, D, K), prototypes (B, K, h, w).
    masks: also mask_logits (B, D, h, w), to be enlarged bilinearly; positive inside the object.
    The input `images` is uint8 (B, 3, height, width) RGB; class names and input rules are in the file's metadata.
    """

    model: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="MODEL")]
    """Model file, or folder of a training run."""
    out: Path | None = None
    """File to write; default: next to the model, with the format's suffix. Needed for a model of the Hub."""
    options: Annotated[ExportOptions, FLAT] = field(default_factory=ExportOptions)
    calibrate: str | None = None
    """Images for int8: a folder or a glob in quotes; some dozens of the kind that the model will see."""
    check: str | None = None
    """Images for the comparison with PyTorch: a folder or a glob in quotes. Default: synthetic scenes."""
    max_images: Count = 100
    """Maximum number of images of --calibrate and of --check."""


def run(argv: Sequence[str]) -> int:
    """Run `sais export`."""
    arguments = parse(ExportArguments, argv, "sais export MODEL")
    arguments = replace(arguments, options=choose_format(arguments.options, arguments.out))
    options = arguments.options
    calibration, comparison = _check_request(arguments)
    prepare_torch("export")
    from sais.checkpoint import find_checkpoint
    from sais.export.exporter import export_model

    source = find_checkpoint(arguments.model)
    path = arguments.out or source.with_suffix(FORMATS[options.format])
    print_text(f"{source}: exporting the graph '{options.graph}' ({options.precision}) to {path}, about a minute")
    with progress_bar("calibrating", len(calibration)) if calibration else nullcontext(lambda done: None) as progress:
        metadata = export_model(source, path, options, calibration, progress)
    files = [file for file in written_files(path, options.format) if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    print_text(f"wrote {' and '.join(map(str, files))}, {size / 1e6:.1f} MB")
    if not metadata.experiment.model.masks:
        print_text(BOXES_ONLY)
    if FORMATS.get(options.format) in EXPORTED_SUFFIXES:
        _compare(source, path, options.score, comparison)
    return 0


def _check_request(arguments: ExportArguments) -> tuple[list[Path], list[Path]]:
    """Return the images of --calibrate and --check.

    Raises:
        SaisError: something that is known before PyTorch is loaded: options that do not go together, missing packages,
            files or images, or a file that cannot be written.
    """
    options, model, out = arguments.options, arguments.model, arguments.out
    need_torch("export")
    check_model(model)
    if model.suffix in EXPORTED_SUFFIXES:
        raise InputError(f"{model}: already exported. Give a .safetensors file or the folder of a training run.")
    check_options(options)
    check_packages(options)
    if options.format == "onnx" and not is_installed("onnxruntime"):  # for the comparison with PyTorch
        raise MissingDependencyError(
            'sais export: onnxruntime is not installed. Run: pip install "sais-seg[export]"', "onnxruntime", "export"
        )
    if out is None and options.format not in FORMATS:
        raise InputError(f"sais export: no name for the file of --format {options.format}. Give it with --out FILE.")
    if out is None and name_in_cache(model):
        raise InputError("sais export: no name for the file, as the model is in the cache. Give it with --out FILE.")
    name = model / "model.safetensors" if model.is_dir() else model  # its name is chosen once PyTorch is loaded
    if arguments.calibrate is not None and options.precision != "int8":
        raise ConfigError("sais export: --calibrate has no effect without --precision int8. Leave out one of them.")
    if arguments.check is not None and FORMATS.get(options.format) not in EXPORTED_SUFFIXES:
        raise ConfigError(f"sais export: --check has no effect with --format {options.format}. Leave it out.")
    if options.precision == "int8" and arguments.calibrate is None:
        raise InputError("sais export: --precision int8 needs images. Give them with --calibrate FOLDER.")
    images = _find(arguments.calibrate, arguments.max_images), _find(arguments.check, arguments.max_images)
    inputs = [*model_files(model), *images[0], *images[1]]
    check_output(out or name.with_suffix(FORMATS[options.format]), options.format, inputs, options.overwrite)
    return images


def _find(source: str | None, limit: int) -> list[Path]:
    """Return the first `limit` images of a source; print a note where there are more."""
    from sais.io.sources import find_images

    paths = find_images(source) if source else []
    if len(paths) > limit:
        print_text(f"{source}: using the first {limit} of {len(paths)} images (--max-images)")
    return paths[:limit]


def _compare(source: Path, path: Path, score: float | None, paths: list[Path]) -> None:
    """Print how far the file's detections differ from PyTorch's."""
    from sais.export.parity import MIN_COMPARED_SCORE, check_parity
    from sais.inference.options import InferenceOptions
    from sais.io.images import read_image

    options = InferenceOptions(score=max(score or 0, MIN_COMPARED_SCORE), device="cpu")
    with progress_bar("comparing with PyTorch", len(paths)) if paths else nullcontext(lambda done: None) as progress:

        def images() -> Iterator[np.ndarray]:
            for image_path in paths:
                yield read_image(image_path)
                progress(1)

        report = check_parity(source, path, images() if paths else None, options)
    print_text(f"compared with PyTorch: {report}")
    if not report.objects:
        print_text("no objects to compare: give images of the kind that the model was trained on, with --check FOLDER")
