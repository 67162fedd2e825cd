"""The COCO format: a JSON file of one split, checked and converted to a `DatasetSplit`.

Errors that the user can fix in the file raise an `InputError` that names the file and the id. Unusable data (zero-area
boxes, malformed polygons) are dropped and counted in `DatasetSplit.notes`.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator, Sequence
from pathlib import Path

from sais.data.annotation_limits import crowding_problem
from sais.data.annotations import Annotation, DatasetSplit, ImageRecord
from sais.data.formats.coco_document import read_categories, read_document, read_images
from sais.data.formats.coco_objects import read_objects
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
from sais.data.objects import UNKNOWN_CLASS

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
) -> DatasetSplit:
    """Read a COCO annotation file.

    Args:
        annotations: The JSON file; without the key 'annotations' (COCO's image_info of test-dev) there are no objects.
        images: Folder of the images, or candidate folders, of which the one with most of the images is used; None if
            the images are not read.
        classes: A model's class names, which the labels then follow; None sorts the labels by category id and keeps
            unused categories.
        problems: Takes the error messages of all malformed entries, which are left out; None raises for the first.

    Raises:
        InputError: The file or the images are missing, or the file is not JSON, not COCO or inconsistent.
    """
    with _garbage_collection_paused():
        return _read(Path(annotations), images, classes, problems)


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
    path: Path, images: Path | Sequence[Path] | None, classes: tuple[str, ...] | None, problems: Problems | None
) -> DatasetSplit:
    notes = Notes()
    document = read_document(path)
    categories = read_categories(path, document, classes, notes)
    folders = [Path(images)] if isinstance(images, (str, Path)) else images and [Path(folder) for folder in images]
    frame = read_images(path, document["images"], folders, notes)
    by_image: dict[int, list[Annotation]] = {image_id: [] for image_id in frame.ids}
    for image_id, annotation in read_objects(path, document.get("annotations", []), frame, categories, notes):
        by_image[image_id].append(annotation)
    for image_id, image_objects in by_image.items():
        problem = crowding_problem(image_objects, frame.sizes[image_id])
        if problem:
            notes.problem(CROWDED_IMAGE, f"{path}: image {image_id} {problem}.")
            image_objects.clear()
    if problems is None:
        notes.raise_first()
    else:
        for kind, messages in notes.problems.items():
            problems.setdefault(kind, []).extend(messages)
    records = tuple(
        ImageRecord(image_id, file, frame.sizes[image_id], tuple(by_image[image_id]))
        for image_id, file in zip(frame.ids, frame.paths, strict=True)
    )
    return DatasetSplit(
        path.stem.removeprefix("instances_"),
        categories.class_names,
        categories.category_ids,
        records,
        dict(notes.counts),
        {kind: tuple(places) for kind, places in notes.examples.items()},
    )
