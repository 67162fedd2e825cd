"""`sais check DIR`: find the mistakes in a data set before training on it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from sais.commands.arguments import FLAT, parse, progress_bar
from sais.commands.data_remarks import name_data_options
from sais.commands.recommend import recommend
from sais.data.options import DataOptions
from sais.errors import InputError, SaisError
from sais.text import print_json, print_lines, print_text, printable, short_name, short_names

if TYPE_CHECKING:
    from sais.data.doctor.check import CheckReport


@dataclass(frozen=True)
class CheckArguments:
    """Check every image and every annotation of a data set, and report its contents and its mistakes.

    An ERROR would stop a training run or make it wrong: unreadable images, wrong image sizes, malformed entries, or a
    split that lacks categories of the training split; the exit code is then 2. A WARNING probably costs accuracy, a
    NOTE is for information.
    """

    data: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR")]
    """Folder of the data set, its name in the folder $SAIS_DATA, or a COCO JSON with --images."""
    split: str = ""
    """Split to check. Default: every split of the data set."""
    images: Path | None = None
    """Folder of the images, where DIR is a COCO JSON."""
    classes: tuple[str, ...] = ()
    """Classes to use, such as cat dog; vehicle=car+truck merges classes, as in `sais train`. Default: all."""
    reading: Annotated[DataOptions, FLAT] = field(default_factory=DataOptions)
    """Options of reading the data set."""
    decode: bool = True
    """Decode the pixels of every image, which finds truncated files and copies; --no-decode reads sizes only."""
    json: bool = False
    """Print the report as JSON, with all cases of each finding."""


@dataclass
class _SplitResult:
    """The result of one split."""

    report: CheckReport | None
    """None if the split cannot be read."""
    errors: list[str]
    """Errors of the whole split."""
    warnings: list[str]

    @property
    def ok(self) -> bool:
        return self.report is not None and self.report.ok and not self.errors


def run(argv: Sequence[str]) -> int:
    """Run `sais check`."""
    arguments = parse(CheckArguments, argv, "sais check DIR")
    from sais.data.doctor.check import check_across
    from sais.data.formats import list_splits
    from sais.data.formats.unsplit import describe_remedy, is_held_out, whole_sets
    from sais.data.paths import locate

    if arguments.data.is_file():
        names, data = [""], arguments.data
    else:
        data = locate(arguments.data)
        names = [arguments.split] if arguments.split else list_splits(data, arguments.reading.format)
    if not names:
        if not data.is_dir():
            raise InputError(f"{data}: no such data folder. Check the path.")
        raise InputError(f"{data}: no labels in a known format. {describe_remedy(data, [])}")
    results = {name or data.stem: _check_split(arguments, data, name) for name in names}
    reports = [result.report for result in results.values() if result.report is not None]
    whole = whole_sets([report.split for report in reports])
    check_across([report for report in reports if report.split.name not in whole])
    _compare_categories(results)
    ok = all(result.ok for result in results.values())
    if arguments.json:
        print_json({"ok": ok, "splits": {name: _to_dict(result) for name, result in results.items()}})
        return 0 if ok else 2
    for name, result in results.items():
        print_text(f"== {short_name(name)}")
        if name in whole:
            print_text("  contains all images of train: not compared with the other splits")
        if result.report is not None:
            if result.report.split.origin:
                print_text(f"  found {printable(result.report.split.origin)}")
            print_lines(name_data_options(result.report.summary()))
        for severity, lines in (("ERROR", result.errors), ("WARNING", result.warnings)):
            for line in lines:
                print_text(f"  {severity}: {printable(line)}")
    if not ok:
        unreadable = [report for report in reports if report.findings and not report.ok]
        print_text("fix the entries marked ERROR" + (", or train with --skip-broken" if unreadable else ""))
    elif data.is_dir() and not arguments.split and not any(name.startswith("train") for name in names):
        print_text(f"no split is called train. {describe_remedy(data, [])}")
    elif reports and not is_held_out(arguments.split):
        print_text(*recommend(reports[0].split, _data_options(arguments)), sep="\n")
        if data.is_file():
            print_text(
                f"first, unless you have validation images in another file: {shlex.join(['sais', 'split', str(data)])}"
            )
    return 0 if ok else 2


def _data_options(arguments: CheckArguments) -> list[str]:
    """Return the options of `sais train` that name the checked data."""
    words = ["--data", str(arguments.data)]
    if arguments.data.is_file():
        words = ["--train-annotations", str(arguments.data), "--train-images"]
        words.append(str(arguments.images or arguments.data.parent))
    elif arguments.split not in ("", "train"):
        words += ["--train-split", arguments.split]
    for name in ("crowds_as_objects", "merge_duplicate_images"):
        words += ["--" + name.replace("_", "-")] if getattr(arguments.reading, name) else []
    words += ["--format", arguments.reading.format] if arguments.reading.format != "auto" else []
    return [*words, *(["--classes", *arguments.classes] if arguments.classes else [])]


def _check_split(arguments: CheckArguments, data: Path, name: str) -> _SplitResult:
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
            split = read_dataset_files(data, arguments.images or data.parent, None, arguments.reading, problems)
        split = choose_classes(split, arguments.classes, allow_missing=not is_main)
    except SaisError as error:
        messages = [message for group in problems.values() for message in group]
        return _SplitResult(None, [*messages, str(error)], [])
    with progress_bar(f"checking {split.name}", len(split.images)) as progress:
        report = check_dataset(split, arguments.decode, lambda done, _: progress(1), problems)
    return _SplitResult(report, [], [])


def _compare_categories(results: dict[str, _SplitResult]) -> None:
    """Add the categories of the training split, which is the first, that another split lacks.

    Without other names for them it is a warning: the split has no objects of these classes.
    """
    classes: tuple[str, ...] = ()
    first = ""
    for name, result in results.items():
        if result.report is None:
            continue
        own = result.report.split.class_names
        missing = [class_name for class_name in classes if class_name not in own]
        unknown = [class_name for class_name in own if classes and class_name not in classes]
        if missing and (unknown or len(missing) == len(classes)):
            result.errors.append(f"categories of {first} missing here: {', '.join(short_names(missing))}; add them")
        elif missing:
            result.warnings.append(f"categories of {first} missing here: {', '.join(short_names(missing))}")
        elif unknown:
            result.warnings.append(f"categories missing in {first}, not evaluated: {', '.join(short_names(unknown))}")
        if not classes:
            classes, first = own, name


def _to_dict(result: _SplitResult) -> dict[str, Any]:
    report = {"ok": False, "findings": []} if result.report is None else result.report.to_dict()
    return report | {"ok": result.ok, "errors": result.errors, "warnings": result.warnings}
