"""Remarks on a data set for the log of a training or an evaluation: what was changed on reading, and what looks wrong.

Only the annotations and, for a sample of the images, the headers of the files are read; `sais doctor` reads everything.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from sais.data.annotations import DatasetSplit, ImageRecord
from sais.data.exif_frame import in_stored_frame
from sais.data.formats.notes import (
    BLANK_NAMES,
    CATEGORY_ID_TEXTS,
    CLASS_COUNT,
    IMAGE_ID_TEXTS,
    MISSING_CLASSES,
    MISSING_FILES,
    NO_MASK,
    OTHER_SIZE,
    RENAMED_FILES,
    SCALED,
)
from sais.data.options import duplicate_files
from sais.data.packed_annotations import object_columns
from sais.errors import SaisError
from sais.text import error_message, printable, short_names

_WITH_EXAMPLE = (
    *(MISSING_CLASSES, MISSING_FILES, RENAMED_FILES, CATEGORY_ID_TEXTS, IMAGE_ID_TEXTS, BLANK_NAMES, CLASS_COUNT),
    *(SCALED, OTHER_SIZE),
)
_USUAL_CROWDS = 0.05
"""Fraction of crowds up to which they are regions of many objects, as in COCO with 1 %, and not the export's format."""
_USUAL_FORMAT = "COCO,"
"""Start of the description of the format that is not named in a log."""
_NAMED = 5
"""Maximum number of classes named."""
_SAMPLED_FRAMES = 100
"""Number of images whose size is compared with the annotations."""
_MAX_COMPARED = 20_000
"""Number of images up to which the files of two splits are compared by content."""


def describe_split(split: DatasetSplit, use: Literal["train", "evaluate"] = "train") -> list[str]:
    """Return one line for each kind of remark on a split, with its count.

    Args:
        split: The split.
        use: What it is used for.
    """
    notes = dict(split.notes)
    if use == "train" and NO_MASK in notes and _has_outlines(split):
        del notes[NO_MASK]  # `engine.mask_supervision` reports how many of the objects these are
    remarks = [f"{what}: {count}{_first_example(split, what)}" for what, count in notes.items()]
    found = (describe_crowds(split, use), describe_duplicates(split), describe_frames(split))
    remarks += [remark for remark in found if remark]
    if use == "train":
        remarks += [remark for remark in (describe_empty_classes(split),) if remark]
    origin = [] if split.origin.startswith(_USUAL_FORMAT) or not split.origin else [f"found {split.origin}"]
    return [error_message(f"{split.name}: {remark}") for remark in [*origin, *remarks]]


def _has_outlines(split: DatasetSplit) -> bool:
    objects = object_columns(split.images)
    return bool((objects.outlined & ~objects.crowds).any())


def _first_example(split: DatasetSplit, note: str) -> str:
    """Return the first place of a note in parentheses, where it says more than an annotation id."""
    examples = split.examples.get(note)
    return f" (the first: {examples[0]})" if note in _WITH_EXAMPLE and examples else ""


def describe_crowds(split: DatasetSplit, use: Literal["train", "evaluate"] = "train") -> str:
    """Return a sentence about the crowds of a split; empty if there are none."""
    objects = object_columns(split.images)
    count, crowds = len(objects.crowds), int(objects.crowds.sum())
    if not crowds:
        return ""
    consequence = "are not trained on" if use == "train" else "are ignored in the evaluation"
    text = f"{crowds} of {count} objects are crowds and {consequence}"
    if crowds <= _USUAL_CROWDS * count:
        return text
    remedy = "the data option crowds_as_objects reads them as objects"
    return f"{text}; if iscrowd 1 comes from the export format only, {remedy}"


def describe_duplicates(split: DatasetSplit) -> str:
    """Return a sentence about image files that are listed more than once; empty if there are none."""
    files = duplicate_files(split)
    if not files:
        return ""
    names = f"{len(files)} image files are listed more than once, in {sum(files.values())} entries"
    first = printable(next(iter(files)).name)
    return (
        f"{names} (the first: {first}); the objects of one entry are missing in the others; "
        "the data option merge_duplicate_images merges them"
    )


def describe_empty_classes(split: DatasetSplit) -> str:
    """Return a sentence about classes without objects; empty if there are none."""
    objects = object_columns(split.images)
    used = set(objects.labels[~objects.crowds].tolist())
    names = [name for label, name in enumerate(split.class_names) if label not in used]
    if not names or not used:  # without any object there is a warning of its own
        return ""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    named = ", ".join(short_names(names[:_NAMED]))
    return f"{len(names)} of {len(split.class_names)} classes without objects: {named}{more}"


def describe_frames(split: DatasetSplit) -> str:
    """Return a sentence about images that EXIF turns and whose labels are of the unturned image; empty without."""
    from sais.io.images import read_size

    step = max(1, len(split.images) // _SAMPLED_FRAMES)
    sample = [record for record in split.images[::step] if isinstance(record.source, Path)]
    turned = 0
    for record in sample:
        try:
            turned += in_stored_frame(read_size(record.path), record.size, record.path)
        except SaisError:  # reported when the image is read
            continue
    if not turned:
        return ""
    return (
        f"{turned} of {len(sample)} images examined are turned by EXIF but annotated as stored; such images are used "
        "as stored"
    )


def describe_overlap(train: DatasetSplit, valid: DatasetSplit) -> list[str]:
    """Return a line if images of the validation split are training images, by path or by content."""
    shared = shared_images(train, valid)
    if not shared:
        return []
    count = (
        f"{len(shared)} of {len(valid.images)} images are also in {train.name} (the first: {printable(shared[0].name)})"
    )
    return [f"{valid.name}: {count}, so that the metrics are too good; remove them from one of the two"]


def shared_images(train: DatasetSplit, valid: DatasetSplit) -> list[ImageRecord]:
    """Return the images of `valid` whose file, or a copy of it, is in `train`.

    Copies are searched for only in data sets of up to 20,000 images.
    """
    files = {record.id: record.source for record in valid.images if isinstance(record.source, Path)}
    paths = {os.path.realpath(path) for path in _paths(train.images)}
    shared = {image_id for image_id, path in files.items() if os.path.realpath(path) in paths}
    if len(train.images) + len(valid.images) <= _MAX_COMPARED:
        sizes = {image_id: _file_size(path) for image_id, path in files.items() if image_id not in shared}
        digests = _digests_of_sizes(train.images, set(sizes.values()))
        common = {size for size, _ in digests}
        for image_id, size in sizes.items():
            if size in common and (size, file_digest(files[image_id])) in digests:
                shared.add(image_id)
    return [record for record in valid.images if record.id in shared]


def file_digest(path: Path) -> str:
    """Return a digest of a file's content; empty if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "blake2b").hexdigest()
    except OSError:
        return ""


def _digests_of_sizes(records: Iterable[ImageRecord], sizes: set[int]) -> set[tuple[int, str]]:
    """Return (size, digest) of the image files that have one of the given sizes in bytes."""
    files = [(_file_size(path), path) for path in _paths(records)]
    return {(size, file_digest(path)) for size, path in files if size > 0 and size in sizes}


def _paths(records: Iterable[ImageRecord]) -> list[Path]:
    return [record.source for record in records if isinstance(record.source, Path)]


def _file_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1
