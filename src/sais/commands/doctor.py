"""`sais doctor DIR`: the contents of a data set and the mistakes in it, before training on it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from sais.commands.arguments import FLAT, Workers, need_package, parse, progress_bar
from sais.commands.doctor_results import SplitResult, compare_categories, print_results, results_to_dict
from sais.data.options import DataOptions
from sais.errors import ConfigError, InputError, SaisError
from sais.text import print_json, print_text, printable, short_name

if TYPE_CHECKING:
    from sais.data.doctor.report import CheckReport
    from sais.recipes.recommendation import Recommendation


@dataclass(frozen=True)
class DoctorArguments:
    """Examine every image and every object of a data set; print its contents, its mistakes and how to train on it.

    An ERROR would stop a training run or make it wrong: unreadable images, wrong image sizes, malformed entries, or a
    split that lacks categories of the training split; the exit code is then 2. A WARNING probably costs accuracy, a
    NOTE is for information. --fix OUT writes a copy in which what needs no decision is repaired.
    """

    data: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR")]
    """Folder of the data set, its name in the folder $SAIS_DATA, or a COCO JSON."""
    split: str = ""
    """Split to examine. Default: every split of the data set."""
    image_folder: Path | None = None
    """Folder of the images, where DIR is a COCO JSON. Default: the folder of DIR."""
    classes: tuple[str, ...] = ()
    """Classes to use, such as cat dog; vehicle=car+truck merges classes, as in `sais train`. Default: all."""
    reading: Annotated[DataOptions, FLAT] = field(default_factory=DataOptions)
    """Options of reading the data set."""
    decode: bool = True
    """Decode the pixels of every image, which finds truncated files, copies and near-duplicates; --no-decode reads
    sizes only."""
    workers: Workers | None = None
    """Number of threads that decode images. Default: one for each core."""
    model: Path | None = None
    """Model file, folder of a training run, or exported file: also report confident detections without a label, labels
    that the model never finds, and labels that it detects as another class."""
    device: str = "auto"
    """Device of --model: auto, cpu, cuda or mps."""
    trust: bool = False
    """Import and run code outside of sais that the file of --model names, and open an exported graph that another
    program has changed."""
    html: Path | None = None
    """HTML file to write: findings with images, sizes, positions and the recommended training, in one page."""
    json: bool = False
    """Print the report as JSON, with all cases of each finding."""
    fix: Path | None = None
    """Folder for a repaired copy, as COCO: without unreadable images, copies, doubled and empty objects; with corrected
    boxes, areas and outlines. What was changed is printed. The data set is not changed."""
    fix_images: Literal["copy", "link"] = "copy"
    """Images of the repaired copy: copy them, or make hard links."""
    fail_on: Literal["error", "warning"] = "error"
    """Severity from which the exit code is 2."""
    overwrite: bool = False
    """Replace any existing file, not only earlier results; never one that is read."""


def run(argv: Sequence[str]) -> int:
    """Run `sais doctor`."""
    arguments = parse(DoctorArguments, argv, "sais doctor DIR")
    from sais.data.doctor.check import check_across
    from sais.data.formats.unsplit import whole_sets

    data, names = _find_splits(arguments)
    _check_outputs(arguments, data)
    results = {name or data.stem: _check_split(arguments, data, name) for name in names}
    reports = [result.report for result in results.values() if result.report is not None]
    whole = whole_sets([report.split for report in reports])
    distinct = [report for report in reports if report.split.name not in whole]
    check_across(distinct)
    compare_categories(results)
    if arguments.model is not None:
        from sais.commands.model_suggestions import add_suggestions

        add_suggestions(distinct, arguments.model, arguments.device, arguments.trust)
    recommendation = _recommendation(arguments, distinct)
    if arguments.json:
        print_json(results_to_dict(results, recommendation))
    else:
        print_results(results, whole, recommendation)
        _print_next_step(arguments, data, results, recommendation)
    if arguments.html is not None:
        _write_page(arguments, arguments.html, data, results, recommendation)
    if arguments.fix is not None:
        unreadable = [name for name, result in results.items() if result.report is None]
        _write_repaired(arguments, data, distinct, unreadable)
        return 2 if unreadable else 0
    failed = [result for result in results.values() if not result.ok or _has_warning(arguments, result)]
    return 2 if failed else 0


def _has_warning(arguments: DoctorArguments, result: SplitResult) -> bool:
    return arguments.fail_on == "warning" and result.has_warning


def _write_page(
    arguments: DoctorArguments,
    path: Path,
    data: Path,
    results: Mapping[str, SplitResult],
    recommendation: Recommendation | None,
) -> None:
    """Write the HTML page."""
    from sais.commands.input_files import image_files
    from sais.io.outputs import PAGE, check_outputs, written_by
    from sais.reports.data_report import write_data_report

    reports = [result.report for result in results.values() if result.report is not None]
    images = image_files(*(report.split for report in reports))
    check_outputs([path], images, arguments.overwrite, own=written_by(PAGE))
    errors = {name: result.errors for name, result in results.items() if result.errors}
    page = write_data_report(reports, path, data.resolve().name, recommendation, errors)
    print_text(f"wrote {page}")


def _find_splits(arguments: DoctorArguments) -> tuple[Path, list[str]]:
    """Return the folder or file of the data set and the names of its splits, "" for that of a file."""
    from sais.data.formats import list_splits
    from sais.data.formats.unsplit import describe_remedy
    from sais.data.paths import locate

    if arguments.data.is_file():
        return arguments.data, [""]
    data = locate(arguments.data)
    names = [arguments.split] if arguments.split else list_splits(data, arguments.reading.format)
    if not names:
        if not data.is_dir():
            raise InputError(f"{data}: no such data folder. Check the path.")
        raise InputError(f"{data}: no labels in a known format. {describe_remedy(data, [])}")
    return data, names


def _check_outputs(arguments: DoctorArguments, data: Path) -> None:
    """Check the places of the results before the work starts."""
    from sais.commands.input_files import annotation_files, model_files
    from sais.commands.open_predictor import check_model
    from sais.io.atomic import check_writable
    from sais.io.outputs import PAGE, check_outputs, written_by

    if arguments.model is not None:
        check_model(arguments.model)
    if arguments.html is not None:
        need_package("doctor", "jinja2", "report")
        inputs = [data] if data.is_file() else list(annotation_files(data))
        inputs += [] if arguments.model is None else model_files(arguments.model)
        check_outputs([arguments.html], inputs, arguments.overwrite, own=written_by(PAGE))
    if arguments.fix is None:
        return
    if arguments.classes or arguments.split or not arguments.decode:
        option = "--classes" if arguments.classes else "--split" if arguments.split else "--no-decode"
        raise ConfigError(f"--fix: cannot be combined with {option}, because the copy is complete. Leave one out.")
    if arguments.fix.exists() and os.path.samefile(arguments.fix, data):
        raise InputError(f"{arguments.fix}: the folder of the data set that is read. Choose another output folder.")
    check_writable(arguments.fix)


def _check_split(arguments: DoctorArguments, data: Path, name: str) -> SplitResult:
    """Check one split of a folder, or the split of an annotation file if `name` is empty."""
    from sais.data.class_selection import choose_classes
    from sais.data.doctor.check import check_dataset
    from sais.data.formats import read_dataset, read_dataset_files

    problems: dict[str, list[str]] = {}
    is_main = name in ("", arguments.split) or name.startswith("train")
    try:
        if name:
            split = read_dataset(data, name, options=arguments.reading, problems=problems)
        else:
            split = read_dataset_files(data, arguments.image_folder or data.parent, None, arguments.reading, problems)
        split = choose_classes(split, arguments.classes, allow_missing=not is_main)
    except SaisError as error:
        messages = [message for group in problems.values() for message in group]
        return SplitResult(None, [*messages, str(error)], [])
    workers = (os.cpu_count() or 1) if arguments.workers is None else arguments.workers
    with progress_bar(f"examining {split.name}", len(split.images)) as progress:
        report = check_dataset(split, arguments.decode, lambda done, _: progress(1), problems, workers)
    return SplitResult(report, [], [])


def _recommendation(arguments: DoctorArguments, reports: Sequence[CheckReport]) -> Recommendation | None:
    """Return how to train on the first split; None if it is held out or has no objects."""
    from sais.data.formats.unsplit import is_held_out
    from sais.data.packed_annotations import object_columns
    from sais.recipes.recommendation import recommend_training

    if not reports or is_held_out(reports[0].split.name) or object_columns(reports[0].split.images).crowds.all():
        return None
    return recommend_training(reports[0].split, _data_options(arguments))


def _data_options(arguments: DoctorArguments) -> list[str]:
    """Return the options of `sais train` that name the examined data."""
    words = ["--data", str(arguments.data)]
    if arguments.data.is_file():
        words = ["--train-annotations", str(arguments.data), "--train-images"]
        words.append(str(arguments.image_folder or arguments.data.parent))
    elif arguments.split not in ("", "train"):
        words += ["--train-split", arguments.split]
    for name in ("crowds_as_objects", "merge_duplicate_images", "outside_images"):
        words += ["--" + name.replace("_", "-")] if getattr(arguments.reading, name) else []
    words += ["--format", arguments.reading.format] if arguments.reading.format != "auto" else []
    return [*words, *(["--classes", *arguments.classes] if arguments.classes else [])]


def _print_next_step(
    arguments: DoctorArguments,
    data: Path,
    results: Mapping[str, SplitResult],
    recommendation: Recommendation | None,
) -> None:
    """Print what to do next: fix the errors, split the labels, or train."""
    import shlex

    from sais.data.formats.unsplit import describe_remedy

    if not all(result.ok for result in results.values()):
        reports = [result.report for result in results.values() if result.report is not None]
        unreadable = any(report.findings and not report.ok for report in reports)
        skip = ", or train with --skip-broken" if unreadable else ""
        print_text(f"fix the entries marked ERROR (--fix OUT writes a repaired copy){skip}")
    elif data.is_dir() and not arguments.split and not any(name.startswith("train") for name in results):
        print_text(f"no split is called train. {describe_remedy(data, [])}")
    elif recommendation is not None:
        print_text(*recommendation.lines(), sep="\n")
        if data.is_file():
            print_text(
                f"first, unless you have validation images in another file: {shlex.join(['sais', 'split', str(data)])}"
            )


def _write_repaired(
    arguments: DoctorArguments, data: Path, reports: Sequence[CheckReport], unreadable: Sequence[str]
) -> None:
    """Write the repaired copy and print what was changed; it lacks the splits that are unreadable."""
    from sais.commands.input_files import annotation_files
    from sais.data.convert import with_same_classes, write_splits
    from sais.data.doctor.repair import repair

    assert arguments.fix is not None
    if not reports:
        raise InputError(f"{data}: no split can be read. Fix the errors above first.")
    results = repair(reports)
    repaired = [result for result in results if result.split.images]
    if not repaired:
        raise InputError(f"{data}: no image can be used. Restore the images.")
    splits = with_same_classes([result.split for result in repaired])
    with progress_bar("writing", sum(len(split.images) for split in splits)) as progress:
        write_splits(
            splits,
            arguments.fix,
            "coco",
            inputs=annotation_files(data),
            images=arguments.fix_images,
            overwrite=arguments.overwrite,
            start=lambda total: progress,
        )
    for result in results:
        changes = [f"{printable(what)}: {count}" for what, count in result.changes.items()]
        changes += [] if result.split.images else ["no image is left, so that the copy lacks this split"]
        print_text(f"{short_name(result.split.name)}: {'; '.join(changes) or 'nothing to repair'}")
    for name in unreadable:
        print_text(f"{short_name(name)}: cannot be read, so that the copy lacks this split")
    print_text(f"wrote {arguments.fix}; next: sais doctor {arguments.fix}")
