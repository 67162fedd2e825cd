"""The frame of a COCO file: its JSON, its categories and its images."""

from __future__ import annotations

import json
import math
import os
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sais import input_limits
from sais.data.annotation_limits import classes_problem, quoted, size_problem
from sais.data.formats import notes as kinds
from sais.data.formats.coco_ids import Numbers, as_integer, is_id, number_ids
from sais.data.formats.image_files import ImageFiles, name_inside
from sais.data.formats.notes import Notes
from sais.errors import InputError, OutOfMemoryError, ResourceError, SaisError
from sais.io.regular_file import read_regular_file

Document = dict[str, Any]
GZIP = b"\x1f\x8b"
"""First bytes of a file that is compressed with gzip."""
_UNKNOWN_SIZE = (2**20, 2**20)
"""(H, W) of an image without a size in its entry, where images are not read: no object is outside of it."""


@dataclass(frozen=True)
class Categories:
    """The categories of a file."""

    class_names: tuple[str, ...]
    """C names in the order of the labels."""
    category_ids: tuple[int, ...]
    """C ids in the order of the labels."""
    labels: dict[int, int | None]
    """Category id -> label; None for a class unknown to the model."""
    numbers: Numbers
    """Category id as the file writes it -> integer."""


@dataclass(frozen=True)
class Images:
    """The images of a file, without the entries that are malformed."""

    ids: tuple[int, ...]
    paths: tuple[Path, ...]
    sizes: dict[int, tuple[int, int]]
    """Image id -> (H, W)."""
    numbers: Numbers
    """Image id as the file writes it -> integer."""
    digests: dict[str, str]
    """`ImageFiles.digests` of the folders in which they were searched."""
    suspects: set[int] = field(default_factory=set)
    """Ids of images of which a mask or an object was dropped; filled when the annotations are read."""


def read_document(path: Path) -> Document:
    """Return the JSON of a COCO file, whose keys are checked but not their entries.

    Raises:
        InputError: The file is missing, not JSON or not COCO.
        ResourceError: The file is too large, or memory does not suffice.
    """
    document = read_json(path)
    check_document(path, document)
    return document


def check_document(path: Path, document: Any) -> None:
    """Raise InputError for the JSON of a file that is not COCO."""
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


def read_json(path: Path) -> Any:
    """Return the content of a JSON file, which may be compressed with gzip.

    Raises:
        InputError: The file is missing or not JSON.
        ResourceError: The file is too large, or memory does not suffice.
    """
    try:
        return json.loads(_decompress(path, read_regular_file(path, "annotation file")))
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}: not JSON ({error.msg}, line {error.lineno} column {error.colno}). Export it again."
        ) from error
    except (ValueError, RecursionError) as error:  # not UTF-8, a number of 5,000 digits, deeply nested
        raise InputError(f"{path}: cannot be read ({error}). Export it again.") from error
    except MemoryError as error:
        raise ResourceError(f"{path}: not enough memory to read it. Free memory, or split it.") from error


def _decompress(path: Path, content: bytes) -> bytes:
    """Return the content of a file that may be compressed with gzip."""
    if not content.startswith(GZIP):
        return content
    limit = input_limits.MAX_JSON_BYTES
    decompressor = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        text = decompressor.decompress(content, limit)
    except zlib.error as error:
        raise InputError(f"{path}: corrupt gzip file ({error}). Export it again.") from error
    if decompressor.unconsumed_tail:
        raise ResourceError(f"{path}: more than {limit / 2**30:g} GB when decompressed. Split it.")
    if not decompressor.eof:
        raise InputError(f"{path}: the gzip file ends too early. Export it again.")
    return text


def read_categories(path: Path, document: Document, classes: tuple[str, ...] | None, notes: Notes) -> Categories:
    """Return the categories of a document.

    Args:
        path: The file.
        document: Its content.
        classes: A model's class names, which the labels then follow; None for the file's own, sorted by id.
        notes: Notes of the file.

    Raises:
        InputError: A category is malformed, or classes of the model are missing.
    """
    categories = document["categories"]
    if not categories:
        raise InputError(f"{path}: 'categories' is empty. Add at least one category, or export the file again.")
    for category in categories:
        if not isinstance(category, dict) or not is_id(category.get("id")) or not _has_name(category):
            raise InputError(f"{path}: category without an integer 'id' or a 'name': {quoted(category)}. Add both.")
    numbers = number_ids(
        [category["id"] for category in categories],
        lambda value: notes.add(kinds.CATEGORY_ID_NUMBERS, quoted(value)),
        lambda value: notes.add(kinds.CATEGORY_ID_TEXTS, quoted(value)),
    )
    named: list[tuple[int, str]] = []
    for category in categories:
        name = str(category["name"])
        if name != name.strip():
            notes.add(kinds.BLANK_NAMES, quoted(name))
        named.append((numbers[category["id"]], name.strip()))
    problem = classes_problem([name for _, name in named])
    if problem:
        raise InputError(f"{path}: {problem}.")
    named.sort(key=lambda pair: pair[0])
    ids = tuple(category_id for category_id, _ in named)
    if len(set(ids)) < len(ids):
        raise InputError(f"{path}: category id {_duplicate(ids)} occurs more than once. Give unique ids.")
    names = tuple(name for _, name in named)
    if classes is None:
        return Categories(names, ids, {category_id: label for label, category_id in enumerate(ids)}, numbers)
    return _follow_classes(path, names, ids, classes, numbers, notes)


def _follow_classes(
    path: Path, names: tuple[str, ...], ids: tuple[int, ...], classes: tuple[str, ...], numbers: Numbers, notes: Notes
) -> Categories:
    """Return the categories with the labels of a model's classes, matched by name."""
    # Some export tools write a name twice, as its own parent: the n-th category of a name keeps its position.
    id_of = dict(zip(_with_occurrence(names), ids, strict=True))
    keys = _with_occurrence(tuple(name.strip() for name in classes))
    missing = [name for name, key in zip(classes, keys, strict=True) if key not in id_of]
    known = set(keys)
    unknown = [key[0] for key in id_of if key not in known]
    if len(missing) == len(keys) or (missing and unknown):  # another name of the same class, or other data
        others = f" (there are {', '.join(unknown[:5])})" if unknown else ""
        raise InputError(
            f"{path}: the model's classes {', '.join(missing)} are not in 'categories'{others}. "
            "Add them under these names, or use the model's own data."
        )
    following = max(ids) + 1
    for name, key in zip(classes, keys, strict=True):
        if key not in id_of:
            notes.add(kinds.MISSING_CLASSES, name)
            id_of[key], following = following, following + 1
    category_ids = tuple(id_of[key] for key in keys)
    labels: dict[int, int | None] = dict.fromkeys(ids)
    labels.update({category_id: label for label, category_id in enumerate(category_ids)})
    return Categories(tuple(classes), category_ids, labels, numbers)


def _with_occurrence(names: tuple[str, ...]) -> list[tuple[str, int]]:
    counts: Counter[str] = Counter()
    keys = []
    for name in names:
        keys.append((name, counts[name]))
        counts[name] += 1
    return keys


def read_images(
    path: Path, entries: list[Any], folders: Sequence[Path] | None, root: Path | None, notes: Notes
) -> Images:
    """Return the images of a document; malformed entries are recorded as problems and left out.

    Args:
        path: The annotation file.
        entries: Value of 'images', not empty.
        folders: Candidate folders of the images; None if they are not read.
        root: Folder outside of which no image is read; None for no such limit.
        notes: Notes of the file.

    Raises:
        InputError: None of the first images exists in the folders.
    """
    valid = _valid_entries(path, entries, notes)
    numbers = number_ids(
        [entry["id"] for entry in valid],
        lambda value: notes.add(kinds.IMAGE_ID_NUMBERS, quoted(value)),
        lambda value: notes.add(kinds.IMAGE_ID_TEXTS, quoted(value)),
    )
    locate = _Locator(path, valid, folders, root, notes)
    sizes: dict[int, tuple[int, int]] = {}
    names: dict[int, str] = {}
    ids, paths = [], []
    for entry in valid:
        image_id = numbers[entry["id"]]
        if image_id in sizes and names[image_id] == entry["file_name"]:
            notes.add(kinds.REPEATED_IMAGES, f"image {quoted(entry['id'])}")
            continue
        if image_id in sizes:
            notes.problem(kinds.REPEATED_ID, f"{path}: image id {image_id} occurs more than once. Give unique ids.")
            continue
        file = locate(entry["file_name"])
        try:
            sizes[image_id] = _size(path, file if folders is not None or file.is_file() else None, entry, notes)
        except OutOfMemoryError:
            raise
        except SaisError as error:
            notes.problem(kinds.BAD_IMAGE, str(error))
            continue
        names[image_id] = entry["file_name"]
        ids.append(image_id)
        paths.append(file)
    return Images(tuple(ids), tuple(paths), sizes, numbers, locate.digests())


def _valid_entries(path: Path, entries: list[Any], notes: Notes) -> list[dict[str, Any]]:
    valid = []
    for position, entry in enumerate(entries):
        if not isinstance(entry, dict) or not is_id(entry.get("id")):
            text = f"{path}: not COCO: images[{position}] is an image without an 'id'. Export it as COCO instances."
            notes.problem(kinds.BAD_IMAGE, text)
        elif not is_file_name(entry.get("file_name")):
            text = f"{path}: not COCO: image {quoted(entry['id'])} lacks 'file_name'. Export it as COCO instances."
            notes.problem(kinds.BAD_IMAGE, text)
        else:
            valid.append(entry)
    return valid


def is_file_name(value: object) -> bool:
    """Return whether a file can have this name: no system takes NUL, or half of a UTF-16 pair as in ``"\\ud800"``."""
    if not isinstance(value, str) or not value or "\0" in value:
        return False
    try:
        os.fsencode(value)
    except UnicodeEncodeError:
        return False
    return True


class _Locator:
    """Finds the file of each name in the folder with most of the first images."""

    def __init__(
        self, path: Path, entries: list[Any], folders: Sequence[Path] | None, root: Path | None, notes: Notes
    ) -> None:
        self._folder, self._root, self._notes = path.parent, root, notes
        self._files: ImageFiles | None = None
        names = [entry["file_name"] for entry in entries]
        if folders is None or not names:
            return
        self._files = ImageFiles(folders, names, root)
        if not self._files.found or self._files.folder is None:
            nearest = self._files.nearest(names[0])
            hint = f"; the nearest file is {nearest}" if nearest else ""
            if self._files.leads_outside(names[0]):
                hint += f"; the data option outside_images also reads files outside of {root}"
            searched = ", ".join(str(folder) for folder in folders)
            raise InputError(
                f"{path}: its images ({names[0][:200]} ...) are not in {searched}{hint}. Give the folder of the images."
            )
        self._folder = self._files.folder

    def digests(self) -> dict[str, str]:
        """Return `ImageFiles.digests`."""
        return {} if self._files is None else self._files.digests()

    def __call__(self, name: str) -> Path:
        """Return the file of a name; the name in the folder if there is none."""
        if self._files is None:
            return self._folder / name_inside(name)
        found = self._files.find(name)
        if found is None:
            is_first = not self._notes.counts[kinds.MISSING_FILES]
            nearest = self._files.nearest(name) if is_first else None
            hint = f" (nearest file: {nearest})" if nearest else ""
            if self._files.leads_outside(name):
                hint = f" (outside of {self._root}, where only the data option outside_images reads)"
            self._notes.add(kinds.MISSING_FILES, name[:200] + hint)
            return self._folder / name_inside(name)
        file, exact = found
        if not exact:
            self._notes.add(kinds.RENAMED_FILES, f"{name} is {file.relative_to(self._folder)}")
        return file


def _size(path: Path, file: Path | None, entry: dict[str, Any], notes: Notes) -> tuple[int, int]:
    """Return (H, W) of an image as its entry states it, or else from the file, or `_UNKNOWN_SIZE` without a file."""
    height, width = entry.get("height"), entry.get("width")
    if height is None or width is None:
        if file is None:
            return _UNKNOWN_SIZE
        from sais.io.images import read_size

        size = read_size(file)
        notes.add(kinds.SIZES_READ, f"image {quoted(entry['id'])}")
        return size
    if isinstance(height, str) or isinstance(width, str):
        notes.add(kinds.NUMBER_SIZES, f"image {quoted(entry['id'])}")
        height, width = as_integer(height) or 0, as_integer(width) or 0
    if not all(isinstance(side, (int, float)) and 1 <= side < math.inf for side in (height, width)):
        height, width = entry["height"], entry["width"]
        stated = f"{quoted(width)} x {quoted(height)}"
        raise InputError(f"{path}: image {quoted(entry['id'])} has the size {stated}. Give its size in pixels.")
    problem = size_problem(int(height), int(width))
    if problem:
        raise InputError(f"{path}: image {quoted(entry['id'])} {problem}.")
    return int(height), int(width)


def _has_name(category: dict[str, Any]) -> bool:
    name = category.get("name")
    return isinstance(name, (str, int, float)) and bool(str(name).strip())


def _duplicate(ids: tuple[int, ...]) -> int:
    return next(i for i, count in Counter(ids).items() if count > 1)
