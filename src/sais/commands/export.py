"""`sais export MODEL`: a trained model as a file for other programs, checked against torch."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from sais.commands.arguments import check_writable, parse, prepare_torch, progress_bar
from sais.errors import SaisError


@dataclass(frozen=True)
class ExportArguments:
    """Write a trained model as one file that other programs run, and check that it finds what torch finds.

    Graphs (names of outputs; D detections, padded with score 0; K prototypes; h w: a quarter of the canvas):
    raw: class_logits, centerness_logits, distances, coefficients, prototypes, dense, nothing left out.
    detections: boxes (B, D, 4) in canvas pixels, scores, labels, coefficients (B, D, K), prototypes (B, K, h, w);
    suppression is inside. masks: also mask_logits (B, D, h, w): enlarged bilinearly, positive is the object.
    The input `images` is uint8 (B, 3, height, width) RGB; class names and input rules are in the file's metadata.
    """

    model: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="MODEL")]
    """Model file, or the folder of a run."""
    out: Path | None = None
    """File to write; the model's name with the format's suffix, beside it, if not given."""
    format: Literal["onnx", "openvino", "torch-export"] = "onnx"
    """onnx runs nearly everywhere (TensorRT reads it too); openvino is fast on Intel; torch-export is a .pt2 file."""
    graph: Literal["raw", "detections", "masks"] = "detections"
    """What comes out; see above."""
    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    """fp16: half the size, for GPUs. int8: a quarter of the size, quicker on many processors; needs --calibrate."""
    score: float | None = None
    """Least score of a detection that comes out; not with --graph raw."""
    size: tuple[int, int] | None = None
    """Another input size (height width) than the model was trained with."""
    any_size: bool | None = None
    """Leave height and width open (multiples of 32); so by itself for models that keep the ratio."""
    calibrate: str | None = None
    """Images for int8: a folder or a glob in quotes; some dozens of the kind that the model will see."""
    most: int = 100
    """Use at most so many of the images of --calibrate and --check."""
    check: str | None = None
    """Images to compare the file with torch on: a folder or a glob in quotes. Without: synthetic scenes."""


def run(argv: Sequence[str]) -> int:
    """Run `sais export`."""
    arguments = parse(ExportArguments, argv, "sais export MODEL")
    prepare_torch("export")
    from sais.checkpoint import find_checkpoint
    from sais.export import FORMATS, ExportOptions, export_model

    if not arguments.model.exists():
        raise SaisError(f"{arguments.model}: no such model; give a model file, or the folder of a trained run")
    source = find_checkpoint(arguments.model)
    suffix = FORMATS[arguments.format]
    path = arguments.out or source.with_suffix(suffix)
    if path.suffix != suffix:
        raise SaisError(f"--out {path}: a file of --format {arguments.format} ends with {suffix}")
    if arguments.most < 1:
        raise SaisError("sais export: --most must be 1 or more")
    check_writable(path.parent)
    calibration, checked_on = (_some(source, arguments.most) for source in (arguments.calibrate, arguments.check))
    options = ExportOptions(
        arguments.format, arguments.graph, arguments.precision, arguments.score, arguments.size, arguments.any_size
    )
    print(f"{source}: exporting the graph '{arguments.graph}' ({arguments.precision}) to {path}, about a minute")
    with progress_bar("calibrating", len(calibration)) if calibration else nullcontext(lambda done: None) as progress:
        export_model(source, path, options, calibration, progress)
    size = sum(p.stat().st_size for p in (path, path.with_suffix(".bin")) if p.is_file())
    print(f"wrote {path}, {size / 1e6:.1f} MB")
    if arguments.format != "torch-export":
        _check(source, path, arguments.score, checked_on)
    return 0


def _some(source: str | None, most: int) -> list[Path]:
    """The first `most` images of a source; says where there are more."""
    from sais.io.sources import find_images

    found = find_images(source) if source else []
    if len(found) > most:
        print(f"{source}: the first {most} of {len(found)} images are used (--most)")
    return found[:most]


def _check(source: Path, path: Path, score: float | None, images: list[Path]) -> None:
    """Print how far the file's detections lie from torch's."""
    from sais.export.parity import LEAST_SCORE, check_parity
    from sais.io.images import read_image

    shown = map(read_image, images) if images else None
    difference = check_parity(source, path, shown, max(score or 0, LEAST_SCORE))
    print(f"checked against torch: {difference}")
    if not difference.objects:
        print("nothing was found to compare: give images of the kind the model knows, --check FOLDER")
