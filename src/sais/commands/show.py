"""`sais show DIR`: draw the labels of a data set, filtered by class, size, image or finding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from sais.commands.arguments import FLAT, Seed, need_package, parse, progress_bar
from sais.commands.input_files import annotation_files
from sais.commands.options import Count, Maximum, Minimum, Workers
from sais.data.options import DataOptions
from sais.errors import InputError
from sais.text import print_text, printable, short_name

if TYPE_CHECKING:
    from sais.data.annotations import DatasetSplit, ImageRecord
    from sais.data.doctor.findings import Case
    from sais.data.doctor.report import CheckReport
    from sais.data.label_filter import LabelFilter

MAX_PRINTED = 5
"""Maximum number of unreadable images that are printed."""
Problems = dict[str, list[str]]
"""Kind of problem -> a message for each entry that could not be read."""


@dataclass(frozen=True)
class ShowArguments:
    """Draw the labels of a data set as training reads them: OUT/index.html shows the images in a browser.

    Examples: --classes cat --size small shows the small cats only. --finding duplicate shows what sais doctor reports
    as "duplicate objects"; --images IMG_1.jpg shows one image. Filters are combined. Crowd regions are not drawn.
    """

    data: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR")]
    """Folder of the data set, its name in the folder $SAIS_DATA, or a COCO JSON."""
    out: Path = Path("shown_labels")
    """Folder to write to: index.html and the drawings. Drawings of an earlier sais show in it are replaced."""
    split: tuple[str, ...] = ()
    """Splits to show. Default: every split of the data set."""
    classes: tuple[str, ...] = ()
    """Classes whose objects are drawn, such as cat dog. Default: all."""
    size: Literal["small", "medium", "large"] | None = None
    """Size of the objects that are drawn, as COCO defines it: small below 32 x 32 pixels, large from 96 x 96."""
    min_area: Annotated[float, Minimum(0)] = 0.0
    """Minimum area in pixels of the objects that are drawn."""
    max_area: Annotated[float, Minimum(0)] | None = None
    """Maximum area in pixels of the objects that are drawn."""
    images: tuple[str, ...] = ()
    """Names or quoted patterns of the images to show, such as "IMG_20*.jpg"."""
    finding: str = ""
    """Part of the name of a finding of sais doctor, such as "near" or "box": show its images and objects."""
    max_images: Count = 100
    """Maximum number of images, drawn at random from those that match."""
    seed: Seed = 0
    """Random seed; the same seed shows the same images."""
    max_side: Annotated[int, Minimum(64), Maximum(16_384)] = 1600
    """Longest side of a drawing in pixels; larger images are reduced."""
    color_by: Literal["class", "instance"] = "class"
    """Colors: the same for all objects of a class, or the next one for each object."""
    image_folder: Path | None = None
    """Folder of the images, where DIR is a COCO JSON. Default: the folder of DIR."""
    reading: Annotated[DataOptions, FLAT] = field(default_factory=DataOptions)
    """Options of reading the data set."""
    workers: Workers = 2
    """Number of threads that read images in search of --finding."""
    overwrite: bool = False
    """Replace any existing file, not only earlier drawings; never one that is read."""


def run(argv: Sequence[str]) -> int:
    """Run `sais show`."""
    arguments = parse(ShowArguments, argv, "sais show DIR")
    need_package("show", "jinja2", "report")
    if arguments.data.is_dir() and arguments.out.is_dir() and arguments.out.samefile(arguments.data):
        raise InputError(f"{arguments.out}: the folder of the data set that is read. Choose another output folder.")
    from sais.data.label_filter import LabelFilter, check_class_names, sample_images
    from sais.reports.label_gallery import LabelGallery

    splits = _read_splits(arguments)
    check_class_names(arguments.classes, [split for split, _ in splits])
    max_area = float("inf") if arguments.max_area is None else arguments.max_area
    label_filter = LabelFilter(arguments.classes, arguments.size, arguments.min_area, max_area, arguments.images)
    matches = _find_matches(label_filter, splits, _find_cases(arguments, splits))
    if not matches:
        images = sum(len(split.images) for split, _ in splits)
        raise InputError(f"{arguments.data}: none of {images} images matches. Choose other filters.")
    chosen = sample_images(matches, arguments.max_images, arguments.seed)
    inputs = [arguments.data] if arguments.data.is_file() else annotation_files(arguments.data)
    gallery = LabelGallery(arguments.out, chosen, inputs, arguments.max_side, arguments.color_by, arguments.overwrite)
    description = _describe(arguments, label_filter, len(matches), len(chosen))
    with progress_bar("drawing", len(chosen)) as progress:
        page = gallery.write(arguments.data.resolve().name, description, progress)
    for line in gallery.unreadable[:MAX_PRINTED]:
        print_text(f"skipped: {line}")
    if len(gallery.unreadable) > MAX_PRINTED:
        print_text(f"skipped {len(gallery.unreadable)} images in all")
    print_text(description, f"wrote {page}", sep="\n")
    return 0


def _read_splits(arguments: ShowArguments) -> list[tuple[DatasetSplit, Problems]]:
    """Read the splits to show, without the entries that cannot be read, and print how many these are."""
    from sais.data.formats import list_splits, read_dataset, read_dataset_files
    from sais.data.objects import is_object_name
    from sais.data.paths import locate

    splits: list[tuple[DatasetSplit, Problems]] = []
    options = arguments.reading
    if arguments.data.is_file() and not is_object_name(arguments.data):
        folder, problems = arguments.image_folder or arguments.data.parent, Problems()
        splits.append((read_dataset_files(arguments.data, folder, None, options, problems), problems))
    else:
        data = locate(arguments.data)
        for name in arguments.split or list_splits(data, options.format) or ["train"]:
            problems = Problems()
            splits.append((read_dataset(data, name, options=options, problems=problems), problems))
    for split, problems in splits:
        count = sum(map(len, problems.values()))
        if count:
            print_text(f"note: {short_name(split.name)}: {count} malformed entries are left out; see sais doctor")
    return splits


def _find_cases(arguments: ShowArguments, splits: Sequence[tuple[DatasetSplit, Problems]]) -> list[Case] | None:
    """Return the cases of --finding in all splits; None without it."""
    if not arguments.finding:
        return None
    from sais.data.doctor.check import check_across, check_dataset
    from sais.data.formats.unsplit import whole_sets
    from sais.data.label_filter import cases_of

    reports: list[CheckReport] = []
    for split, problems in splits:
        with progress_bar(f"checking {short_name(split.name)}", len(split.images)) as progress:
            report = check_dataset(split, True, _advance_by_one(progress), problems, arguments.workers)
        reports.append(report)
    whole = whole_sets([split for split, _ in splits])
    check_across([report for report in reports if report.split.name not in whole])
    return cases_of(arguments.finding, [finding for report in reports for finding in report.all_findings()])


def _find_matches(
    label_filter: LabelFilter, splits: Sequence[tuple[DatasetSplit, Problems]], cases: Sequence[Case] | None
) -> list[tuple[DatasetSplit, ImageRecord]]:
    """Return the images with the objects to show; the images of a case follow each other."""
    from sais.data.label_filter import case_order, choose_labels, places_of

    matches: list[tuple[DatasetSplit, ImageRecord]] = []
    for split, _ in splits:
        records = choose_labels(split, label_filter, None if cases is None else places_of(cases, split.name))
        matches += [(split, record) for record in records]
    if cases is not None:
        order = case_order(cases)
        matches.sort(key=lambda match: order[match[0].name, match[1].id])
    return matches


def _advance_by_one(progress: Callable[[int], None]) -> Callable[[int, int], None]:
    return lambda done, total: progress(1)


def _describe(arguments: ShowArguments, label_filter: LabelFilter, matches: int, shown: int) -> str:
    """Return what is shown, as a sentence."""
    parts = []
    if label_filter.classes:
        parts.append(f"classes {', '.join(map(short_name, label_filter.classes))}")
    if label_filter.size:
        parts.append(f"{label_filter.size} objects")
    if label_filter.min_area > 0:
        parts.append(f"area from {label_filter.min_area:g}")
    if arguments.max_area is not None:
        parts.append(f"area up to {arguments.max_area:g}")
    if label_filter.images:
        parts.append(f"images {', '.join(map(short_name, label_filter.images))}")
    if arguments.finding:
        parts.append(f"finding {printable(arguments.finding, 100)!r}")
    images = f"{shown} image{'s' if shown != 1 else ''}"
    text = images if shown == matches else f"{images}, drawn at random from {matches} (--max-images)"
    return text + (f": {'; '.join(parts)}" if parts else "")
