"""The COCO format: a JSON file of one split, checked and converted to a `DatasetSplit`.

Errors that the user can fix in the file raise an `InputError` that names the file and the id. Unusable data (zero-area
boxes, malformed polygons) are dropped and counted in `DatasetSplit.notes`.
"""

from __future__ import annotations

import contextlib
import copy
import gc
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from sais import input_limits
from sais.data.annotation_limits import crowding_problem
from sais.data.annotations import DatasetSplit
from sais.data.formats.annotation_cache import CacheEntry, Reading
from sais.data.formats.coco_document import read_categories, read_images
from sais.data.formats.coco_objects import read_objects
from sais.data.formats.coco_stream import read_entries
from sais.data.formats.exchanged_sides import exchange_sides
from sais.data.formats.notes import (
    AREA_COMPUTED,
    BAD_PART,
    BAD_RLE,
    BOX_COMPUTED,
    CLIPPED,
    CROWDED_IMAGE,
    FLAT,
    NO_AREA,
    NO_MASK,
    NO_SHAPE,
    OUTSIDE,
    SIZES_READ,
    Notes,
)
from sais.data.formats.unsplit import json_stem
from sais.data.objects import UNKNOWN_CLASS
from sais.data.packed_annotations import AnnotationTable, PackedImages, unpack_small

__all__ = [
    "AREA_COMPUTED",
    "BAD_PART",
    "BAD_RLE",
    "BOX_COMPUTED",
    "CLIPPED",
    "FLAT",
    "NO_AREA",
    "NO_MASK",
    "NO_SHAPE",
    "OUTSIDE",
    "SIZES_READ",
    "UNKNOWN_CLASS",
    "read_coco",
]

Problems = dict[str, list[str]]
"""Kind of problem -> one error message for each entry refused."""


def read_coco(
    annotations: Path,
    images: Path | Sequence[Path] | None,
    classes: tuple[str, ...] | None = None,
    problems: Problems | None = None,
    root: Path | None = None,
) -> DatasetSplit:
    """Read a COCO annotation file.

    Args:
        annotations: The JSON file; without the key 'annotations' (COCO's image_info of test-dev) there are no objects.
        images: Folder of the images, or candidate folders, of which the one with most of the images is used; None if
            the images are not read.
        classes: A model's class names, which the labels then follow; None sorts the labels by category id and keeps
            unused categories.
        problems: Takes the error messages of all malformed entries, which are left out; None raises for the first.
        root: Folder outside of which no image is read because of its name; None for no such limit.

    Raises:
        InputError: The file or the images are missing, or the file is not JSON, not COCO or inconsistent.
    """
    with _garbage_collection_paused():
        return _read(Path(annotations), images, classes, problems, root)


@contextlib.contextmanager
def _garbage_collection_paused() -> Iterator[None]:
    """Pause the search for reference cycles: among millions of new lists it takes half of the time and finds none."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _read(
    path: Path,
    images: Path | Sequence[Path] | None,
    classes: tuple[str, ...] | None,
    problems: Problems | None,
    root: Path | None,
) -> DatasetSplit:
    folders = [Path(images)] if isinstance(images, (str, Path)) else images and [Path(folder) for folder in images]
    options = {
        "folders": None if folders is None else list(map(str, folders)),
        "classes": classes,
        "root": root and str(root),
    }
    entry = CacheEntry(path, options)
    reading = entry.load()
    if reading is None:
        with entry.lock():
            reading = entry.load() or _read_file(path, folders, classes, root, entry)
    notes = Notes()
    notes.problems = reading.problems
    if problems is None:
        notes.raise_first()
    else:
        for kind, messages in notes.problems.items():
            problems.setdefault(kind, []).extend(messages)
    return DatasetSplit(
        json_stem(path).removeprefix("instances_"),
        reading.class_names,
        reading.category_ids,
        unpack_small(reading.images, reading.paths),
        reading.counts,
        {kind: tuple(places) for kind, places in reading.examples.items()},
    )


def _read_file(
    path: Path,
    folders: Sequence[Path] | None,
    classes: tuple[str, ...] | None,
    root: Path | None,
    entry: CacheEntry,
) -> Reading:
    """Read the annotation file itself, and write the reading to the cache."""
    notes = Notes()
    document, entries = read_entries(path)
    categories = read_categories(path, document, classes, notes)
    frame = read_images(path, document.pop("images"), folders, root, notes)
    before = copy.deepcopy(notes)
    table = read_objects(path, entries, frame, categories, notes)
    exchanged = 0 if folders is None else exchange_sides(frame, before)
    if exchanged:
        notes = before
        table = read_objects(path, entries, frame, categories, notes)
    images = PackedImages(_without_crowded_images(path, table, notes))
    counts = dict(notes.counts)
    noted = (counts, notes.examples, notes.problems)
    reading = Reading(categories.class_names, categories.category_ids, images, *noted, frame.paths)
    if folders is None or exchanged or counts.get(SIZES_READ):  # it depends on more than the names of the images
        return reading
    return entry.store(reading, frame.digests)


def _without_crowded_images(path: Path, table: AnnotationTable, notes: Notes) -> AnnotationTable:
    """Return the table without the objects of images that have too many, which are recorded as problems."""
    chosen = np.ones(len(table.ids), bool)
    counts = np.diff(table.object_ends, prepend=0)
    for image in np.flatnonzero(counts > input_limits.MAX_BOX_COVERAGE).tolist():
        record = PackedImages(table)[image]
        problem = crowding_problem(tuple(record.annotations), record.size)
        if problem:
            notes.problem(CROWDED_IMAGE, f"{path}: image {record.id} {problem}.")
            start, end = table.object_range(image)
            chosen[start:end] = False
    return table if chosen.all() else table.select(chosen, table.labels, table.crowds)
