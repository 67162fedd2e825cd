"""`sais compare A B --data DIR`: two models on the same images: AP, its difference with an interval, speed and size."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from sais.commands.arguments import FLAT, Count, Seed, Workers, need_package, parse, with_json_file
from sais.commands.data_remarks import name_data_options
from sais.commands.input_files import annotation_files, image_files, model_files
from sais.commands.labeled_split import LabeledSplit
from sais.commands.open_predictor import check_model
from sais.commands.options import Maximum, Minimum
from sais.data.options import DataOptions
from sais.inference.options import InferenceOptions
from sais.io.atomic import write_text
from sais.io.outputs import PAGE, check_outputs, written_by
from sais.text import print_json, print_lines, print_text

if TYPE_CHECKING:
    from sais.reports.comparison_report import Comparison

WRITER = "sais compare"
PAGE_FILES = ("index.html", "compare.json")
"""Files of --out, as `sais.reports.comparison_report` names them."""

FEW_IMAGES = 30
"""Number of images below which a percentile bootstrap is too certain."""


@dataclass(frozen=True)
class CompareModelsArguments:
    """Compare two models on the same labeled images: AP by class and size, and how certain the difference is.

    A and B are model files, folders of runs, exported files (.onnx, .xml), or files with detections: predictions.json
    of `sais predict`, or those of `sais eval --results`. The 95 % interval and p of each difference are of a paired
    bootstrap over the images. Classes that only one of the models has are left out.
    """

    first: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="A")]
    """Model, or file with detections, to compare with."""
    second: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="B")]
    """Model, or file with detections, that is compared: differences are B minus A."""
    data: Path | None = None
    """Folder of the data set, or its name in the folder $SAIS_DATA."""
    split: str = "valid"
    """Split to compare on."""
    annotations: Path | None = None
    """COCO JSON to compare on, instead of --data."""
    images: Path | None = None
    """Folder of the images of --annotations."""
    reading: Annotated[DataOptions, FLAT] = field(default_factory=DataOptions)
    """Options of reading the data set."""
    out: Path | None = None
    """Write a page with the images on which the models differ to this folder (index.html, compare.json)."""
    json: str = ""
    """File to write the comparison to as JSON. Without a file, or with -, it is printed instead of the table."""
    overwrite: bool = False
    """Replace any existing file of --out and --json, except those that are read."""
    resamples: Count = 1000
    """Number of draws of the bootstrap."""
    seed: Seed = 0
    """Seed of the draws."""
    timing_images: Annotated[int, Minimum(0), Maximum(10**6)] = 12
    """Number of images on which the time of both models is measured; 0: no times."""
    inference: Annotated[InferenceOptions, FLAT] = field(default_factory=InferenceOptions)
    workers: Workers = 2
    """Number of processes (for exported models: threads) that read images."""
    skip_broken: bool = False
    """Skip and count unreadable images instead of stopping at the first."""


def run(argv: Sequence[str]) -> int:
    """Run `sais compare`."""
    arguments = parse(CompareModelsArguments, with_json_file(argv), "sais compare A B")
    paths = (arguments.first, arguments.second)
    outputs = _outputs(arguments)
    inputs = [file for path in paths for file in model_files(path)]
    inputs += annotation_files(arguments.data, arguments.annotations)
    check_outputs(outputs, inputs, arguments.overwrite, own=_is_own)
    for path in paths:
        check_model(path)
    source = LabeledSplit(
        "compare", arguments.data, arguments.split, arguments.annotations, arguments.images, arguments.reading
    )
    source.check()
    need_package("compare", "faster_coco_eval", "eval", "faster-coco-eval")
    if arguments.out is not None:
        need_package("compare --out", "jinja2", "report")
    comparison = _compare(arguments, source, outputs)
    document = comparison.to_dict()
    if arguments.json not in ("", "-"):
        write_text(Path(arguments.json), json.dumps(document, indent=2))
    if arguments.out is not None:
        from sais.reports.comparison_report import write_comparison

        write_comparison(arguments.out, comparison)
    if arguments.json == "-":
        print_json(document)
        return 0
    _print(comparison)
    page = None if arguments.out is None else arguments.out / "index.html"
    written = [str(file) for file in (arguments.json, page) if file]
    if written:
        print_text("wrote " + ", ".join(written))
    return 0


def _compare(arguments: CompareModelsArguments, source: LabeledSplit, outputs: Sequence[Path]) -> Comparison:
    """Evaluate both models and compare them."""
    from sais.commands import compared_models as models
    from sais.data.remarks import describe_split
    from sais.evaluation.bootstrap import bootstrap_differences
    from sais.reports.comparison_report import Comparison

    candidates = models.open_candidates((arguments.first, arguments.second), arguments.inference)
    split, notes = models.choose_common_classes(candidates, source.read(None), arguments.inference.classes)
    check_outputs(outputs, image_files(split), arguments.overwrite, own=_is_own)
    if arguments.json != "-":
        for line in describe_split(split, "evaluate"):
            print_text(f"note: {name_data_options(line)}")
    for candidate in candidates:
        models.evaluate_candidate(candidate, split, arguments.inference, arguments.workers, arguments.skip_broken)
    split, image_notes = models.common_images(candidates)
    models.time_candidates(candidates, split.images, arguments.timing_images)
    kind = models.shared_iou_type(candidates, split)
    (first, matches), (second, other) = (models.summarize_candidate(c, split, kind) for c in candidates)
    differences = bootstrap_differences(matches, other, split.class_names, arguments.resamples, arguments.seed)
    notes += image_notes
    if len(split.images) < FEW_IMAGES:
        notes.append(f"With {len(split.images)} images, the intervals are narrower than they should be.")
    if any(candidate.predictions is not None for candidate in candidates):
        notes.append("A file with detections above a minimum score has a lower AP than the model itself.")
    return Comparison(split, kind, (first, second), differences, tuple(notes))


def _print(comparison: Comparison) -> None:
    """Print the comparison as tables."""
    from sais.evaluation.coco_metrics import align_columns
    from sais.reports import comparison_report as report

    shape = "mask" if comparison.iou_type == "segm" else "box"
    first, second = comparison.models
    print_lines(f"A  {first.name}\nB  {second.name}\n")
    tables = [report.figure_table(comparison.differences), *report.class_tables(comparison.differences)]
    tables += [report.fact_table(comparison.models), report.object_table(comparison.counts)]
    for table in tables:
        if table is not None:
            print_lines(align_columns([list(table.columns), *map(list, table.rows)]) + "\n")
    for note in comparison.notes:
        print_text(f"note: {note}")
    print_text(f"{comparison.differences.images} images, {comparison.differences.resamples} draws of the bootstrap")
    print_text(report.describe_difference(comparison.differences.figures["AP"], shape))


def _outputs(arguments: CompareModelsArguments) -> list[Path]:
    """Return the files that are written."""
    pages = [] if arguments.out is None else [arguments.out / name for name in PAGE_FILES]
    return [*pages, *([Path(arguments.json)] if arguments.json not in ("", "-") else [])]


def _is_own(path: Path) -> bool:
    """Return whether a file was written by this command."""
    return written_by(PAGE if path.suffix == ".html" else WRITER)(path)
