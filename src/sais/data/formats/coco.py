"""COCO JSON: the annotations of one split, read and checked, as an `Index`. Where its files lie is `formats.find`'s.

What the user can mend in the file raises a `SaisError` naming the file and the id; what is merely unusable (a box
without area, a malformed polygon) is left out and counted in `Index.notes`.
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
from sais.errors import SaisError
from sais.ops.rasterize import bounding_box, inside

NO_AREA = "boxes without area left out"
CLIPPED = "boxes reaching beyond the image clipped"
OUTSIDE = "objects wholly outside the image left out"
NO_SHAPE = "annotations with neither a box nor a mask left out"
BAD_PART = "malformed polygon parts left out"
BAD_RLE = "masks of another size than the image left out"
NO_MASK = "objects without a mask (they train no masks)"
BOX_MADE = "boxes made from the mask"
AREA_MADE = "areas computed"
FLAT = "flat polygons taken as one part"
UNKNOWN_CLASS = "objects of classes the model does not know left out"
SIZES_READ = "image sizes read from the files"

_PROBES = 20
"""How many images are looked for to find the right folder."""
_ROUNDING = 0.01
"""Pixels a box may reach beyond the image without mention: files round to two decimals."""


@dataclass(frozen=True)
class _File:
    """What the reading of one annotation needs to know of its file."""

    path: Path
    sizes: dict[int, tuple[int, int]]
    labels: dict[int, int | None]
    """Category id -> label; None for a class the model does not know."""
    notes: Counter[str]


def read_coco(
    annotations: Path, images: Path | Sequence[Path] | None, classes: tuple[str, ...] | None = None
) -> DatasetSplit:
    """The index of one COCO annotation file.

    Args:
        annotations: the JSON; one without the key 'annotations' (COCO's image_info of test-dev) has no objects.
        images: the folder of the images, or several to try: the one that holds the images is taken. None where
            the images themselves are not needed.
        classes: a model's class names: labels follow them, by name. None: labels follow the category ids, sorted,
            all categories of the file kept, used or not.

    Raises:
        SaisError: the file or the images are missing, it is not JSON or not COCO, or it contradicts itself.
    """
    annotations = Path(annotations)
    document = _document(annotations)
    class_names, category_ids, labels = _classes(annotations, document, classes)
    entries = document["images"]
    _check_images(annotations, entries)
    folder = _folder(annotations, entries, images)
    notes: Counter[str] = Counter()
    sizes = {entry["id"]: _size(annotations, folder, entry, notes) for entry in entries}
    file = _File(annotations, sizes, labels, notes)
    objects: dict[int, list[Annotation]] = {entry["id"]: [] for entry in entries}
    seen: set[int] = set()
    for raw in document.get("annotations", []):
        _check_annotation(file, raw, seen)
        made = _annotation(file, raw)
        if made is not None:
            objects[raw["image_id"]].append(made)
    records = tuple(
        ImageRecord(e["id"], folder / e["file_name"], sizes[e["id"]], tuple(objects[e["id"]])) for e in entries
    )
    return DatasetSplit(annotations.stem.removeprefix("instances_"), class_names, category_ids, records, dict(notes))


def _document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise SaisError(f"{path}: no such annotation file; check the path") from error
    except json.JSONDecodeError as error:
        raise SaisError(
            f"{path}: not JSON ({error.msg}, line {error.lineno} column {error.colno}); export it again"
        ) from error
    except (OSError, ValueError, RecursionError) as error:  # not UTF-8, a number of 5,000 digits, brackets in brackets
        raise SaisError(f"{path}: cannot be read ({error}); export it again") from error
    if not isinstance(document, dict):
        raise SaisError(f"{path}: not COCO: a JSON {type(document).__name__} at the top; export it as COCO instances")
    for key in ("images", "categories"):
        if key not in document:
            raise SaisError(f"{path}: not COCO: the key '{key}' is missing; export it as COCO instances")
    for key in ("images", "categories", "annotations"):
        if not isinstance(document.get(key, []), list):
            raise SaisError(f"{path}: not COCO: '{key}' is no list; export it as COCO instances")
    if not document["images"]:
        raise SaisError(f"{path}: there are no images in it; export a split with at least one")
    return document


def _classes(
    path: Path, document: dict[str, Any], classes: tuple[str, ...] | None
) -> tuple[tuple[str, ...], tuple[int, ...], dict[int, int | None]]:
    """Class names and category ids in the order of the labels, and category id -> label."""
    categories = document["categories"]
    if not categories:
        raise SaisError(f"{path}: 'categories' is empty; a model needs at least one class: add it, or export again")
    for category in categories:
        if not isinstance(category, dict) or not _whole(category.get("id")) or not _named(category):
            raise SaisError(f"{path}: a category lacks a whole-number 'id' or a 'name': {category!r}; give it both")
    categories = sorted(categories, key=lambda category: category["id"])
    ids = tuple(category["id"] for category in categories)
    if len(set(ids)) < len(ids):
        raise SaisError(f"{path}: category id {_repeated(ids)} is there twice; give every category its own id")
    names = tuple(str(category["name"]) for category in categories)
    if classes is None:
        return names, ids, {category_id: label for label, category_id in enumerate(ids)}
    # Export tools do write a name twice (as its own parent): the nth of a name means the nth of that name.
    id_of = dict(zip(_numbered(names), ids, strict=True))
    wanted = _numbered(classes)
    missing = [key[0] for key in wanted if key not in id_of]
    if missing:
        raise SaisError(
            f"{path}: the model's classes {', '.join(missing)} are not among its categories; "
            "add them to 'categories' under these names, or use the model's own data"
        )
    category_ids = tuple(id_of[key] for key in wanted)
    labels: dict[int, int | None] = dict.fromkeys(ids)
    labels.update({category_id: label for label, category_id in enumerate(category_ids)})
    return tuple(classes), category_ids, labels


def _numbered(names: tuple[str, ...]) -> list[tuple[str, int]]:
    return [(name, names[:i].count(name)) for i, name in enumerate(names)]


def _check_images(path: Path, entries: list[Any]) -> None:
    seen: set[int] = set()
    for entry in entries:
        if not isinstance(entry, dict) or not _whole(entry.get("id")):
            raise SaisError(f"{path}: not COCO: an image without a whole-number 'id'; export it as COCO instances")
        if not isinstance(entry.get("file_name"), str):
            raise SaisError(f"{path}: not COCO: image {entry['id']} lacks 'file_name'; export it as COCO instances")
        if entry["id"] in seen:
            raise SaisError(f"{path}: image id {entry['id']} is there twice; give every image its own id")
        seen.add(entry["id"])


def _folder(path: Path, entries: list[Any], images: Path | Sequence[Path] | None) -> Path:
    """The candidate folder that holds the most of the first images."""
    if images is None:
        return path.parent
    candidates = [Path(images)] if isinstance(images, (str, Path)) else [Path(folder) for folder in images]
    probes = [entry["file_name"] for entry in entries[:_PROBES]]
    best, most = path.parent, 0
    for folder in candidates:
        found = sum(os.path.isfile(folder / name) for name in probes) if folder.is_dir() else 0  # raises for no name
        if found > most:
            best, most = folder, found
    if not most:
        looked = ", ".join(str(folder) for folder in candidates)
        raise SaisError(f"{path}: its images ({probes[0]} ...) are not in {looked}; name their folder")
    return best


def _size(path: Path, folder: Path, entry: dict[str, Any], notes: Counter[str]) -> tuple[int, int]:
    if entry.get("height") is None or entry.get("width") is None:
        from sais.io.images import read_size

        notes[SIZES_READ] += 1
        return read_size(folder / entry["file_name"])
    height, width = entry["height"], entry["width"]
    if not all(isinstance(side, (int, float)) and 1 <= side < math.inf for side in (height, width)):
        raise SaisError(f"{path}: image {entry['id']} is said to be {width!r} x {height!r}; give its size in pixels")
    return int(height), int(width)


def _check_annotation(file: _File, raw: Any, seen: set[int]) -> None:
    if not isinstance(raw, dict) or not _whole(raw.get("id")):
        raise SaisError(f"{file.path}: not COCO: an annotation without a whole-number 'id'; export it again")
    for key in ("image_id", "category_id"):
        if key not in raw:
            raise SaisError(f"{file.path}: not COCO: annotation {raw['id']} lacks '{key}'; export it as COCO instances")
    if not _whole(raw["image_id"]) or raw["image_id"] not in file.sizes:
        raise SaisError(
            f"{file.path}: annotation {raw['id']} is of image {raw['image_id']!r}, which is not in 'images'; "
            "remove it or add the image"
        )
    if not _whole(raw["category_id"]) or raw["category_id"] not in file.labels:
        raise SaisError(
            f"{file.path}: annotation {raw['id']} is of category {raw['category_id']!r}, which is not in 'categories'; "
            "remove it or add the category"
        )
    if raw["id"] in seen:
        raise SaisError(f"{file.path}: annotation id {raw['id']} is there twice; give every annotation its own id")
    seen.add(raw["id"])


def _annotation(file: _File, raw: dict[str, Any]) -> Annotation | None:
    """The annotation as the package sees it, or None (and a note) where nothing usable is left of it."""
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
        file.notes[AREA_MADE] += 1
        area = _area(segmentation, size, box, where)
    crowd = raw.get("iscrowd") or 0
    if not isinstance(crowd, (int, float)):  # "0" is true to Python
        raise SaisError(f"{where}: its iscrowd is {crowd!r}, not 0 or 1; correct it")
    return Annotation(raw["id"], box, label, segmentation, bool(crowd), area)


def _segmentation(file: _File, raw: dict[str, Any], size: tuple[int, int]) -> list[Any] | dict[str, Any] | None:
    """The usable part of an annotation's segmentation; None where there is none."""
    given = raw.get("segmentation")
    where = f"{file.path}: annotation {raw['id']}"
    if given is None or given == [] or given == {}:
        return None
    if isinstance(given, dict):
        stated = given.get("size")
        if not isinstance(given.get("counts"), (list, str)) or not isinstance(stated, list) or len(stated) != 2:
            raise SaisError(f"{where}: its RLE lacks 'size' or 'counts'; export it again")
        if tuple(stated) != size:
            file.notes[BAD_RLE] += 1
            return None
        return given
    if not isinstance(given, list):
        raise SaisError(f"{where}: its segmentation is neither polygons nor RLE but {given!r:.40}; export it again")
    if not isinstance(given[0], list):
        file.notes[FLAT] += 1
        given = [given]
    parts = []
    for part in given:
        try:
            finite = math.isfinite(sum(part))  # NaN and infinity survive a sum, and this is the fastest check
        except (TypeError, OverflowError) as error:
            raise SaisError(f"{where}: its polygon holds something that is no number; export it again") from error
        if not finite:
            raise SaisError(f"{where}: its polygon holds NaN or an infinite coordinate; correct or remove it")
        if len(part) < 6 or len(part) % 2:
            file.notes[BAD_PART] += 1
        else:
            parts.append(part)
    return parts or None


def _corners(
    file: _File, raw: dict[str, Any], segmentation: list[Any] | dict[str, Any] | None, size: tuple[int, int]
) -> tuple[float, float, float, float] | None:
    """x1 y1 x2 y2 as the file has them or as the mask gives them; None (and a note) where it has neither."""
    where = f"{file.path}: annotation {raw['id']}"
    given = raw.get("bbox")
    if given is None:
        mask = rasterize_segmentation(segmentation, size, where)
        if mask is None:
            file.notes[NO_SHAPE] += 1
            return None
        file.notes[BOX_MADE] += 1
        x1, y1, x2, y2 = (float(v) for v in bounding_box(mask))
        return x1, y1, x2, y2
    if not isinstance(given, list) or len(given) != 4:
        raise SaisError(f"{where}: its bbox is {given!r}, not [x, y, width, height]; correct or remove it")
    x, y, w, h = (_number(where, "bbox", v) for v in given)
    return x, y, x + w, y + h


def _area(segmentation: list[Any] | dict[str, Any] | None, size: tuple[int, int], box: np.ndarray, where: str) -> float:
    """Pixels of the mask within its box; of the box itself where there is no mask."""
    mask = rasterize_segmentation(segmentation, size, where)
    x1, y1, x2, y2 = (float(v) for v in box)
    if mask is None:
        return (x2 - x1) * (y2 - y1)
    return float(inside(mask, (math.floor(x1), math.floor(y1), math.ceil(x2), math.ceil(y2))).sum())


def _number(where: str, what: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise SaisError(f"{where}: its {what} holds {value!r}, which is no number; correct or remove it")
    try:
        number = float(value)
    except OverflowError:  # a whole number of more than 308 digits
        number = math.inf
    if not math.isfinite(number):
        raise SaisError(f"{where}: its {what} holds {number!r}; correct or remove the annotation")
    return number


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _named(category: dict[str, Any]) -> bool:
    name = category.get("name")
    return isinstance(name, (str, int, float)) and bool(str(name).strip())


def _repeated(ids: tuple[int, ...]) -> int:
    return next(i for i, count in Counter(ids).items() if count > 1)
