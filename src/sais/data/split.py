"""Stratified split of one COCO document into training, validation and test parts, each image with its objects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from sais.data.formats.coco_ids import Numbers, find_id, number_ids
from sais.data.stratified_draw import draw_rows
from sais.errors import InputError

Document = dict[str, Any]


def split_document(
    document: Document,
    fraction: float,
    seed: int,
    test_fraction: float = 0.0,
    groups: Mapping[int, int] | None = None,
) -> tuple[Document, ...]:
    """Split a COCO document into parts for training, validation and test; the other keys are in all of them.

    Entries of one image file are in the same part, and so are images of one group.

    Args:
        document: Document with `images`, `categories` and perhaps `annotations`, as `formats.coco` checks it.
        fraction: Fraction of the image files in the validation part, between 0 and 1; each part has at least one.
        seed: Seed of the draws.
        test_fraction: Fraction of the image files in the test part; 0 for two parts only.
        groups: Image id, as the reader numbers them -> number of its group, such as that of near-duplicates.

    Raises:
        InputError: There are fewer images, or groups of them, than parts.
    """
    groups = groups or {}
    if not test_fraction:
        return _split_in_two(document, fraction, seed, groups)
    others, test = _split_in_two(document, test_fraction, seed, groups)
    return *_split_in_two(others, fraction / (1 - test_fraction), seed, groups), test


def _split_in_two(
    document: Document, fraction: float, seed: int, groups: Mapping[int, int]
) -> tuple[Document, Document]:
    """Return the documents without and with a fraction of the image files."""
    numbers = number_ids([image["id"] for image in document["images"]], _ignore, _ignore)
    rows = list(_group_entries(document, numbers, groups).values())
    if len(rows) < 2:
        if len(document["images"]) > 1 and groups:
            raise InputError("split: all images are near-duplicates of each other. Do not keep these together.")
        raise InputError("split: fewer images than parts. Train on them without a validation split.")
    by_image = _count_objects(document, numbers)
    counts = np.stack([by_image[positions].sum(0) for positions in rows])
    if groups:  # rows have different numbers of images, of which each part gets its share as well
        counts = np.column_stack([counts, [len(positions) for positions in rows]])
    chosen = set(draw_rows(counts, fraction, seed))
    in_second = {position for row, positions in enumerate(rows) if row in chosen for position in positions}
    parts: tuple[list[Any], list[Any]] = ([], [])
    for position, image in enumerate(document["images"]):
        parts[position in in_second].append(image)
    return _select_images(document, parts[0], numbers), _select_images(document, parts[1], numbers)


def _group_entries(document: Document, numbers: Numbers, groups: Mapping[int, int]) -> dict[str | int, list[int]]:
    """Return the positions of the entries that stay together: those of a file name, and those of a group."""
    keys: dict[str, str | int] = {}  # file name -> group, or the name
    rows: dict[str | int, list[int]] = {}
    for position, image in enumerate(document["images"]):
        name = str(image.get("file_name", position)).replace("\\", "/")
        key = keys.setdefault(name, groups.get(numbers[image["id"]], name))
        rows.setdefault(key, []).append(position)
    return rows


def _count_objects(document: Document, numbers: Numbers) -> np.ndarray:
    """Return the number of objects of each category in each image, (images, categories) int64."""
    categories = number_ids([category["id"] for category in document["categories"]], _ignore, _ignore)
    rows = {numbers[image["id"]]: row for row, image in enumerate(document["images"])}
    columns = {categories[category["id"]]: column for column, category in enumerate(document["categories"])}
    counts = np.zeros((len(rows), len(columns)), dtype=np.int64)
    pairs = Counter((item["image_id"], item["category_id"]) for item in document.get("annotations", []))
    for (image, category), count in pairs.items():
        image_id, category_id = find_id(numbers, image), find_id(categories, category)
        if image_id is not None and category_id is not None:
            counts[rows[image_id], columns[category_id]] += count
    return counts


def _select_images(document: Document, images: list[Any], numbers: Numbers) -> Document:
    ids = {numbers[image["id"]] for image in images}
    part = document | {"images": images}
    if "annotations" in document:
        part["annotations"] = [item for item in document["annotations"] if find_id(numbers, item["image_id"]) in ids]
    return part


def _ignore(value: Any) -> None:
    """Ignore a note about an id."""
