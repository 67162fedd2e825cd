"""Options of reading a data set, the same for every format and command."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sais.data.annotations import Annotation, DatasetSplit, ImageRecord
from sais.data.packed_annotations import PackedImages, object_columns

CROWDS_READ = "crowds read as objects"
MERGED_IMAGES = "entries of images listed more than once merged"
REPEATED_OBJECTS = "objects repeated in merged images dropped"


@dataclass(frozen=True)
class DataOptions:
    """Options of reading a data set."""

    crowds_as_objects: bool = False
    """Read objects with iscrowd 1 as objects, for exports that set it on every RLE mask."""
    merge_duplicate_images: bool = False
    """Merge the entries, with their objects, of an image file that is listed more than once."""
    format: str = "auto"
    """Format of the labels, a row of `sais.data.formats.FORMATS` such as coco or yolo; auto: as it is found."""
    outside_images: bool = False
    """Also read images outside of the data folder that COCO labels name by absolute paths or by ``..``."""


def apply_options(split: DatasetSplit, options: DataOptions) -> DatasetSplit:
    """Return a split as the options ask for it."""
    if options.crowds_as_objects:
        split = _read_crowds(split)
    return _merge_duplicates(split) if options.merge_duplicate_images else split


def duplicate_files(split: DatasetSplit) -> dict[Path, int]:
    """Return the image files that are listed more than once, with the number of their entries."""
    counts = Counter(record.source for record in split.images if isinstance(record.source, Path))
    return {path: count for path, count in counts.items() if count > 1}


def _read_crowds(split: DatasetSplit) -> DatasetSplit:
    crowds = int(object_columns(split.images).crowds.sum())
    if not crowds:
        return split
    if isinstance(split.images, PackedImages):
        table = split.images.table
        every = np.ones(len(table.ids), bool)
        images = PackedImages(table.select(every, table.labels, ~every))
        return replace(split, images=images, notes=split.notes | {CROWDS_READ: crowds})
    records = tuple(
        replace(record, annotations=tuple(replace(a, crowd=False) for a in record.annotations))
        for record in split.images
    )
    return replace(split, images=records, notes=split.notes | {CROWDS_READ: crowds})


def _merge_duplicates(split: DatasetSplit) -> DatasetSplit:
    files = duplicate_files(split)
    if not files:
        return split
    groups: dict[object, list[ImageRecord]] = {}
    for record in split.images:
        # Entries of different sizes contradict each other; `sais doctor` reports the wrong one.
        listed = isinstance(record.source, Path) and record.source in files
        groups.setdefault((record.source, record.size) if listed else record.id, []).append(record)
    records, dropped = [], 0
    for group in groups.values():
        annotations = _distinct([record.annotations for record in group])
        dropped += sum(len(record.annotations) for record in group) - len(annotations)
        records.append(replace(group[0], annotations=annotations))
    notes = split.notes | {MERGED_IMAGES: len(split.images) - len(records)}
    return replace(split, images=tuple(records), notes=notes | ({REPEATED_OBJECTS: dropped} if dropped else {}))


def _distinct(entries: Sequence[Sequence[Annotation]]) -> tuple[Annotation, ...]:
    """Return the annotations of several entries of an image; the same object in two entries is returned once."""
    distinct: list[Annotation] = []
    seen: set[tuple[int, bool, tuple[float, ...], str]] = set()
    for entry in entries:
        keys = [(a.label, a.crowd, tuple(a.box.tolist()), repr(a.segmentation)) for a in entry]
        distinct += [a for a, key in zip(entry, keys, strict=True) if key not in seen]
        seen.update(keys)
    return tuple(distinct)
