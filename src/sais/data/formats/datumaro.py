"""Datumaro: a JSON file for each split, with polygons, masks and boxes of each image.

    DIR/annotations/train.json, DIR/images/train/a.jpg

The items of a file name their images by `image` or `media`, or have the name of the image as `id`. Annotations of one
class with the same `group`, if it is not 0, are parts of one object; next to a polygon or a mask, a box of its group is
the box of that object. Points, lines, captions and classes of whole images are counted. A single file of another name
than a split has all images (`folder_splits.draw_split`). The size of the image file is trusted.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from sais.data.annotation_limits import quoted
from sais.data.annotations import DatasetSplit
from sais.data.formats import notes as kinds
from sais.data.formats.coco_document import is_file_name, read_json
from sais.data.formats.coco_ids import as_integer
from sais.data.formats.datumaro_objects import add_objects
from sais.data.formats.folder_splits import DRAWN_SPLITS, WHOLE, draw_split
from sais.data.formats.image_files import ImageFiles, may_lead_outside
from sais.data.formats.image_sizes import settle_frame
from sais.data.formats.paths_inside import find_stem, images_by_stem
from sais.data.formats.split_builder import Problems, SplitBuilder
from sais.data.formats.unsplit import json_files, json_stem, read_head
from sais.errors import InputError

_IS_DATUMARO = re.compile(rb'"(?:categories"\s*:\s*\{|dm_format_version")')
"""Categories of COCO are a list."""


def list_splits(folder: Path) -> list[str]:
    """Return the names of the splits of Datumaro; none if the folder is of another format."""
    names = list(_files(folder))
    return list(DRAWN_SPLITS) if _is_whole(names) else names


def read_split(
    folder: Path, split: str, classes: tuple[str, ...] | None, searched: list[str], problems: Problems | None
) -> DatasetSplit | None:
    """Read a split of Datumaro: as for `sais.data.formats.yolo.read_split`.

    Raises:
        InputError: The JSON file or an image is malformed.
    """
    files = _files(folder)
    names = ["valid", "val"] if split in ("val", "valid") else [split]
    path = next((files[name] for name in names if name in files), None)
    if path is not None:
        return _read(folder, path, split, classes, problems)
    if _is_whole(list(files)) and split in (*DRAWN_SPLITS, "val", WHOLE):
        (path,) = files.values()
        return draw_split(_read(folder, path, split, classes, problems), split)
    searched.append(f"annotations/{split}.json of Datumaro")
    return None


def _files(folder: Path) -> dict[str, Path]:
    """Return the JSON files by the names of their splits."""
    files = json_files(folder / "annotations")
    return {json_stem(path): path for path in files if _IS_DATUMARO.search(read_head(path))}


def _is_whole(names: list[str]) -> bool:
    """Return whether the only file has the name of no split."""
    return len(names) == 1 and not names[0].startswith(("train", "val", "test"))


def _read(
    folder: Path, path: Path, split: str, classes: tuple[str, ...] | None, problems: Problems | None
) -> DatasetSplit:
    document = read_json(path)
    items = document.get("items") if isinstance(document, dict) else None
    if not isinstance(items, list):
        raise InputError(f"{path}: not Datumaro: no list 'items'. Export it again.")
    names = _class_names(path, document.get("categories"))
    builder = SplitBuilder(folder, names, classes)
    stem = json_stem(path)
    places = [folder / "images" / stem, folder / "images", folder / stem, folder]
    valid = [item for item in items if isinstance(item, dict)]
    files = ImageFiles(places, [name for item in valid if (name := _image_name(item))], folder)
    listing = cache(images_by_stem)
    used: set[Path] = set()
    for position, item in enumerate(items):
        place = f"{builder.relative(path)} item {position}"
        name = _image_name(item) if isinstance(item, dict) else ""
        image = _find_image(files, name, listing)
        if image is None:
            text = f"{path}: item {position}: its image {quoted(name)} is not in {folder}. Add it, or remove the item."
            builder.notes.problem(kinds.BAD_IMAGE, text)
        elif image in used:
            text = f"{path}: item {position}: {quoted(name)} is the image of another item as well. Remove one of them."
            builder.notes.problem(kinds.REPEATED_ID, text)
        else:
            used.add(image)
            _add_item(item, image, place, builder)
    return builder.build(split, problems)


def _find_image(files: ImageFiles, name: str, listing: Callable[[Path], dict[str, Path]]) -> Path | None:
    """Return the image of a file name, or of an id, which is the name without suffix."""
    found = files.find(name) if name else None
    if found is not None:
        return found[0]
    if files.folder is None or may_lead_outside(name):
        return None
    folder, _, stem = name.rpartition("/")
    return find_stem(listing(files.folder / folder), stem)


def _add_item(item: dict[str, Any], image: Path, place: str, builder: SplitBuilder) -> None:
    frame = settle_frame(builder, image, _stated_size(item), place)
    if frame is None or not builder.start_image(image, frame.size):
        return
    given = item.get("annotations", [])
    if isinstance(given, list):
        add_objects(given, frame.scale, place, builder)
    else:
        text = f"{builder.folder}: {place}: 'annotations' is {quoted(given)}, not a list. Export it again."
        builder.notes.problem(kinds.BAD_ANNOTATION, text)
    builder.end_image()


def _image_name(item: dict[str, Any]) -> str:
    """Return the file name of an item's image, or its id, which is that without suffix; empty if there is none."""
    for key in ("image", "media"):
        media = item.get(key)
        name = media.get("path") if isinstance(media, dict) else None
        if is_file_name(name):
            return str(name)
    name = item.get("id")
    return str(name) if is_file_name(name) else ""


def _stated_size(item: dict[str, Any]) -> tuple[int, int] | None:
    media = item.get("image")
    size = media.get("size") if isinstance(media, dict) else None
    sides = [as_integer(side) or 0 for side in size] if isinstance(size, list) else []
    return (sides[0], sides[1]) if len(sides) == 2 and min(sides) > 0 else None


def _class_names(path: Path, categories: Any) -> list[str]:
    label = categories.get("label") if isinstance(categories, dict) else None
    entries = label.get("labels") if isinstance(label, dict) else None
    names = [entry.get("name") if isinstance(entry, dict) else None for entry in entries or ()]
    if not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise InputError(f"{path}: 'categories' has no list of labels with names. Export it again.")
    return [str(name) for name in names]
