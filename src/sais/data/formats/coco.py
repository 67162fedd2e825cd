"""The COCO format: a JSON file of one split, checked and converted to a `DatasetSplit`.

Errors that the user can fix in the file raise an `InputError` that names the file and the id. Unusable data (zero-area
boxes, malformed polygons) are dropped and counted in `DatasetSplit.notes`.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sais.data.annotations import Annotation, DatasetSplit, ImageRecord, rasterize_segmentation
from sais.data.objects import UNKNOWN_CLASS
from sais.errors import InputError
from sais.ops.rasterize import bounding_box, inside

NO_AREA = "zero-area boxes dropped"
CLIPPED = "boxes clipped to the image"
OUTSIDE = "objects outside the image dropped"
NO_SHAPE = "annotations with neither a box nor a mask dropped"
BAD_PART = "malformed polygons dropped"
BAD_RLE = "masks of another size than the image dropped"
NO_MASK = "objects without a mask (not used to train masks)"
BOX_COMPUTED = "boxes computed from the mask"
AREA_COMPUTED = "areas computed"
FLAT = "flat polygons read as one polygon"
SIZES_READ = "image sizes read from the image files"

_PROBES = 20
"""Number of images searched for in each candidate folder."""
_ROUNDING = 0.01
"""Pixels by which a box may exceed the image without a note: files round to two decimals."""


@dataclass(frozen=True)
class _File:
    """The properties of a file that its annotations are checked against."""

    path: Path
    sizes: dict[int, tuple[int, int]]
    labels: dict[int, int | None]
    """Category id -> label; None for a class unknown to the model."""
    notes: Counter[str]


def read_coco(
    annotations: Path, images: Path | Sequence[Path] | None, classes: tuple[str, ...] | None = None
) -> DatasetSplit:
    """Read a COCO annotation file.

    Args:
        annotations: The JSON file; without the key 'annotations' (COCO's image_info of test-dev) there are no objects.
        images: Folder of the images, or candidate folders, of which the one with most of the images is used; None if
            the images are not read.
        classes: A model's class names, which the labels then follow; None sorts the labels by category id and keeps
            unused categories.

    Raises:
        InputError: The file or the images are missing, or the file is not JSON, not COCO or inconsistent.
    """
    annotations = Path(annotations)
    document = _read_document(annotations)
    class_names, category_ids, labels = _read_classes(annotations, document, classes)
    entries = document["images"]
    _check_images(annotations, entries)
    folder = _find_folder(annotations, entries, images)
    notes: Counter[str] = Counter()
    sizes = {entry["id"]: _size(annotations, folder, entry, notes) for entry in entries}
    file = _File(annotations, sizes, labels, notes)
    objects: dict[int, list[Annotation]] = {entry["id"]: [] for entry in entries}
    ids: set[int] = set()
    for raw in document.get("annotations", []):
        _check_annotation(file, raw, ids)
        annotation = _annotation(file, raw)
        if annotation is not None:
            objects[raw["image_id"]].append(annotation)
    records = tuple(
        ImageRecord(e["id"], folder / e["file_name"], sizes[e["id"]], tuple(objects[e["id"]])) for e in entries
    )
    return DatasetSplit(annotations.stem.removeprefix("instances_"), class_names, category_ids, records, dict(notes))


def _read_document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such annotation file. Check the path.") from error
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}: not JSON ({error.msg}, line {error.lineno} column {error.colno}). Export it again."
        ) from error
    except (OSError, ValueError, RecursionError) as error:  # not UTF-8, a number of 5,000 digits, deeply nested
        raise InputError(f"{path}: cannot be read ({error}). Export it again.") from error
    if not isinstance(document, dict):
        raise InputError(
            f"{path}: not COCO: JSON {type(document).__name__} at the top level. Export it as COCO instances."
        )
    for key in ("images", "categories"):
        if key not in document:
            raise InputError(f"{path}: not COCO: the key '{key}' is missing. Export it as COCO instances.")
    for key in ("images", "categories", "annotations"):
        if not isinstance(document.get(key, []), list):
            raise InputError(f"{path}: not COCO: '{key}' is not a list. Export it as COCO instances.")
    if not document["images"]:
        raise InputError(f"{path}: no images. Export a split with at least one image.")
    return document


def _read_classes(
    path: Path, document: dict[str, Any], classes: tuple[str, ...] | None
) -> tuple[tuple[str, ...], tuple[int, ...], dict[int, int | None]]:
    """Return class names and category ids in the order of the labels, and a map from category id to label."""
    categories = document["categories"]
    if not categories:
        raise InputError(f"{path}: 'categories' is empty. Add at least one category, or export the file again.")
    for category in categories:
        if not isinstance(category, dict) or not _is_integer(category.get("id")) or not _has_name(category):
            raise InputError(f"{path}: category without an integer 'id' or a 'name': {category!r}. Add both.")
    categories = sorted(categories, key=lambda category: category["id"])
    ids = tuple(category["id"] for category in categories)
    if len(set(ids)) < len(ids):
        raise InputError(f"{path}: category id {_duplicate(ids)} occurs more than once. Give unique ids.")
    names = tuple(str(category["name"]) for category in categories)
    if classes is None:
        return names, ids, {category_id: label for label, category_id in enumerate(ids)}
    # Some export tools write a name twice, as its own parent: the n-th category of a name keeps its position.
    id_of = dict(zip(_with_occurrence(names), ids, strict=True))
    keys = _with_occurrence(classes)
    missing = [key[0] for key in keys if key not in id_of]
    if missing:
        raise InputError(
            f"{path}: the model's classes {', '.join(missing)} are not in 'categories'. "
            "Add them under these names, or use the model's own data."
        )
    category_ids = tuple(id_of[key] for key in keys)
    labels: dict[int, int | None] = dict.fromkeys(ids)
    labels.update({category_id: label for label, category_id in enumerate(category_ids)})
    return tuple(classes), category_ids, labels


def _with_occurrence(names: tuple[str, ...]) -> list[tuple[str, int]]:
    return [(name, names[:i].count(name)) for i, name in enumerate(names)]


def _check_images(path: Path, entries: list[Any]) -> None:
    ids: set[int] = set()
    for entry in entries:
        if not isinstance(entry, dict) or not _is_integer(entry.get("id")):
            raise InputError(f"{path}: not COCO: an image without an integer 'id'. Export it as COCO instances.")
        if not isinstance(entry.get("file_name"), str):
            raise InputError(f"{path}: not COCO: image {entry['id']} lacks 'file_name'. Export it as COCO instances.")
        if entry["id"] in ids:
            raise InputError(f"{path}: image id {entry['id']} occurs more than once. Give unique ids.")
        ids.add(entry["id"])


def _find_folder(path: Path, entries: list[Any], images: Path | Sequence[Path] | None) -> Path:
    """Return the candidate folder that contains most of the first images."""
    if images is None:
        return path.parent
    candidates = [Path(images)] if isinstance(images, (str, Path)) else [Path(folder) for folder in images]
    probes = [entry["file_name"] for entry in entries[:_PROBES]]
    best, best_count = path.parent, 0
    for folder in candidates:
        count = sum(os.path.isfile(folder / name) for name in probes) if folder.is_dir() else 0  # raises for no name
        if count > best_count:
            best, best_count = folder, count
    if not best_count:
        searched = ", ".join(str(folder) for folder in candidates)
        raise InputError(f"{path}: its images ({probes[0]} ...) are not in {searched}. Give the folder of the images.")
    return best


def _size(path: Path, folder: Path, entry: dict[str, Any], notes: Counter[str]) -> tuple[int, int]:
    if entry.get("height") is None or entry.get("width") is None:
        from sais.io.images import read_size

        notes[SIZES_READ] += 1
        return read_size(folder / entry["file_name"])
    height, width = entry["height"], entry["width"]
    if not all(isinstance(side, (int, float)) and 1 <= side < math.inf for side in (height, width)):
        raise InputError(f"{path}: image {entry['id']} has the size {width!r} x {height!r}. Give its size in pixels.")
    return int(height), int(width)


def _check_annotation(file: _File, raw: Any, ids: set[int]) -> None:
    if not isinstance(raw, dict) or not _is_integer(raw.get("id")):
        raise InputError(f"{file.path}: not COCO: an annotation without an integer 'id'. Export it again.")
    for key in ("image_id", "category_id"):
        if key not in raw:
            raise InputError(
                f"{file.path}: not COCO: annotation {raw['id']} lacks '{key}'. Export it as COCO instances."
            )
    if not _is_integer(raw["image_id"]) or raw["image_id"] not in file.sizes:
        raise InputError(
            f"{file.path}: annotation {raw['id']} is of image {raw['image_id']!r}, which is not in 'images'. "
            "Remove it, or add the image."
        )
    if not _is_integer(raw["category_id"]) or raw["category_id"] not in file.labels:
        raise InputError(
            f"{file.path}: annotation {raw['id']} is of category {raw['category_id']!r}, which is not in 'categories'. "
            "Remove it, or add the category."
        )
    if raw["id"] in ids:
        raise InputError(f"{file.path}: annotation id {raw['id']} occurs more than once. Give unique ids.")
    ids.add(raw["id"])


def _annotation(file: _File, raw: dict[str, Any]) -> Annotation | None:
    """Return the converted annotation; None, with a note, if nothing of it is usable."""
    label = file.labels[raw["category_id"]]
    size = file.sizes[raw["image_id"]]
    segmentation = _segmentation(file, raw, size)
    where = f"{file.path}: annotation {raw['id']}"
    corners = _corners(file, raw, segmentation, size)
    if corners is None:
        return None
    x1, y1, x2, y2 = corners
    if x2 <= x1 or y2 <= y1:
        file.notes[NO_AREA] += 1
        return None
    height, width = size
    inner = (min(max(x1, 0.0), width), min(max(y1, 0.0), height), min(max(x2, 0.0), width), min(max(y2, 0.0), height))
    if inner[2] <= inner[0] or inner[3] <= inner[1]:
        file.notes[OUTSIDE] += 1
        return None
    if label is None:
        file.notes[UNKNOWN_CLASS] += 1
        return None
    if max(inner[0] - x1, inner[1] - y1, x2 - inner[2], y2 - inner[3]) > _ROUNDING:
        file.notes[CLIPPED] += 1
    if segmentation is None:
        file.notes[NO_MASK] += 1
    box = np.array(inner, np.float32)
    area = _number(where, "area", raw["area"]) if raw.get("area") is not None else None
    if area is None:
        file.notes[AREA_COMPUTED] += 1
        area = _area(segmentation, size, box, where)
    crowd = raw.get("iscrowd") or 0
    if not isinstance(crowd, (int, float)):  # "0" is true in Python
        raise InputError(f"{where}: iscrowd is {crowd!r}. Set it to 0 or 1.")
    return Annotation(raw["id"], box, label, segmentation, bool(crowd), area)


def _segmentation(file: _File, raw: dict[str, Any], size: tuple[int, int]) -> list[Any] | dict[str, Any] | None:
    """Return the usable part of an annotation's segmentation; None if there is none."""
    given = raw.get("segmentation")
    where = f"{file.path}: annotation {raw['id']}"
    if given is None or given == [] or given == {}:
        return None
    if isinstance(given, dict):
        stated = given.get("size")
        if not isinstance(given.get("counts"), (list, str)) or not isinstance(stated, list) or len(stated) != 2:
            raise InputError(f"{where}: its RLE lacks 'size' or 'counts'. Export it again.")
        if tuple(stated) != size:
            file.notes[BAD_RLE] += 1
            return None
        return given
    if not isinstance(given, list):
        raise InputError(f"{where}: its segmentation is neither polygons nor RLE: {given!r:.40}. Export it again.")
    if not isinstance(given[0], list):
        file.notes[FLAT] += 1
        given = [given]
    parts = []
    for part in given:
        try:
            finite = math.isfinite(sum(part))  # the sum is finite only if all terms are; the fastest check
        except (TypeError, OverflowError) as error:
            raise InputError(f"{where}: its polygon contains a value that is not a number. Export it again.") from error
        if not finite:
            raise InputError(f"{where}: its polygon contains NaN or an infinite coordinate. Correct or remove it.")
        if len(part) < 6 or len(part) % 2:
            file.notes[BAD_PART] += 1
        else:
            parts.append(part)
    return parts or None


def _corners(
    file: _File, raw: dict[str, Any], segmentation: list[Any] | dict[str, Any] | None, size: tuple[int, int]
) -> tuple[float, float, float, float] | None:
    """Return x1 y1 x2 y2 from the file or else from the mask; None, with a note, if there is neither."""
    where = f"{file.path}: annotation {raw['id']}"
    given = raw.get("bbox")
    if given is None:
        mask = rasterize_segmentation(segmentation, size, where)
        if mask is None:
            file.notes[NO_SHAPE] += 1
            return None
        file.notes[BOX_COMPUTED] += 1
        x1, y1, x2, y2 = (float(v) for v in bounding_box(mask))
        return x1, y1, x2, y2
    if not isinstance(given, list) or len(given) != 4:
        raise InputError(f"{where}: its bbox is {given!r}, not [x, y, width, height]. Correct or remove it.")
    x, y, w, h = (_number(where, "bbox", v) for v in given)
    return x, y, x + w, y + h


def _area(segmentation: list[Any] | dict[str, Any] | None, size: tuple[int, int], box: np.ndarray, where: str) -> float:
    """Return the number of mask pixels inside the box; the area of the box if there is no mask."""
    mask = rasterize_segmentation(segmentation, size, where)
    x1, y1, x2, y2 = (float(v) for v in box)
    if mask is None:
        return (x2 - x1) * (y2 - y1)
    return float(inside(mask, (math.floor(x1), math.floor(y1), math.ceil(x2), math.ceil(y2))).sum())


def _number(where: str, key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputError(f"{where}: its {key} contains {value!r}, which is not a number. Correct or remove it.")
    try:
        number = float(value)
    except OverflowError:  # an integer of more than 308 digits
        number = math.inf
    if not math.isfinite(number):
        raise InputError(f"{where}: its {key} contains {number!r}. Correct or remove the annotation.")
    return number


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _has_name(category: dict[str, Any]) -> bool:
    name = category.get("name")
    return isinstance(name, (str, int, float)) and bool(str(name).strip())


def _duplicate(ids: tuple[int, ...]) -> int:
    return next(i for i, count in Counter(ids).items() if count > 1)
