"""Stratified split of one COCO document into a training and a validation part, each image with its objects."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from sais.errors import InputError

DRAWS = 100
"""Number of random draws, of which the one with the most even class distribution is used."""

Document = dict[str, Any]


def split_document(document: Document, fraction: float, seed: int) -> tuple[Document, Document]:
    """Split a COCO document into a training and a validation part; everything but images and annotations is in both.

    Args:
        document: Document with `images`, `categories` and perhaps `annotations`, as `formats.coco` checks it.
        fraction: Fraction of the images in the validation part, between 0 and 1; each part has at least one image.
        seed: Seed of the draws.

    Raises:
        InputError: There is only one image.
    """
    images = document["images"]
    if len(images) < 2:
        raise InputError("split: one image cannot be split. Train on it without a validation split.")
    counts = _count_objects(document)
    target = fraction * counts.sum(0)
    valid_count = min(max(1, round(fraction * len(images))), len(images) - 1)
    random = np.random.default_rng(seed)
    draws = [np.sort(random.permutation(len(images))[:valid_count]) for _ in range(DRAWS)]
    errors = [float((np.abs(counts[draw].sum(0) - target) / np.maximum(target, 1)).sum()) for draw in draws]
    valid = set(draws[int(np.argmin(errors))].tolist())
    parts: tuple[list[Any], list[Any]] = ([], [])
    for position, image in enumerate(images):
        parts[position in valid].append(image)
    return _select_images(document, parts[0]), _select_images(document, parts[1])


def _count_objects(document: Document) -> np.ndarray:
    """Return the number of objects of each category in each image, (images, categories) int64."""
    rows = {image["id"]: row for row, image in enumerate(document["images"])}
    columns = {category["id"]: column for column, category in enumerate(document["categories"])}
    counts = np.zeros((len(rows), len(columns)), dtype=np.int64)
    pairs = Counter((item["image_id"], item["category_id"]) for item in document.get("annotations", []))
    for (image, category), count in pairs.items():
        counts[rows[image], columns[category]] = count
    return counts


def _select_images(document: Document, images: list[Any]) -> Document:
    ids = {image["id"] for image in images}
    part = document | {"images": images}
    if "annotations" in document:
        part["annotations"] = [item for item in document["annotations"] if item["image_id"] in ids]
    return part
