"""LabelMe: a JSON file for each image, next to it or in another folder, with its shapes.

    DIR/a.json, DIR/a.jpg;  DIR/train/a.json, DIR/train/a.jpg;  DIR/labels.txt with the classes in their order, if any

Labels in one folder have no splits (`folder_splits`). Images without a JSON file are not labeled yet: they are left out
and counted. The size of the image file is trusted; the image in the JSON file is not used.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

from sais.data.annotation_limits import quoted
from sais.data.annotations import DatasetSplit
from sais.data.formats import notes as kinds
from sais.data.formats.coco_ids import as_integer
from sais.data.formats.folder_splits import list_folder_splits, read_folder_split
from sais.data.formats.image_sizes import settle_frame
from sais.data.formats.labelme_shapes import add_shapes, class_name
from sais.data.formats.paths_inside import find_inside, find_stem, images_by_stem, images_in
from sais.data.formats.split_builder import Problems, SplitBuilder
from sais.errors import InputError, OutOfMemoryError, SaisError
from sais.io.regular_file import is_regular_file, read_regular_file

_CLASSES = "labels.txt"
_SPECIAL_CLASSES = ("__ignore__", "_background_")
"""Lines that LabelMe's own converters expect in labels.txt; no objects."""
_HEAD_BYTES = 2**16
_MAX_EXAMINED = 20
"""Number of JSON files examined to recognize the format."""


def list_splits(folder: Path) -> list[str]:
    """Return the names of the splits of LabelMe labels; none if the folder has no such labels."""
    return list_folder_splits(folder, _has_labels)


def read_split(
    folder: Path, split: str, classes: tuple[str, ...] | None, searched: list[str], problems: Problems | None
) -> DatasetSplit | None:
    """Read a split of LabelMe labels: as for `sais.data.formats.yolo.read_split`.

    Raises:
        InputError: A label or an image is malformed.
    """

    def read(place: Path) -> DatasetSplit:
        return _read(folder, place, split, classes, problems)

    dataset_split = read_folder_split(folder, split, _has_labels, read)
    if dataset_split is None:
        searched.append("*.json of LabelMe")
    return dataset_split


def _has_labels(folder: Path) -> bool:
    for position, path in enumerate(_json_files(folder)):
        if position >= _MAX_EXAMINED:
            break
        if is_regular_file(path) and _is_labelme(path):
            return True
    return False


def _is_labelme(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        return False
    return any(key in head for key in (b'"shapes"', b'"imagePath"', b'"imageData"'))


def _json_files(folder: Path) -> Iterable[Path]:
    """Yield the JSON files below a folder, hidden ones excluded."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place, name) for name in sorted(files) if name.endswith(".json") and name[0] != ".")


def _read(
    folder: Path, place: Path, split: str, classes: tuple[str, ...] | None, problems: Problems | None
) -> DatasetSplit:
    found: list[tuple[Path, dict[str, Any]]] = []
    others: list[Path] = []
    failed: list[str] = []
    for path in _json_files(place):
        try:
            document = _load(path)
        except OutOfMemoryError:
            raise
        except SaisError as error:
            failed.append(str(error))
            continue
        if document is None:
            others.append(path)
        else:
            found.append((path, document))
    names = _class_names(folder, place, [document for _, document in found])
    if not names and not failed:
        raise InputError(f"{place}: no shapes with a class in {len(found)} LabelMe files. Label at least one object.")
    builder = SplitBuilder(folder, names or ["unknown"], classes)
    for message in failed:
        builder.notes.problem(kinds.BAD_ANNOTATION, message)
    for path in others:
        builder.notes.add(kinds.NOT_LABELME, builder.relative(path))
    labels = {name: label for label, name in enumerate(names)}
    used: set[Path] = set()
    listing = cache(images_by_stem)
    for path, document in found:
        image = _find_image(folder, path, document, used, listing)
        if image is None:
            name = quoted(document.get("imagePath"))
            text = f"{path}: its image {name} is not in {folder}. Add it, or remove this file."
            builder.notes.problem(kinds.BAD_IMAGE, text)
        else:
            used.add(image)
            _add_image(path, document, image, labels, builder)
    for directory in sorted({image.parent for image in used}):
        for image in sorted(set(images_in(directory)) - used):
            builder.notes.add(kinds.NOT_LABELED, builder.relative(image))
    return builder.build(split, problems)


def _load(path: Path) -> dict[str, Any] | None:
    """Return the content of a LabelMe file; None if it is JSON of another kind."""
    try:
        document = json.loads(read_regular_file(path, "label file").decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, deeply nested
        raise InputError(f"{path}: cannot be read as JSON ({error}). Save it again in LabelMe.") from error
    if not isinstance(document, dict) or "shapes" not in document:
        return None
    if not isinstance(document["shapes"], list):
        raise InputError(f"{path}: 'shapes' is {quoted(document['shapes'])}, not a list. Save it again in LabelMe.")
    document.pop("imageData", None)  # megabytes for each image
    return document


def _class_names(folder: Path, place: Path, documents: list[dict[str, Any]]) -> list[str]:
    """Return the classes of a data set: those of labels.txt in their order, then the others, sorted."""
    names: dict[str, None] = {}
    for file in (place / _CLASSES, folder / _CLASSES):
        if is_regular_file(file) and not names:
            lines = read_regular_file(file).decode("utf-8-sig", errors="replace").splitlines()
            names = dict.fromkeys(line.strip() for line in lines)
    for special in ("", *_SPECIAL_CLASSES):
        names.pop(special, None)
    if not names and place != folder:  # all splits have the same classes
        for other in (folder / name for name in list_splits(folder)):
            documents = documents + (_documents(other) if other != place else [])
    shapes = [shape for document in documents for shape in document["shapes"]]
    found = {name for shape in shapes if (name := class_name(shape)) is not None}
    return [*names, *sorted(found - set(names))]


def _documents(place: Path) -> list[dict[str, Any]]:
    documents = []
    for path in _json_files(place):
        try:
            documents.append(_load(path))
        except OutOfMemoryError:
            raise
        except SaisError:  # reported with its own split
            continue
    return [{"shapes": document["shapes"]} for document in documents if document is not None]


def _find_image(
    folder: Path,
    path: Path,
    document: dict[str, Any],
    used: set[Path],
    listing: Callable[[Path], dict[str, Path]],
) -> Path | None:
    """Return the image of a LabelMe file: as it names it, or of the same name next to it or in a folder of images."""
    name = document.get("imagePath")
    if isinstance(name, str):
        image = find_inside(folder, [path.parent], name, os.path.isfile)
        if image is not None and image not in used:
            return image
    for place in (path.parent, path.parent.parent / "images", path.parent / "images"):
        image = find_stem(listing(place), path.stem) if place.is_relative_to(folder) else None
        if image is not None and image not in used:
            return image
    return None


def _add_image(
    path: Path, document: dict[str, Any], image: Path, labels: dict[str, int], builder: SplitBuilder
) -> None:
    height, width = as_integer(document.get("imageHeight")) or 0, as_integer(document.get("imageWidth")) or 0
    stated = (height, width) if height > 0 and width > 0 else None
    frame = settle_frame(builder, image, stated, builder.relative(path))
    if frame is not None and builder.start_image(image, frame.size):
        add_shapes(document["shapes"], labels, frame.scale, builder, builder.relative(path))
        builder.end_image()
