"""The page of `sais compare`: AP of two models side by side, how certain the difference is, where they differ.

Next to index.html, compare.json has the numbers and every image on which the models differ.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sais.data.annotations import DatasetSplit
from sais.evaluation.bootstrap import Difference, Differences
from sais.evaluation.coco_metrics import IouType, format_ap
from sais.evaluation.error_analysis import CORRECT, FOUND, IGNORED, ErrorAnalysis
from sais.evaluation.label_suggestions import read_labels
from sais.evaluation.model_comparison import ImageDifference, ObjectCounts, count_objects, image_differences
from sais.evaluation.visualize import detections_from_coco
from sais.io.atomic import write_text
from sais.reports.data_report import KeyFigure
from sais.reports.finding_images import Thumbnail, window_around
from sais.reports.html import render_page
from sais.reports.html_tables import Table
from sais.reports.outline_images import PREDICTION, TRUTH, Layer, draw_part, read_images
from sais.results.detections import Detections
from sais.text import short_name

PAGE_NAME, JSON_NAME = FILE_NAMES = ("index.html", "compare.json")
WRITER = "sais compare"
MAX_IMAGES = 8
"""Maximum number of images that are shown where a model is better."""
MAX_ROWS = 30
"""Number of classes, those with the largest differences, that are shown unfolded."""
SIDE = 420
"""Longest side of an image, in pixels."""
MAX_CHARACTERS = 4_000_000
"""Maximum number of characters of all embedded images of a page; further ones are omitted and counted."""


@dataclass(frozen=True)
class ComparedModel:
    """One of two models, with its results on the images of a split."""

    name: str
    analysis: ErrorAnalysis
    """Detections from its score threshold on."""
    threshold_origin: str
    """Where the score threshold comes from."""
    size_bytes: int | None = None
    """Size of its file; None for a file with detections."""
    parameters: int | None = None
    """Number of parameters, where it is known."""
    seconds: float | None = None
    """Median time of an image, with pre- and post-processing; None if it was not measured."""
    kind: str = ""
    """Kind of file, input size."""

    def to_dict(self) -> dict[str, Any]:
        """Return what is known about the model as a dictionary for JSON."""
        facts = {key: value for key, value in vars(self).items() if key != "analysis"}
        return facts | {"score": self.analysis.score}


@dataclass(frozen=True)
class Comparison:
    """The comparison of two models."""

    split: DatasetSplit
    iou_type: IouType
    models: tuple[ComparedModel, ComparedModel]
    differences: Differences
    notes: tuple[str, ...] = ()
    """Remarks on what was compared."""

    @property
    def counts(self) -> ObjectCounts:
        """The objects by the models that find them."""
        return count_objects(self.models[0].analysis, self.models[1].analysis)

    @property
    def images(self) -> list[ImageDifference]:
        """The images on which the models differ, those where the second is better first."""
        return image_differences(self.models[0].analysis, self.models[1].analysis)

    def to_dict(self) -> dict[str, Any]:
        """Return the content of compare.json."""
        return {
            "written_by": WRITER,
            "split": self.split.name,
            "iou_type": self.iou_type,
            "models": [model.to_dict() for model in self.models],
            **self.differences.to_dict(),
            "objects": vars(self.counts),
            "notes": list(self.notes),
            "image_differences": [image.to_dict() for image in self.images],
        }


@dataclass(frozen=True)
class ImagePair:
    """An image with the results of both models."""

    first: Thumbnail
    second: Thumbnail
    caption: str
    file_name: str


@dataclass
class ImageGroup:
    """The images where one of the models is better."""

    id: str
    title: str
    count: int
    pairs: list[ImagePair] = field(default_factory=list)


def write_comparison(folder: Path, comparison: Comparison) -> list[Path]:
    """Write index.html and compare.json, and return their paths.

    Args:
        folder: folder to write to; it is created.
        comparison: comparison of two models.

    Raises:
        MissingDependencyError: jinja2 is not installed.
        ResourceError: a file cannot be written.
    """
    paths = [folder / name for name in FILE_NAMES]
    for path, text in zip(
        paths, (render_comparison(comparison), json.dumps(comparison.to_dict(), indent=1)), strict=True
    ):
        write_text(path, text)
    return paths


def render_comparison(comparison: Comparison) -> str:
    """Render the page as HTML."""
    differences, models = comparison.differences, comparison.models
    groups, omitted, unreadable = _draw_images(comparison)
    shape = "mask" if comparison.iou_type == "segm" else "box"
    return render_page(
        "comparison_report.html.jinja",
        ("run_report.css", "data_report.css", "error_report.css"),
        models=models,
        shape=shape,
        subtitle=f"{comparison.split.name}, {differences.images} images, by {shape}",
        key_figures=_key_figures(comparison, shape),
        verdict=describe_difference(differences.figures["AP"], shape),
        notes=comparison.notes,
        figures=figure_table(differences),
        classes=class_tables(differences),
        facts=fact_table(models),
        objects=object_table(comparison.counts),
        groups=groups,
        omitted=omitted,
        unreadable=unreadable,
        resamples=differences.resamples,
    )


def describe_difference(difference: Difference, shape: str) -> str:
    """Return a sentence about the difference of AP."""
    if np.isnan(difference.p):
        return f"The difference of {shape} AP is undefined."
    interval = f"95 % interval {difference.low:+.3f} to {difference.high:+.3f}, p = {format_p(difference.p)}"
    certain = "" if difference.is_significant else " Other images of the same kind may reverse it."
    return f"B minus A: {shape} AP {difference.value:+.3f} ({interval}).{certain}"


def format_p(p: float) -> str:
    """Format a p: "0.03", "0.002"; "-" for NaN."""
    return "-" if np.isnan(p) else f"{p:.2g}" if p < 0.1 else f"{p:.2f}"


def figure_table(differences: Differences) -> Table:
    """Tabulate the figures over all classes."""
    return _table("figure", list(differences.figures.items()))


def class_tables(differences: Differences) -> tuple[Table, Table | None]:
    """Tabulate the AP of the classes, largest differences first; of many classes, the others in a second table."""
    defined = [(name, item) for name, item in differences.classes.items() if not np.isnan(item.value)]
    ordered = sorted(defined, key=lambda row: -abs(row[1].value))
    return _table("class", ordered[:MAX_ROWS]), (_table("class", ordered[MAX_ROWS:]) if ordered[MAX_ROWS:] else None)


def _table(name: str, rows: Sequence[tuple[str, Difference]]) -> Table:
    cells = []
    for label, item in rows:
        if np.isnan(item.value):
            cells.append([label, format_ap(item.first), format_ap(item.second), *["-"] * 4])
            continue
        interval = "-" if np.isnan(item.low) else f"{item.low:+.3f} to {item.high:+.3f}"
        clear = "yes" if item.is_significant else "no"
        values = [
            format_ap(item.first),
            format_ap(item.second),
            f"{item.value:+.3f}",
            interval,
            format_p(item.p),
            clear,
        ]
        cells.append([short_name(label), *values])
    return Table([name, "A", "B", "B - A", "95 % interval", "p", "excludes 0"], cells)


def fact_table(models: tuple[ComparedModel, ComparedModel]) -> Table:
    """Tabulate file, size, speed and threshold of both models."""
    rows = [["file", *(model.kind or "-" for model in models)]]
    rows.append(
        ["size of the file", *("-" if m.size_bytes is None else f"{m.size_bytes / 1e6:.1f} MB" for m in models)]
    )
    rows.append(["parameters", *("-" if m.parameters is None else f"{m.parameters / 1e6:.2f} M" for m in models)])
    rows.append(["time per image", *("-" if m.seconds is None else f"{1000 * m.seconds:.1f} ms" for m in models)])
    rows.append(["score threshold", *(f"{m.analysis.score:.3g} ({m.threshold_origin})" for m in models)])
    for name, outcome in (("objects found", FOUND), ("objects", None)):
        counts = [
            sum(len(image.objects) for image in m.analysis.images) if outcome is None else m.analysis.objects(outcome)
            for m in models
        ]
        rows.append([name, *map(str, counts)])
    rows.append(["false detections", *(str(_false_detections(m.analysis)) for m in models)])
    return Table(["property", "A", "B"], rows)


def object_table(counts: ObjectCounts) -> Table:
    """Tabulate how many objects both models, one of them, or none finds."""
    rows = [[name.replace("_", " "), str(count)] for name, count in vars(counts).items()]
    names = {"only first": "only A", "only second": "only B"}
    return Table(["found by", "objects"], [[names.get(name, name), count] for name, count in rows])


def _false_detections(analysis: ErrorAnalysis) -> int:
    total = sum(len(image.results) for image in analysis.images)
    return total - analysis.detections(CORRECT) - analysis.detections(IGNORED)


def _key_figures(comparison: Comparison, shape: str) -> list[KeyFigure]:
    ap, counts = comparison.differences.figures["AP"], comparison.counts
    value = "-" if np.isnan(ap.value) else f"{ap.value:+.3f}"
    interval = "" if np.isnan(ap.low) else f"{ap.low:+.3f} to {ap.high:+.3f}, p = {format_p(ap.p)}"
    return [
        KeyFigure(f"{shape} AP of A", format_ap(ap.first), short_name(comparison.models[0].name)),
        KeyFigure(f"{shape} AP of B", format_ap(ap.second), short_name(comparison.models[1].name)),
        KeyFigure("B minus A", value, interval),
        KeyFigure("found only by A", str(counts.only_first), "objects"),
        KeyFigure("found only by B", str(counts.only_second), "objects"),
    ]


def _draw_images(comparison: Comparison) -> tuple[list[ImageGroup], int, int]:
    """Return the images where B is better and where A is, the number of omitted and of unreadable ones."""
    images = comparison.images
    better = [image for image in images if (image.balance, image.quality) > (0, 0.0)]
    worse = [image for image in reversed(images) if (image.balance, image.quality) < (0, 0.0)]
    groups = [
        ImageGroup("b-is-better", "Images where B is better", len(better)),
        ImageGroup("a-is-better", "Images where A is better", len(worse)),
    ]
    budget, omitted, unreadable = MAX_CHARACTERS, 0, 0

    def count_unreadable() -> None:
        nonlocal unreadable
        unreadable += 1

    for group, part in zip(groups, (better, worse), strict=True):
        chosen = {image.record.id: image for image in part[:MAX_IMAGES]}
        for image_id, pixels in read_images([image.record for image in chosen.values()], count_unreadable):
            pair = _draw_pair(pixels, chosen[image_id], comparison)
            size = len(pair.first.source) + len(pair.second.source)
            if size > budget:
                omitted += 1
                continue
            budget -= size
            group.pairs.append(pair)
    return groups, omitted, unreadable


def _draw_pair(image: np.ndarray, difference: ImageDifference, comparison: Comparison) -> ImagePair:
    """Draw the part of an image where A and B differ; the objects that only one of them finds have thick outlines."""
    record, split = difference.record, comparison.split
    truth = read_labels(record, split, record.annotations)
    ids = {
        difference.first.objects[n].id for n in np.flatnonzero(difference.found_by_first | difference.found_by_second)
    }
    contested = truth[np.array([annotation.id in ids for annotation in record.annotations], bool)]
    window = window_around(_differing(contested, difference, split), record.size)
    drawings = []
    for letter, analysis in (("A", difference.first), ("B", difference.second)):
        detections = detections_from_coco(analysis.results, record.size, split)
        layers = [
            Layer(truth, TRUTH, is_subject=False),
            Layer(contested, TRUTH, named=False),
            Layer(detections, PREDICTION, is_subject=True),
        ]
        found = int((analysis.match.objects == FOUND).sum())
        alt = f"{short_name(record.name)}: {letter} finds {found} of {len(analysis.objects)} objects"
        drawings.append(draw_part(image, window, layers, SIDE, alt))
    only = int(difference.found_by_first.sum()), int(difference.found_by_second.sum())
    false = difference.false_detections
    caption = f"found only by A {only[0]}, only by B {only[1]}; false detections A {false[0]}, B {false[1]}"
    return ImagePair(drawings[0], drawings[1], caption, record.name)


def _differing(contested: Detections, difference: ImageDifference, split: DatasetSplit) -> Detections:
    """Return the objects that only one model finds, and the false detections of both, as boxes."""
    boxes = [contested.boxes]
    for analysis in (difference.first, difference.second):
        outcomes = zip(analysis.results, analysis.match.detections, strict=True)
        false = [result for result, outcome in outcomes if outcome not in (CORRECT, IGNORED)]
        boxes.append(detections_from_coco(false, difference.record.size, split).boxes)
    edges = np.concatenate(boxes)
    return Detections(difference.record.size, edges, np.ones(len(edges)), np.zeros(len(edges)), split.class_names)
