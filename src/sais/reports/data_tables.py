"""Tables and histograms of a data set's report: splits, classes, sizes, positions and shapes of the objects."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sais.data.annotations import DatasetSplit
from sais.data.packed_annotations import object_columns
from sais.reports.html_tables import Table
from sais.text import short_name, short_names

MAX_CLASSES = 30
"""Number of classes, those with the most objects, that are shown unfolded."""
MAX_FOLDED = 500
"""Maximum number of further classes, and of classes without objects, on the page."""
SIZE_EDGES = (8, 16, 32, 64, 128, 256)
"""Limits in pixels between the groups of object sizes."""
COUNT_EDGES = (1, 2, 3, 4, 6, 11, 21, 51, 101)
"""First number of objects in an image of each group after "0"."""
ASPECT_EDGES = (1 / 4, 1 / 2, 1 / 1.25, 1.25, 2, 4)
"""Limits between the groups of aspect ratios of boxes, width / height."""
ASPECT_NAMES = ("below 1:4", "1:4 to 1:2", "1:2 to 4:5", "about square", "5:4 to 2:1", "2:1 to 4:1", "above 4:1")
CELLS = 16
"""Number of rows and columns of the map of positions."""
MAX_SIZES = 6
"""Number of image sizes that are listed, the most frequent."""


@dataclass(frozen=True)
class Bar:
    """A row of a histogram."""

    name: str
    count: int
    share: float
    """Fraction of the count of the longest bar."""
    fraction: str
    """Fraction of all counts, in percent."""


@dataclass(frozen=True)
class Histogram:
    """Counts of groups, as bars."""

    title: str
    note: str
    heading: str
    """Name of the groups."""
    unit: str
    """Name of what is counted."""
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class Cell:
    """A cell of a map of positions."""

    x: int
    y: int
    opacity: float
    title: str


@dataclass(frozen=True)
class PositionMap:
    """Where the centers of the objects are in their images."""

    size: int
    """Number of rows and columns."""
    label: str
    """Description for people who do not see the map."""
    cells: tuple[Cell, ...]
    """Cells with an object."""


@dataclass(frozen=True)
class ClassRow:
    """One class."""

    name: str
    share: float
    """Fraction of the objects of the most frequent class."""
    counts: tuple[int, ...]
    """Objects in each split, in all splits, and number of images with the class."""


@dataclass(frozen=True)
class ClassTable:
    """The objects of each class."""

    columns: tuple[str, ...]
    rows: tuple[ClassRow, ...]
    """Most frequent class first."""
    folded: tuple[ClassRow, ...]
    """The classes after the first `MAX_CLASSES`, at most `MAX_FOLDED`."""
    without_objects: tuple[str, ...]
    """At most `MAX_FOLDED` names."""
    omitted: int
    """Number of classes that are in neither."""


def split_table(splits: Sequence[DatasetSplit]) -> Table:
    """Tabulate the contents of each split."""
    rows = []
    for split in splits:
        columns = object_columns(split.images)
        objects = int((~columns.crowds).sum())
        images = len(split.images)
        rows.append(
            [
                short_name(split.name),
                *(str(images), str(objects), f"{objects / images:.1f}" if images else "-"),
                str(len(np.unique(columns.labels[~columns.crowds]))),
                str(len(columns.crowds) - objects),
                str(images - len(np.unique(columns.images))),
                short_name(split.origin.partition(",")[0] or "-"),
            ]
        )
    names = ["split", "images", "objects", "per image", "classes", "crowds", "images without objects", "format"]
    return Table(names, rows)


def class_table(splits: Sequence[DatasetSplit]) -> ClassTable:
    """Tabulate the objects of each class by split, most frequent class first."""
    names = list(dict.fromkeys(name for split in splits for name in split.class_names))
    places = {name: row for row, name in enumerate(names)}
    counts = np.zeros((len(names), len(splits)), np.int64)
    images: Counter[int] = Counter()
    for column, split in enumerate(splits):
        rows = [places[name] for name in split.class_names]
        for record in split.images:
            labels = [rows[a.label] for a in record.annotations if not a.crowd]
            np.add.at(counts[:, column], labels, 1)
            images.update(set(labels))
    totals = counts.sum(1)
    order = sorted(range(len(names)), key=lambda row: (-totals[row], row))
    rows_of_classes = tuple(
        ClassRow(
            names[row],
            float(totals[row] / totals.max()),
            (*(counts[row].tolist() if len(splits) > 1 else ()), int(totals[row]), images[row]),
        )
        for row in order
        if totals[row]
    )
    columns = (*short_names(split.name for split in splits), "total") if len(splits) > 1 else ("objects",)
    empty = tuple(names[row] for row in order if not totals[row])
    shown, folded = rows_of_classes[:MAX_CLASSES], rows_of_classes[MAX_CLASSES:]
    omitted = sum(max(0, len(part) - MAX_FOLDED) for part in (folded, empty))
    return ClassTable((*columns, "images"), shown, folded[:MAX_FOLDED], empty[:MAX_FOLDED], omitted)


def size_histogram(title: str, sizes: np.ndarray, note: str = "") -> Histogram:
    """Group object sizes (N,), the square roots of their areas in pixels."""
    pairs = itertools.pairwise(SIZE_EDGES)
    names = [f"below {SIZE_EDGES[0]}", *(f"{low} to {high}" for low, high in pairs), f"{SIZE_EDGES[-1]} and above"]
    groups = np.searchsorted(SIZE_EDGES, sizes, side="right")
    return _histogram(title, note, "size in pixels", "objects", names, groups)


def count_histogram(counts: np.ndarray) -> Histogram:
    """Group images by their number of objects (I,)."""
    firsts = (0, *COUNT_EDGES)
    names = [str(low) if high == low + 1 else f"{low} to {high - 1}" for low, high in itertools.pairwise(firsts)]
    groups = np.searchsorted(COUNT_EDGES, counts, side="right")
    note = f"At most {counts.max()}, on average {counts.mean():.1f}." if len(counts) else ""
    return _histogram("Objects per image", note, "objects", "images", [*names, f"{firsts[-1]} and above"], groups)


def aspect_histogram(aspect_ratios: np.ndarray) -> Histogram:
    """Group objects by the aspect ratio of their boxes (N,), width / height."""
    groups = np.searchsorted(ASPECT_EDGES, aspect_ratios, side="right")
    return _histogram("Aspect ratio of boxes", "", "width : height", "objects", ASPECT_NAMES, groups)


def image_size_histogram(image_sizes: np.ndarray) -> Histogram:
    """Count the most frequent sizes of images (I, 2), height and width."""
    counts = Counter(map(tuple, image_sizes.tolist()))
    sizes = counts.most_common(MAX_SIZES)
    names = [f"{width} x {height}" for (height, width), _ in sizes]
    numbers = [count for _, count in sizes]
    others = counts.total() - sum(numbers)
    if others:
        names.append(f"{len(counts) - len(sizes)} other sizes")
        numbers.append(others)
    groups = np.repeat(np.arange(len(numbers)), np.array(numbers, np.int64))
    return _histogram("Image sizes", "", "width x height", "images", names, groups)


def position_map(centers: np.ndarray) -> PositionMap:
    """Count the centers of boxes (N, 2), as fractions of their images, in a grid that is laid over every image."""
    places = np.clip((centers * CELLS).astype(np.int64), 0, CELLS - 1)
    counts = np.zeros((CELLS, CELLS), np.int64)
    np.add.at(counts, (places[:, 1], places[:, 0]), 1)
    middle = counts[CELLS // 4 : -CELLS // 4, CELLS // 4 : -CELLS // 4].sum()
    share = 100 * middle / max(1, counts.sum())
    label = (
        f"{share:.0f} % of the object centers are in the middle quarter of the image, where 25 % would be if they were "
        "spread evenly."
    )
    cells = tuple(
        Cell(int(x), int(y), round(float(counts[y, x] / counts.max()) ** 0.5, 3), f"{counts[y, x]} objects")
        for y, x in zip(*np.nonzero(counts), strict=True)
    )
    return PositionMap(CELLS, label, cells)


def _histogram(title: str, note: str, heading: str, unit: str, names: Sequence[str], groups: np.ndarray) -> Histogram:
    """Return a histogram of (N,) indices of groups, without the empty groups at its end."""
    counts = np.bincount(groups, minlength=len(names))[: len(names)]
    used = int(np.flatnonzero(counts).max(initial=-1)) + 1
    total, longest = max(1, int(counts.sum())), max(1, int(counts.max(initial=0)))
    bars = tuple(
        Bar(name, int(count), float(count / longest), f"{100 * count / total:.0f} %")
        for name, count in zip(names[:used], counts[:used], strict=True)
    )
    return Histogram(title, note, heading, unit, bars)
