"""`sais predict-many MODEL INPUT OUTPUT`: predict an archive into shards, on all cores, GPUs or machines."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from sais.commands.arguments import FLAT, need_torch, parse
from sais.commands.open_predictor import check_model, report_unfinished
from sais.errors import InputError, SaisError
from sais.inference.options import EXPORTED_SUFFIXES, InferenceOptions
from sais.io.image_reader import conversion_notes
from sais.io.sources import STANDARD_INPUT
from sais.scaling.options import ManyOptions, choose_engine
from sais.text import print_text, printable, short_name

if TYPE_CHECKING:
    from sais.scaling.run import ManySummary


@dataclass(frozen=True)
class PredictManyArguments:
    """Predict many images into shards, with several processes or a Ray cluster; continue an interrupted run.

    Writes Parquet (or COCO) files to OUTPUT/detections, and images that cannot be read to OUTPUT/errors. The same
    command again predicts what is missing: each image is in exactly one shard, and a shard is complete or not there.
    """

    model: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="MODEL")]
    """Model file, folder of a training run, or exported file (.onnx and .xml need no PyTorch)."""
    input: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="INPUT")]
    """Folder, "glob/**/*.jpg", list of paths and addresses (.txt, or -), Parquet or WebDataset files
    ("train-{00..99}.tar"), local or remote, such as s3://bucket/photos."""
    output: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="OUTPUT")]
    """Folder to write to, local or remote; machines of a cluster need one that all of them reach."""
    many: Annotated[ManyOptions, FLAT] = field(default_factory=ManyOptions)
    inference: Annotated[InferenceOptions, FLAT] = field(default_factory=InferenceOptions)


def run(argv: Sequence[str]) -> int:
    """Run `sais predict-many`."""
    arguments = parse(PredictManyArguments, argv, "sais predict-many MODEL INPUT OUTPUT")
    check_model(arguments.model)
    if arguments.model.suffix not in EXPORTED_SUFFIXES:
        need_torch("predict-many")
        report_unfinished(arguments.model)
    from sais.scaling.run import predict_many

    if choose_engine(arguments.many) == "local" and importlib.util.find_spec("ray") is None:
        print_text('note: Ray is not installed: one process. pip install "sais-seg[ray]" uses all cores and machines')
    listing = sys.stdin.buffer.read() if arguments.input == STANDARD_INPUT else b""
    summary = predict_many(
        arguments.model,
        arguments.input,
        arguments.output,
        arguments.inference,
        arguments.many,
        listing,
        lambda line: print_text(printable(line), flush=True),
    )
    print_text(*_lines(summary), sep="\n")
    manifest = summary.manifest
    if summary.failures:
        numbers = ", ".join(str(failure.number) for failure in summary.failures)
        raise SaisError(f"{arguments.output}: shards {numbers} are missing. Repeat the command to predict them.")
    if manifest.unreadable == manifest.images:
        raise InputError(f"{arguments.input}: none of the {manifest.images} images can be read. See OUTPUT/errors.")
    print_text(f"wrote {printable(arguments.output)}")
    return 0


def _lines(summary: ManySummary) -> list[str]:
    """Return lines about a run."""
    manifest = summary.manifest
    totals = ", ".join(f"{count} {short_name(name)}" for name, count in summary.objects.most_common()) or "no objects"
    lines = conversion_notes(summary.notes)
    if summary.before:
        lines.append(f"{summary.before} images had been predicted before")
    if summary.errors:
        kinds = ", ".join(f"{count} {printable(kind)}" for kind, count in summary.errors.most_common())
        lines.append(f"{summary.errors.total()} unreadable images, listed in errors: {kinds}")
    if summary.limited:
        lines.append(f"the limit of detections was reached by {summary.limited} images; raise --max-detections")
    if summary.images:
        lines.append(f"{summary.images} images in this run: {totals}")
    state = "complete" if manifest.complete else "incomplete"
    return [*lines, f"{state}: {manifest.images} images in {manifest.shards} shards"]
