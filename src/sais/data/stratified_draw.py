"""Random choice of a fraction of rows, such as images, so that every class keeps its share."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from sais.data.packed_annotations import object_columns

if TYPE_CHECKING:
    from sais.data.annotations import DatasetSplit

DRAWS = 100
"""Number of random draws, of which the one with the most even class distribution is used."""


def draw_rows(counts: np.ndarray, fraction: float, seed: int) -> list[int]:
    """Return the rows of a random fraction, in ascending order; at least one row is chosen and one is not.

    Args:
        counts: (R, C) number of objects of each class in each of at least two rows.
        fraction: Fraction of the rows to choose, between 0 and 1.
        seed: Seed of the draws.
    """
    target = fraction * counts.sum(0)
    chosen_count = min(max(1, round(fraction * len(counts))), len(counts) - 1)
    random = np.random.default_rng(seed)
    draws = [np.sort(random.permutation(len(counts))[:chosen_count]) for _ in range(DRAWS)]
    errors = [float((np.abs(counts[draw].sum(0) - target) / np.maximum(target, 1)).sum()) for draw in draws]
    return list(draws[int(np.argmin(errors))].tolist())


def draw_images(split: DatasetSplit, max_images: int | None, seed: int) -> DatasetSplit:
    """Return a split with at most a number of its images, in its order, so that every class keeps its share.

    Args:
        split: The split.
        max_images: Maximum number of images, at least 1; None for all.
        seed: Seed of the draws.
    """
    if max_images is None or len(split.images) <= max_images:
        return split
    chosen = draw_rows(class_counts(split), max_images / len(split.images), seed)
    return replace(split, images=tuple(split.images[row] for row in chosen))


def class_counts(split: DatasetSplit) -> np.ndarray:
    """Return the number of objects of each of C classes in each of N images, (N, C) int64."""
    counts = np.zeros((len(split.images), len(split.class_names)), np.int64)
    objects = object_columns(split.images)
    np.add.at(counts, (objects.images, objects.labels), 1)
    return counts
