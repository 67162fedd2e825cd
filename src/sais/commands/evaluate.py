"""`sais eval MODEL --data DIR`: COCO box and mask AP, and results in the COCO submission format."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from sais.commands.arguments import FLAT, Workers, check_writable, need_package, parse, progress_bar, with_json_file
from sais.commands.data_remarks import name_data_options
from sais.commands.input_files import annotation_files, image_files, model_files
from sais.commands.labeled_split import LabeledSplit
from sais.commands.open_predictor import BOXES_ONLY, check_model, open_predictor
from sais.data.options import DataOptions
from sais.hub import check_not_in_cache
from sais.inference.options import InferenceOptions
from sais.io.atomic import write_text
from sais.io.outputs import PAGE, check_outputs, written_by
from sais.text import print_json, print_lines, print_text

if TYPE_CHECKING:
    from sais.data.annotations import DatasetSplit
    from sais.evaluation.coco_metrics import IouType
    from sais.evaluation.error_budget import ErrorBudget
    from sais.evaluation.evaluate import Evaluation
    from sais.inference.predictor import Predictor
    from sais.inference.score_thresholds import ScoreThresholds

WRITER = "sais eval"
ERROR_FILES = ("index.html", "errors.json", "errors.csv")
"""Files of --errors, as `sais.reports.error_report` names them."""


@dataclass(frozen=True)
class EvalArguments:
    """Evaluate a model on labeled images: COCO AP and AR of boxes and masks, over all classes and per class.

    AP counts all detections above a class probability of 0.05, at most 100 per image; --max-detections counts more.
    Images without annotations (COCO's test-dev) have no AP, but --results still writes their detections. --classes also
    drops or merges the classes of the objects, as in `sais train`: --classes cat vehicle=car+truck.
    """

    model: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="MODEL")]
    """Model file, folder of a training run, or exported file (.onnx, .xml)."""
    data: Path | None = None
    """Folder of the data set, or its name in the folder $SAIS_DATA."""
    split: str = "valid"
    """Split to evaluate on."""
    annotations: Path | None = None
    """COCO JSON to evaluate on, instead of --data."""
    images: Path | None = None
    """Folder of the images of --annotations."""
    reading: Annotated[DataOptions, FLAT] = field(default_factory=DataOptions)
    """Options of reading the data set."""
    json: str = ""
    """File to write the metrics to as JSON. Without a file, or with -, they are printed instead of the table."""
    results: Path | None = None
    """Write all detections to this file in the COCO submission format."""
    overwrite: bool = False
    """Replace any existing file of --json, --results and --errors, except those that are read."""
    errors: Path | None = None
    """Write a page about the errors to this folder (index.html, errors.json, errors.csv): the worst missed objects and
    false detections as images; results by class, size and crowding; thresholds and calibration."""
    error_budget: bool = False
    """Also print what AP would be if one kind of error, or one part of each detection, were put right: classes,
    localization, duplicates, misses, crops, masks, ranking. Takes about a second per 1,500 detections."""
    save_thresholds: bool = False
    """Store the best score thresholds on these images in the model file or exported file; predictions then use them."""
    min_precision: float | None = None
    """Choose the thresholds for at least this precision at IoU 0.5, with the highest recall, instead of the best F1."""
    min_recall: float | None = None
    """Choose the thresholds for at least this recall at IoU 0.5, with the highest precision, instead of the best F1."""
    inference: Annotated[InferenceOptions, FLAT] = field(default_factory=InferenceOptions)
    workers: Workers = 2
    """Number of processes (for exported models: threads) that read images."""
    skip_broken: bool = False
    """Skip and count unreadable images instead of stopping at the first."""


def run(argv: Sequence[str]) -> int:
    """Run `sais eval`."""
    arguments = parse(EvalArguments, with_json_file(argv), "sais eval MODEL")
    from sais.evaluation.score_thresholds import ThresholdGoal, best_thresholds, store_thresholds

    goal = ThresholdGoal(arguments.min_precision, arguments.min_recall)
    outputs = _outputs(arguments)
    inputs = [*model_files(arguments.model), *annotation_files(arguments.data, arguments.annotations)]
    check_outputs(outputs, inputs, arguments.overwrite, own=_is_own)
    check_model(arguments.model)
    if arguments.save_thresholds:
        _check_storable(arguments.model)
    source = LabeledSplit(
        "eval", arguments.data, arguments.split, arguments.annotations, arguments.images, arguments.reading
    )
    source.check()
    if arguments.errors is not None:
        for package in ("jinja2", "matplotlib"):
            need_package("eval --errors", package, "train")
    from sais.data.remarks import describe_split
    from sais.evaluation.evaluate import evaluate

    predictor, split = _open(arguments, source)
    check_outputs(outputs, image_files(split), arguments.overwrite, own=_is_own)
    options = predictor.options
    if arguments.json != "-":
        for line in describe_split(split, "evaluate"):
            print_text(f"note: {name_data_options(line)}")
    with progress_bar("evaluating", len(split.images)) as progress:
        evaluation = evaluate(
            predictor, split, options.read_batch_size, arguments.workers, arguments.skip_broken, progress
        )
    thresholds = best_thresholds(evaluation, goal)
    budget = _error_budget(evaluation) if arguments.error_budget else None
    report = _to_dict(arguments, options, evaluation, thresholds)
    report["error_budget"] = None if budget is None else budget.to_dict()
    if arguments.results is not None:
        write_text(arguments.results, json.dumps(evaluation.results))
    for file in _json_file(arguments):  # before the table, which a closed pipe such as `| head` ends
        write_text(file, json.dumps(report, indent=2))
    if arguments.errors is not None and evaluation.metrics is not None:
        from sais.reports.error_report import write_error_report

        write_error_report(arguments.errors, evaluation, str(arguments.model), goal)
    stored = None
    if arguments.save_thresholds and thresholds is not None:
        stored = store_thresholds(arguments.model, thresholds)
    if arguments.json == "-":
        print_json(report)
        return 0
    _print_metrics(evaluation, budget)
    _print_notes(predictor, evaluation)
    _print_thresholds(arguments, evaluation, thresholds, stored)
    _print_files(arguments, evaluation)
    return 0


def _check_storable(model: Path) -> None:
    """Check that thresholds can be stored in a model, before the evaluation, whose results would be lost."""
    check_not_in_cache(model)
    if model.exists():  # reported where the model is opened
        check_writable(model if model.is_dir() else model.parent)
    if model.suffix == ".onnx":
        need_package("eval --save-thresholds", "onnx", "export")


def _outputs(arguments: EvalArguments) -> list[Path]:
    """Return the files that are written."""
    pages = [] if arguments.errors is None else [arguments.errors / name for name in ERROR_FILES]
    return [*([arguments.results] if arguments.results else []), *_json_file(arguments), *pages]


def _is_own(path: Path) -> bool:
    """Return whether a file was written by this command."""
    return written_by(PAGE if path.suffix == ".html" else WRITER)(path)


def _print_metrics(evaluation: Evaluation, budget: ErrorBudget | None) -> None:
    metrics = evaluation.metrics
    counts = f"{len(evaluation.results)} detections in {len(evaluation.dataset_split.images)} images"
    print_lines(f"no annotations: no metrics\n{counts}" if metrics is None else metrics.table())
    if budget is not None:
        print_lines(f"\n{budget.table()}\n")


def _print_thresholds(
    arguments: EvalArguments, evaluation: Evaluation, thresholds: ScoreThresholds | None, stored: Path | None
) -> None:
    """Print the threshold over all classes, and where the thresholds were stored."""
    if thresholds is not None:
        f1 = f"{thresholds.f1:.3f}" if thresholds.criterion == "best F1" else f"F1 {thresholds.f1:.3f}"
        saved = "" if stored is None else f", stored in {stored}"
        print_text(f"{thresholds.criterion} of {thresholds.kind}: {f1} at score >= {thresholds.overall:.3g}{saved}")
    if arguments.save_thresholds and thresholds is None:
        reason = "no annotations" if evaluation.metrics is None else "no detection is correct"
        print_text(f"note: {reason}, so that no thresholds were stored")


def _print_files(arguments: EvalArguments, evaluation: Evaluation) -> None:
    """Print what was skipped and what was written."""
    unreadable = evaluation.unreadable_images
    if unreadable:
        print_text(f"skipped {len(unreadable)} unreadable images, the first: {unreadable[0]}")
    if arguments.errors is not None and evaluation.metrics is None:
        print_text("note: no annotations, so that no page about errors was written")
    page = None if arguments.errors is None or evaluation.metrics is None else arguments.errors / "index.html"
    written = [str(file) for file in (arguments.results, arguments.json, page) if file]
    if written:
        print_text("wrote " + ", ".join(written))


def _print_notes(predictor: Predictor, evaluation: Evaluation) -> None:
    """Print what the metrics leave out: masks, or detections beyond the maximum."""
    metrics = evaluation.metrics
    if not predictor.experiment.model.masks:
        print_text(BOXES_ONLY)
    elif metrics is not None and metrics.mask is None and metrics.objects:
        print_text("note: no object has an outline, so mask AP is undefined: boxes only")
    if evaluation.limit_note():
        print_text(f"note: {evaluation.limit_note().replace('a higher max_detections', 'a higher --max-detections')}")


def _json_file(arguments: EvalArguments) -> list[Path]:
    """Return the file of --json, if it is one."""
    return [Path(arguments.json)] if arguments.json not in ("", "-") else []


def _to_dict(
    arguments: EvalArguments, options: InferenceOptions, evaluation: Evaluation, thresholds: ScoreThresholds | None
) -> dict[str, Any]:
    """Return the result as a dictionary for JSON."""
    metrics = evaluation.metrics
    return {
        "written_by": WRITER,
        "model": str(arguments.model),
        "data": str(arguments.annotations or arguments.data),
        "split": None if arguments.annotations else arguments.split,
        "tta_flip": options.tta_flip,
        "tta_scales": list(options.tta_scales),
        "tiles": options.tiles,
        "images": len(evaluation.dataset_split.images) + len(evaluation.unreadable_images),
        "unreadable_images": len(evaluation.unreadable_images),
        "detections": len(evaluation.results),
        "thresholds": None if thresholds is None else thresholds.to_dict(),
        "metrics": None if metrics is None else metrics.to_dict(),
    }


def _error_budget(evaluation: Evaluation) -> ErrorBudget | None:
    """Return the error budget of masks, of boxes if there are none; None without annotations."""
    from sais.evaluation.error_budget import error_budget

    metrics = evaluation.metrics
    if metrics is None:
        return None
    kind: IouType = "segm" if metrics.mask is not None else "bbox"
    return error_budget(evaluation.dataset_split, evaluation.results, kind, evaluation.max_detections)


def _open(arguments: EvalArguments, source: LabeledSplit) -> tuple[Predictor, DatasetSplit]:
    """Open the model and the split, whose labels follow the model's classes; --classes chooses some of these."""
    from sais.data.class_selection import choose_classes, with_classes_of_model

    options = arguments.inference
    if not options.classes:
        predictor = open_predictor("eval", arguments.model, options)
        return predictor, source.read(tuple(predictor.class_names))
    chosen = choose_classes(source.read(None), options.classes)
    predictor = open_predictor("eval", arguments.model, replace(options, classes=chosen.class_names))
    return predictor, with_classes_of_model(chosen, tuple(predictor.class_names))
