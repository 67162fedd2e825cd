"""COCO panoptic: a JSON file for each split, and a PNG for each image whose color is the id of a region.

    DIR/annotations/panoptic_train2017.json, DIR/annotations/panoptic_train2017/a.png, images as for COCO

The id is R + 256 G + 65536 B. Objects are the regions of categories with isthing 1; the others are counted. If no
category has isthing 1, all are of objects.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from sais.data.annotation_limits import quoted
from sais.data.annotations import DatasetSplit
from sais.data.formats import notes as kinds
from sais.data.formats.coco_document import is_file_name, read_categories, read_document
from sais.data.formats.coco_ids import Numbers, as_integer, find_id, is_id, number_ids
from sais.data.formats.id_classes import is_crowded
from sais.data.formats.id_maps import crop_objects, read_id_map
from sais.data.formats.image_files import ImageFiles
from sais.data.formats.notes import Notes
from sais.data.formats.paths_inside import find_inside
from sais.data.formats.split_builder import Problems, SplitBuilder
from sais.errors import InputError, OutOfMemoryError, SaisError
from sais.io.regular_file import is_regular_file

_PREFIX = "panoptic_"


def list_splits(folder: Path) -> list[str]:
    """Return the names of the splits of COCO panoptic; none if the folder has no such files."""
    return list(_files(folder))


def read_split(
    folder: Path, split: str, classes: tuple[str, ...] | None, searched: list[str], problems: Problems | None
) -> DatasetSplit | None:
    """Read a split of COCO panoptic: as for `sais.data.formats.yolo.read_split`; train finds panoptic_train2017.json.

    Raises:
        InputError: The JSON file, a PNG or an image is malformed.
    """
    files = _files(folder)
    names = ["val", "valid"] if split in ("val", "valid") else [split]
    exact = [files[name] for name in names if name in files]
    similar = [path for stem, path in files.items() if any(name in stem for name in names)]
    path = exact[0] if exact else similar[0] if len(similar) == 1 else None
    if path is None:
        searched.append(f"annotations/{_PREFIX}{split}.json")
        return None
    return _read(folder, path, split, classes, problems)


def _files(folder: Path) -> dict[str, Path]:
    """Return the JSON files by the names of their splits."""
    paths = [path for place in (folder, folder / "annotations") for path in sorted(place.glob(f"{_PREFIX}*.json"))]
    return {path.stem.removeprefix(_PREFIX): path for path in paths if is_regular_file(path)}


def _read(
    folder: Path, path: Path, split: str, classes: tuple[str, ...] | None, problems: Problems | None
) -> DatasetSplit:
    document = read_document(path)
    things = [c for c in document["categories"] if isinstance(c, dict) and c.get("isthing", 1) in (1, True)]
    none_is_thing = not things  # as Datumaro writes all of them
    things = things or document["categories"]
    categories = read_categories(path, {"categories": things}, None, Notes())
    builder = SplitBuilder(folder, categories.class_names, classes, categories.category_ids)
    for name in categories.class_names if none_is_thing else ():
        builder.notes.add(kinds.ALL_THINGS, name)
    labels = {number: label for label, number in enumerate(categories.category_ids)}
    images = _image_entries(path, document["images"], builder)
    numbers = number_ids([entry["id"] for entry in images], _ignore, _ignore)
    segments = _segments(path, document.get("annotations", []), numbers, builder)
    image_folders, map_folders = _folders(folder, path, split)
    files = ImageFiles(image_folders, [entry["file_name"] for entry in images], folder)
    used: set[int] = set()
    for entry in images:
        image_id, name = numbers[entry["id"]], entry["file_name"]
        image = find_inside(folder, image_folders, name, os.path.isfile) or _in_another_form(files, name, builder)
        if image_id in used:
            text = f"{path}: image id {image_id} occurs more than once. Give unique ids."
            builder.notes.problem(kinds.REPEATED_ID, text)
        elif image is None:
            text = f"{path}: image {quoted(name)} is not in {folder}. Add it."
            builder.notes.problem(kinds.BAD_IMAGE, text)
        elif builder.start_image(image):
            used.add(image_id)
            if image_id in segments:
                map_name, regions = segments[image_id]
                id_map = find_inside(folder, map_folders, map_name, os.path.isfile)
                _add_regions(
                    path, map_name, id_map, _region_labels(path, regions, categories.numbers, labels, builder), builder
                )
            else:
                builder.notes.add(kinds.NO_LABEL_FILE, builder.relative(image))
            builder.end_image(image_id)
    return builder.build(split, problems)


def _in_another_form(files: ImageFiles, name: str, builder: SplitBuilder) -> Path | None:
    """Return the only image whose name is `name` in another Unicode form, letter case, suffix or escape."""
    found = files.find(name)
    if found is not None:
        builder.notes.add(kinds.RENAMED_FILES, f"{name} is {builder.relative(found[0])}")
    return None if found is None else found[0]


def _folders(folder: Path, path: Path, split: str) -> tuple[list[Path], list[Path]]:
    """Return the folders that images and id maps may be in."""
    stem = path.stem.removeprefix(_PREFIX)
    names = list(dict.fromkeys([stem, split, f"{split}2017"]))
    images = [folder / "images" / name for name in names] + [folder / name for name in names]
    return [*images, folder / "images", folder], [path.parent / path.stem, folder / path.stem, path.parent]


def _image_entries(path: Path, entries: list[Any], builder: SplitBuilder) -> list[dict[str, Any]]:
    valid = []
    for entry in entries:
        if isinstance(entry, dict) and is_file_name(entry.get("file_name")) and is_id(entry.get("id")):
            valid.append(entry)
        else:
            text = f"{path}: an image without 'id' or 'file_name': {quoted(entry)}. Export it again."
            builder.notes.problem(kinds.BAD_IMAGE, text)
    return valid


def _segments(
    path: Path, entries: list[Any], numbers: Numbers, builder: SplitBuilder
) -> dict[int, tuple[str, list[Any]]]:
    """Return the name of the id map and the regions of each image."""
    segments: dict[int, tuple[str, list[Any]]] = {}
    for position, entry in enumerate(entries):
        fields = entry if isinstance(entry, dict) else {}
        name, regions = fields.get("file_name"), fields.get("segments_info")
        image_id = find_id(numbers, fields.get("image_id"))
        if isinstance(name, str) and isinstance(regions, list) and image_id is not None:
            segments[image_id] = (name, regions)
        else:
            text = f"{path}: annotations[{position}] is not panoptic: {quoted(entry)}. Export it again."
            builder.notes.problem(kinds.BAD_ANNOTATION, text)
    return segments


def _region_labels(
    path: Path, regions: list[Any], numbers: Numbers, labels: dict[int, int], builder: SplitBuilder
) -> dict[int, tuple[int, bool] | None]:
    """Return the label of each region by its id, and whether it is a crowd; None for stuff."""
    found: dict[int, tuple[int, bool] | None] = {}
    for region in regions:
        fields = region if isinstance(region, dict) else {}
        region_id = as_integer(fields.get("id"))
        if region_id is None or "category_id" not in fields:
            text = f"{path}: a region without 'id' or 'category_id': {quoted(region)}. Export it again."
            builder.notes.problem(kinds.BAD_ANNOTATION, text)
            continue
        number = find_id(numbers, fields["category_id"])
        found[region_id] = None if number is None else (labels[number], fields.get("iscrowd", 0) in (1, True))
    return found


def _add_regions(
    path: Path, name: str, id_map: Path | None, regions: dict[int, tuple[int, bool] | None], builder: SplitBuilder
) -> None:
    """Add the regions of an id map that are objects."""
    try:
        if id_map is None:
            raise InputError(f"{path}: id map {quoted(name)} is not in {builder.folder}. Add it.")
        ids = read_id_map(id_map, builder.size)
    except OutOfMemoryError:
        raise
    except SaisError as error:
        builder.notes.problem(kinds.BAD_MASK, str(error))
        return
    place = builder.relative(id_map)
    if is_crowded(ids, place, builder):
        return
    missing = set(regions)
    for region_id, bits, x, y in crop_objects(ids):
        where = f"{place} id {region_id}"
        missing.discard(region_id)
        region = regions.get(region_id)
        if region is not None:
            builder.add_bitmap(where, region[0], bits, x, y, region[1])
        else:
            builder.notes.add(kinds.STUFF if region_id in regions else kinds.NO_ENTRY, where)
    for region_id in sorted(missing):
        builder.notes.add(kinds.NO_SHAPE, f"{place} id {region_id}")


def _ignore(value: Any) -> None:
    """Ignore a note about an id."""
