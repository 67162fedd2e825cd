"""`sais export MODEL`: write a trained model as a file for other programs and check it against PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from sais.commands.arguments import FLAT, Count, check_writable, parse, prepare_torch, progress_bar
from sais.commands.open_predictor import check_model
from sais.errors import InputError
from sais.export.options import FORMATS, ExportOptions
from sais.inference.options import EXPORTED_SUFFIXES
from sais.resolve import resolve


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
    """File to write; default: next to the model, with the format's suffix."""
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
    options = arguments.options
    prepare_torch("export")
    from sais.checkpoint import find_checkpoint
    from sais.export.exporter import export_model

    check_model(arguments.model)
    source = find_checkpoint(arguments.model)
    path = _output_path(arguments, source)
    check_writable(path.parent)
    calibration, comparison = (_find(s, arguments.max_images) for s in (arguments.calibrate, arguments.check))
    if options.precision == "int8" and not calibration:
        raise InputError("sais export: --precision int8 needs images. Give them with --calibrate FOLDER.")
    print(f"{source}: exporting the graph '{options.graph}' ({options.precision}) to {path}, about a minute")
    with progress_bar("calibrating", len(calibration)) if calibration else nullcontext(lambda done: None) as progress:
        export_model(source, path, options, calibration, progress)
    size = sum(p.stat().st_size for p in (path, path.with_suffix(".bin")) if p.is_file())
    print(f"wrote {path}, {size / 1e6:.1f} MB")
    if FORMATS.get(options.format) in EXPORTED_SUFFIXES:
        _check(source, path, options.score, comparison)
    return 0


def _output_path(arguments: ExportArguments, source: Path) -> Path:
    """Return the file to write; raise InputError if its suffix is not that of the format."""
    from sais.export.exporter import EXPORTERS

    name, out = arguments.options.format, arguments.out
    resolve(name, EXPORTERS, "format")  # raises for an unknown format
    if name not in FORMATS:
        if out is None:
            raise InputError(f"sais export: no name for the file of --format {name}. Give it with --out FILE.")
        return out
    path = out or source.with_suffix(FORMATS[name])
    if path.suffix != FORMATS[name]:
        raise InputError(f"--out {path}: not a file of --format {name}. Give a name that ends with {FORMATS[name]}.")
    return path


def _find(source: str | None, limit: int) -> list[Path]:
    """Return the first `limit` images of a source; print a note where there are more."""
    from sais.io.sources import find_images

    paths = find_images(source) if source else []
    if len(paths) > limit:
        print(f"{source}: using the first {limit} of {len(paths)} images (--max-images)")
    return paths[:limit]


def _check(source: Path, path: Path, score: float | None, paths: list[Path]) -> None:
    """Print how far the file's detections differ from PyTorch's."""
    from sais.export.parity import MIN_COMPARED_SCORE, check_parity
    from sais.inference.options import InferenceOptions
    from sais.io.images import read_image

    images = map(read_image, paths) if paths else None
    options = InferenceOptions(score=max(score or 0, MIN_COMPARED_SCORE), device="cpu")
    report = check_parity(source, path, images, options)
    print(f"compared with PyTorch: {report}")
    if not report.objects:
        print("no objects to compare: give images of the kind that the model was trained on, with --check FOLDER")
