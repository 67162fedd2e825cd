"""Random choice of a fraction of rows, such as images, so that every class keeps its share."""

from __future__ import annotations

import numpy as np

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
