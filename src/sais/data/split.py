"""One COCO file into two: images to train on and images to measure on, each with its objects."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from sais.errors import SaisError

TRIES = 100
"""Ways to draw the images, of which the one is taken that shares out every class best."""

Document = dict[str, Any]


def split_document(document: Document, share: float, seed: int) -> tuple[Document, Document]:
    """The training and the validation part of a COCO document. All categories and everything else stay in both.

    Args:
        document: with `images`, `categories` and perhaps `annotations`, as `formats.coco` checks it.
        share: of the images that the validation part gets, between 0 and 1; each part has at least one.
        seed: the same one draws the same images.

    Raises:
        SaisError: there is but one image.
    """
    images = document["images"]
    if len(images) < 2:
        raise SaisError("one image cannot be split; train on it with --valid-split ''")
    counts = _objects(document)
    wanted = share * counts.sum(0)
    number = min(max(1, round(share * len(images))), len(images) - 1)
    random = np.random.default_rng(seed)
    drawn = [np.sort(random.permutation(len(images))[:number]) for _ in range(TRIES)]
    errors = [float((np.abs(counts[one].sum(0) - wanted) / np.maximum(wanted, 1)).sum()) for one in drawn]
    valid = set(drawn[int(np.argmin(errors))].tolist())
    parts: tuple[list[Any], list[Any]] = ([], [])
    for position, image in enumerate(images):
        parts[position in valid].append(image)
    return _part(document, parts[0]), _part(document, parts[1])


def _objects(document: Document) -> np.ndarray:
    """(images, categories): how many objects of each category an image has."""
    rows = {image["id"]: row for row, image in enumerate(document["images"])}
    columns = {category["id"]: column for column, category in enumerate(document["categories"])}
    counts = np.zeros((len(rows), len(columns)), dtype=np.int64)
    pairs = Counter((one["image_id"], one["category_id"]) for one in document.get("annotations", []))
    for (image, category), count in pairs.items():
        counts[rows[image], columns[category]] = count
    return counts


def _part(document: Document, images: list[Any]) -> Document:
    ids = {image["id"] for image in images}
    part = document | {"images": images}
    if "annotations" in document:
        part["annotations"] = [one for one in document["annotations"] if one["image_id"] in ids]
    return part
